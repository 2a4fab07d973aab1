-- session_lock: takes back what tasks.tune.sql has set on the table of __title__: those of its parameters that have
-- the value which that file gives them. It is the table's affair, not the mapping's, so `session-lock sql down` leaves it alone.

SET lock_timeout = '5s';

DO $function$
DECLARE
  v_table      text;
  v_parameters text;
BEGIN
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
END
$function$;

RESET lock_timeout;
