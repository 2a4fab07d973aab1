-- session_lock: what a service's role needs and no more: no right on the session table or the task table, so nobody
-- can touch a session without its nonce. (Rights on what the tasker itself writes are the service's own.) Another role
-- that inserts tasks, and wakes the Runners for them, needs USAGE and wake alone.

GRANT USAGE ON SCHEMA session_lock TO __role__;
GRANT EXECUTE ON FUNCTION
  session_lock.schema_version(),
  session_lock.start_session(text, text, integer, double precision, text, text, text),
  session_lock.bump_session(bigint, uuid, double precision, boolean, integer),
  session_lock.wake(text, boolean),
  session_lock.get_work__set__(bigint, uuid, integer, __key_type__[], text, text, boolean, integer, __key_type__[], bigint[]),
  session_lock.finish_tasks__set__(bigint, uuid, __key_type__[], bigint[]),
  session_lock.finish_in__set__(bigint, uuid, __key_type__[], bigint[]),
  session_lock.release_tasks__set__(bigint, uuid, __key_type__[], bigint[], double precision[], boolean[], boolean[], text[], boolean),
  session_lock.end_session__set__(bigint, uuid, __key_type__[], bigint[]),
  session_lock.cancel_task__set__(__key_type__),
  session_lock.retry_tasks__set__(__key_type__[]),
  session_lock.backlog__set__(bigint),
  session_lock.shares__set__(),
  session_lock.why__set__(__key_type__, boolean)
TO __role__;
