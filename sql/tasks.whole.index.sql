-- session_lock: an index of a partitioned table as a whole. Run it when it has been built in each partition: those are taken as
-- its parts, so nothing is read, and writers wait for an instant. A partition that has none, since it was made meanwhile, gets
-- it here; later ones get it from PostgreSQL. Running it again changes nothing.

DO $function$
DECLARE
  v_index text;
BEGIN
  IF to_regclass('__whole_literal__') IS NOT NULL THEN
    RETURN;
  END IF;
  -- A part whose build has failed would be taken too, and the whole be invalid with it.
  SELECT i.indexrelid::regclass INTO v_index
    FROM pg_partition_tree(to_regclass('__table_literal__')) AS p
    JOIN pg_catalog.pg_index AS i ON i.indrelid = p.relid
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
   WHERE NOT i.indisvalid AND NOT c.relispartition AND pg_catalog.starts_with(c.relname, '__whole_prefix__')
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'the index % is invalid: its build has failed', v_index
      USING HINT = pg_catalog.format('DROP INDEX CONCURRENTLY %s, and run what builds it again', v_index);
  END IF;

  LOCK TABLE __table__ IN SHARE MODE;
  CREATE INDEX IF NOT EXISTS __whole_index__ ON __table__ (__whole_columns__) WHERE __whole_rows__;
END
$function$;
