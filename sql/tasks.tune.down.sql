-- session_lock: takes back what tasks.tune.sql has set on the table of __title__: those of its parameters that have
-- the value which that file gives them. It is the table's affair, not the mapping's, so `session-lock sql down` leaves it alone.

DO $function$
DECLARE
  v_path       text := pg_catalog.current_setting('search_path');
  v_before     text := pg_catalog.current_setting('lock_timeout');
  v_table      text;
  v_parameters text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);  -- others may have made a function, or an operator, that fits better
  PERFORM set_config('lock_timeout', '5s', true);  -- it waits for other changes of the table, and no reader or writer for it
  FOR v_table, v_parameters IN
    SELECT c.oid::regclass, string_agg(quote_ident(o.option_name), ', ')
      FROM pg_catalog.pg_class AS c
     CROSS JOIN pg_options_to_table(c.reloptions) AS o
      JOIN (VALUES ('fillfactor', '50'), ('autovacuum_vacuum_scale_factor', '0.05'), ('autovacuum_vacuum_cost_delay', '1')) AS advised (name, value)
        ON (o.option_name, o.option_value) = (advised.name, advised.value)
     WHERE c.relkind = 'r'
       AND c.oid IN (SELECT to_regclass(__table_text__)::oid
                      UNION ALL SELECT p.relid FROM pg_partition_tree(to_regclass(__table_text__)) AS p)
     GROUP BY c.oid
     ORDER BY c.oid
  LOOP
    EXECUTE format('ALTER TABLE %s RESET (%s)', v_table, v_parameters);
  END LOOP;
  PERFORM set_config('lock_timeout', v_before, true);
  PERFORM set_config('search_path', v_path, true);
END
$function$;
