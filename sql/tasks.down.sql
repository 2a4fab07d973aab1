-- session_lock: takes away what a mapping added, after its last Runner has stopped. The rows of the table stay; who
-- held what, the attempts and the schedule (available_at) are lost with the columns. A table that the library ships has a
-- file of its own, which runs before this one and takes the table away.

DROP FUNCTION IF EXISTS session_lock.why__set__(__key_type__, boolean);
DROP FUNCTION IF EXISTS session_lock.shares__set__();
DROP FUNCTION IF EXISTS session_lock.backlog__set__(bigint);
DROP FUNCTION IF EXISTS session_lock.retry_tasks__set__(__key_type__[]);
DROP FUNCTION IF EXISTS session_lock.cancel_task__set__(__key_type__);
DROP FUNCTION IF EXISTS session_lock.end_session__set__(bigint, uuid, __key_type__[], bigint[]);
DROP FUNCTION IF EXISTS session_lock.release_tasks__set__(bigint, uuid, __key_type__[], bigint[], double precision[], boolean[], boolean[], text[], boolean);
DROP FUNCTION IF EXISTS session_lock.finish_in__set__(bigint, uuid, __key_type__[], bigint[]);
DROP FUNCTION IF EXISTS session_lock.finish_tasks__set__(bigint, uuid, __key_type__[], bigint[]);
DROP FUNCTION IF EXISTS session_lock.get_work__set__(bigint, uuid, integer, __key_type__[], text, text, boolean, integer, __key_type__[], bigint[]);
DROP FUNCTION IF EXISTS session_lock.standing__set__(bigint, __key_type__[], bigint[]);

-- All of it is instant once the lock is there.
DO $function$
BEGIN
  IF to_regclass(__table_text__) IS NOT NULL THEN
    LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
    DROP TRIGGER IF EXISTS __wake_trigger__ ON __table__;
    DROP INDEX IF EXISTS __index_qualified__;
    DROP INDEX IF EXISTS __due_index_qualified__;
    ALTER TABLE __table__
      DROP COLUMN IF EXISTS __session_id__,
      DROP COLUMN IF EXISTS __claim_token__,
      DROP COLUMN IF EXISTS __attempts__,
      DROP COLUMN IF EXISTS __available_at__;
  END IF;
END
$function$;
