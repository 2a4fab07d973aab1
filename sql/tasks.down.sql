-- session_lock: takes away what a mapping added, in all of its versions, after its last Runner has stopped. The rows of the
-- table stay; who held what, the attempts and the schedule (available_at) are lost with the columns. A table that the library ships has a
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

-- All of it is instant once the lock is there. Other versions of the mapping, of its name and over its table, would be of no use without
-- the columns: they are found by their functions, whatever this version is called, and whether it is there or not.
DO $function$
DECLARE
  v_path   text := pg_catalog.current_setting('search_path');
  v_title  text := $name$'__title__'::text$name$;  -- as they stand in the functions
  v_update text := $name$UPDATE __table__ AS t$name$;
  v_hashes text;
  v_each   text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);  -- others may have made a function, or an operator, that fits better
  IF to_regclass(__table_text__) IS NOT NULL THEN
    LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
  END IF;
  v_hashes := array_to_string('__set_hash__'::text || ARRAY(
    SELECT right(p.proname, 8)
      FROM pg_proc AS own JOIN pg_proc AS p ON p.pronamespace = own.pronamespace
     WHERE own.oid = to_regproc($name$session_lock.clock$name$) AND p.proname ~ ('^finish_tasks' || left('__set__', -8) || '[0-9a-f]{8}$')
       AND position(v_update IN p.prosrc) > 0 AND position(v_title IN p.prosrc) > 0), '|');
  FOREACH v_each IN ARRAY ARRAY(
    SELECT p.oid::regprocedure::text
      FROM pg_proc AS own JOIN pg_proc AS p ON p.pronamespace = own.pronamespace
     WHERE own.oid = to_regproc($name$session_lock.clock$name$)
       AND p.proname ~ ('^[a-z_]+(_v[0-9]+)?' || left('__set__', -8) || '(' || v_hashes || ')(_v[0-9]+)?$'))
  LOOP
    EXECUTE 'DROP FUNCTION ' || v_each;
  END LOOP;
  IF to_regclass(__table_text__) IS NOT NULL THEN
    DROP TRIGGER IF EXISTS __wake_trigger__ ON __table__;
    -- Those of the versions that were found, their parts beside partitions, and what a prune has left that was interrupted.
    FOREACH v_each IN ARRAY ARRAY(
      SELECT i.indexrelid::regclass::text
        FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
       WHERE NOT x.relispartition
         AND i.indrelid IN (SELECT to_regclass(__table_text__)::oid UNION ALL SELECT t.relid FROM pg_partition_tree(to_regclass(__table_text__)) AS t)
         AND (x.relname ~ ('^(pending|due|values|held)(' || left('__set__', -8) || '|_)(' || v_hashes || ')(_|$)')
              OR x.relname ~ ('^(pending|due|values|held)' || left('__set__', -8) || '[0-9a-f]{8}$')
                 AND (NOT i.indisvalid OR NOT starts_with(x.relname, 'pending_'))
                 AND NOT EXISTS (SELECT FROM pg_proc AS p WHERE right(p.proname, 8) = right(x.relname, 8))))
    LOOP
      EXECUTE 'DROP INDEX ' || v_each;
    END LOOP;
    ALTER TABLE __table__
      DROP COLUMN IF EXISTS __session_id__,
      DROP COLUMN IF EXISTS __claim_token__,
      DROP COLUMN IF EXISTS __attempts__,
      DROP COLUMN IF EXISTS __available_at__;
    -- Another version may have called its columns otherwise. Their comments say whose they are.
    FOREACH v_each IN ARRAY ARRAY(
      SELECT quote_ident(a.attname)
        FROM pg_attribute AS a
       WHERE a.attrelid = to_regclass(__table_text__) AND a.attnum > 0 AND NOT a.attisdropped
         AND starts_with(col_description(a.attrelid, a.attnum), '__mark__: ')
         -- which may be of one of this name that is installed in another schema, too
         AND NOT EXISTS (SELECT FROM pg_proc AS p
                          WHERE p.proname ~ '^finish_tasks' AND position(v_update IN p.prosrc) > 0 AND position(v_title IN p.prosrc) > 0))
    LOOP
      EXECUTE format('ALTER TABLE %s DROP COLUMN %s', to_regclass(__table_text__), v_each);
    END LOOP;
  END IF;
  PERFORM set_config('search_path', v_path, true);
END
$function$;
