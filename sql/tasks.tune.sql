-- session_lock: storage parameters for the table of __title__, each of whose rows is written twice more: claimed, and finished.
-- On request only. What somebody has set on the table, or on the server to this effect or more, stays as it is. It holds from
-- then on and rewrites nothing, and readers and writers do not notice it. Run it again for new partitions, which get none of this
-- from PostgreSQL. `session-lock sql tune --down` prints the way back.

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
    SELECT c.oid::regclass, string_agg(format('%I = %s', advised.name, advised.value), ', ')
      FROM pg_catalog.pg_class AS c
     CROSS JOIN (VALUES
             ('fillfactor', '50'),  -- room in a new page for the claims of its rows, which then write no index (HOT)
             ('autovacuum_vacuum_scale_factor', '0.05'),  -- of its rows; while less than 2 % of the pages have dead rows, VACUUM passes over the indexes
             ('autovacuum_vacuum_cost_delay', '1')  -- ms, of its own: not shared with the vacuums of other tables
           ) AS advised (name, value)
      LEFT JOIN pg_catalog.pg_settings AS server ON server.name = advised.name
     WHERE c.relkind = 'r'
       AND c.oid IN (SELECT to_regclass(__table_text__)::oid
                      UNION ALL SELECT p.relid FROM pg_partition_tree(to_regclass(__table_text__)) AS p)
       AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o WHERE o.option_name = advised.name)
       AND coalesce(server.setting, '100')::numeric > advised.value::numeric
     GROUP BY c.oid
     ORDER BY c.oid
  LOOP
    EXECUTE format('ALTER TABLE %s SET (%s)', v_table, v_parameters);
  END LOOP;
  PERFORM set_config('lock_timeout', v_before, true);
  PERFORM set_config('search_path', v_path, true);
END
$function$;
