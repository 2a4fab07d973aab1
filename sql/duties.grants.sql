-- session_lock: what a service's role needs for duties, besides what it needs for any mapping.

GRANT EXECUTE ON FUNCTION
  session_lock.plan_duties(bigint, uuid, bigint, text[], text[], timestamptz[], boolean[], text[], timestamptz[])
TO __role__;
