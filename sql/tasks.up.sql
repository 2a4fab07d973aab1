-- session_lock: the four columns of a claim on the task table. Run once; running it again changes nothing, and takes no lock.
-- Words between double underscores are holes: `session-lock sql up` prints this file with a mapping's own names in them.
--
-- The statement is instant also on a large table (no default is volatile), but it needs ACCESS EXCLUSIVE for that
-- instant, which is taken as in tasks.lock.sql: nobody waits behind it for longer.
-- Every task is written twice (claimed, finished): room in the pages makes both updates cheap. Advised, not done here:
-- `session-lock sql tune`.

DO $function$
DECLARE
  -- A concurrent build that failed leaves an invalid index behind, which costs writes and serves nobody. In a partitioned
  -- table also the parts of an index are built so.
  v_invalid oid[] := ARRAY(
    SELECT i.indexrelid
      FROM unnest(ARRAY['__index_literal__', '__due_index_literal__', '__values_index_literal__', '__held_index_literal__']) AS name
      JOIN pg_catalog.pg_index AS i ON i.indexrelid = to_regclass(name)
     WHERE NOT i.indisvalid
     UNION ALL
    SELECT i.indexrelid
      FROM pg_partition_tree(to_regclass('__table_literal__')) AS p
      JOIN pg_catalog.pg_index AS i ON i.indrelid = p.relid
      JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
     WHERE NOT i.indisvalid AND NOT c.relispartition AND c.relname ~ '^(pending|due|values|held)___set_hash___');
  v_index   text;
BEGIN
  IF v_invalid = '{}'
     AND 4 = (SELECT count(*)
                FROM pg_catalog.pg_attribute AS a
               WHERE a.attrelid = to_regclass('__table_literal__') AND NOT a.attisdropped
                 AND a.attname IN ('__session_id_literal__', '__claim_token_literal__', '__attempts_literal__', '__available_at_literal__')
                 AND pg_catalog.starts_with(pg_catalog.col_description(a.attrelid, a.attnum), '__mark__: ')) THEN
    RETURN;
  END IF;

  LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
  ALTER TABLE __table__
    ADD COLUMN IF NOT EXISTS __session_id__ bigint,
    ADD COLUMN IF NOT EXISTS __claim_token__ bigint,
    ADD COLUMN IF NOT EXISTS __attempts__ integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS __available_at__ timestamptz NOT NULL DEFAULT now();
  COMMENT ON COLUMN __table__.__session_id__ IS '__mark__: the session that holds this task';
  COMMENT ON COLUMN __table__.__claim_token__ IS '__mark__: counts the claims of this task; never reset (fencing token)';
  COMMENT ON COLUMN __table__.__attempts__ IS '__mark__: how often this task was claimed, less what was given back';
  COMMENT ON COLUMN __table__.__available_at__ IS '__mark__: not claimed before; infinity is parked';
  FOR v_index IN
    SELECT i.indexrelid::regclass
      FROM pg_catalog.pg_index AS i
     WHERE i.indexrelid = ANY (v_invalid) AND NOT i.indisvalid  -- still, under the lock
  LOOP
    EXECUTE 'DROP INDEX ' || v_index;
  END LOOP;
END
$function$;
