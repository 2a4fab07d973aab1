-- session_lock: takes away what the limits of a mapping added. Run it before tasks.down.sql.

DROP FUNCTION IF EXISTS session_lock.pick__set__(bigint, integer, __key_type__[], bigint[], timestamptz, text, boolean, numeric[]);
DROP FUNCTION IF EXISTS session_lock.possible__set__(bigint, timestamptz, numeric[]);

DO $function$
BEGIN
  IF to_regclass(__table_text__) IS NOT NULL THEN
    LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
    DROP INDEX IF EXISTS __values_index_qualified__;
    DROP INDEX IF EXISTS __held_index_qualified__;
  END IF;
END
$function$;
