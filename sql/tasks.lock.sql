-- session_lock: takes the lock on the task table that a change of it needs, until the transaction ends. Whoever waits for such
-- a lock makes all wait who come after, readers too. So this waits for 50 ms, leaves, and comes back a little later, for up to
-- 3 minutes, or as long as `SET session_lock.patience = '10 min'` says. Then it gives up, and nothing has changed. Where a
-- statement may not take so long, it gives up before it is cut off, and says so.
-- In the files that change a table this stands, when they are printed, in place of their LOCK TABLE; of several tables it has
-- all, or none.

DO $function$
BEGIN
  DECLARE
    v_path     text := current_setting('search_path');
    v_before   text := current_setting('lock_timeout');
    v_mode     text := 'ACCESS EXCLUSIVE';
    v_patience interval := coalesce(nullif(current_setting('session_lock' || '.patience', true), ''), '3 min');  -- whatever the schema's name is
    v_waited   interval := '0';  -- counted, not measured
    v_tries    integer := 0;
    v_names    text[] := ARRAY[__table_text__];
    v_name     text;
    v_tables   oid[];  -- with their partitions
    v_table    oid;
    v_first    integer;  -- ms
    v_longest  interval;
    v_begun    timestamptz;
    v_left     integer;
    v_wait     integer;
    v_pause    interval;
    v_builder  integer;
    v_user     text;
  BEGIN
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);  -- others may have made a function, or an operator, that fits better
    v_names := ARRAY(SELECT n.name FROM unnest(v_names) WITH ORDINALITY AS n (name, position) WHERE to_regclass(n.name) IS NOT NULL ORDER BY n.position);
    v_tables := ARRAY(SELECT to_regclass(n.name)::oid FROM unnest(v_names) AS n (name)
                       UNION SELECT p.relid::oid FROM unnest(v_names) AS n (name), pg_partition_tree(to_regclass(n.name)) AS p);
    v_first := CASE WHEN cardinality(v_tables) > cardinality(v_names) THEN 25 ELSE 50 END;
    v_longest := (SELECT min(s.setting::integer) * interval '0.7 ms'
                    FROM pg_catalog.pg_settings AS s
                   WHERE s.name IN ('statement_timeout', 'transaction_timeout') AND s.setting <> '0');
    LOOP
      v_tries := v_tries + 1;
      v_wait := 50;
      BEGIN
        -- A vacuum may take hours, but an automatic one gives way to who has waited for `deadlock_timeout`: that is done in a mode
        -- which is in the way of nobody who reads or writes. One that has to prevent a wraparound does not give way.
        IF EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                     JOIN pg_catalog.pg_database AS d ON d.oid = l.database AND d.datname = current_database()
                    WHERE l.relation = ANY (v_tables) AND l.granted
                      AND (l.pid IN (SELECT v.pid FROM pg_catalog.pg_stat_progress_vacuum AS v)
                           OR l.pid IN (SELECT a.pid FROM pg_catalog.pg_stat_progress_analyze AS a))) THEN
          v_wait := (SELECT s.setting::integer + 500 FROM pg_catalog.pg_settings AS s WHERE s.name = 'deadlock_timeout');
          PERFORM set_config('lock_timeout', v_wait::text, true);
          FOREACH v_name IN ARRAY v_names LOOP
            EXECUTE 'LOCK TABLE ' || v_name || ' IN SHARE UPDATE EXCLUSIVE MODE';
          END LOOP;
        END IF;
        -- The 50 ms are those of all tables: what is had already is kept from others while the next one is waited for. Half of it is for
        -- the whole of a partitioned table, where who has not begun waits, and half for its parts.
        FOR v_depth IN 0..1 LOOP
          v_begun := clock_timestamp();
          FOR v_name, v_table IN
            SELECT n.name, p.relid
              FROM unnest(v_names) WITH ORDINALITY AS n (name, position)
             CROSS JOIN LATERAL (SELECT to_regclass(n.name), 0
                                  UNION ALL SELECT t.relid, t.level FROM pg_partition_tree(to_regclass(n.name)) AS t WHERE t.level > 0) AS p (relid, level)
             WHERE least(p.level, 1) = v_depth
             ORDER BY n.position, p.level, p.relid
          LOOP
            v_left := v_first - greatest(0, extract(epoch FROM clock_timestamp() - v_begun) * 1000);
            PERFORM set_config('lock_timeout', greatest(v_left, 1)::text, true);
            EXECUTE 'LOCK TABLE ONLY ' || v_table::regclass || ' IN ' || v_mode || ' MODE' || CASE WHEN v_left < 1 THEN ' NOWAIT' ELSE '' END;
          END LOOP;
        END LOOP;
        FOREACH v_name IN ARRAY v_names LOOP
          EXECUTE 'LOCK TABLE ' || v_name || ' IN ' || v_mode || ' MODE NOWAIT';  -- also a partition that has come meanwhile
        END LOOP;
        PERFORM set_config('lock_timeout', v_before, true);
        PERFORM set_config('search_path', v_path, true);
        EXIT;
      EXCEPTION WHEN lock_not_available THEN
        -- A concurrent build of an index waits at its end for all who have an old snapshot, so for us.
        SELECT l.pid INTO v_builder
          FROM pg_catalog.pg_locks AS l
          JOIN pg_catalog.pg_database AS d ON d.oid = l.database AND d.datname = current_database()
          JOIN pg_catalog.pg_stat_progress_create_index AS i ON i.pid = l.pid
         WHERE l.relation = ANY (v_tables) AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
         LIMIT 1;
        IF FOUND THEN
          RAISE EXCEPTION USING
            ERRCODE = 'lock_not_available',
            MESSAGE = format('the server process %s builds an index of %s concurrently, and would wait for us at its end: the table was not changed; run this again when it has ended', v_builder, v_name);
        END IF;
        IF v_waited >= least(v_patience, v_longest) THEN
          SELECT CASE WHEN l.pid IS NULL THEN 'a prepared one (pg_prepared_xacts)' ELSE 'that of the server process ' || l.pid END INTO v_user
            FROM pg_catalog.pg_locks AS l
            JOIN pg_catalog.pg_database AS d ON d.oid = l.database AND d.datname = current_database()
            LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
           WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
             AND l.relation IN (SELECT to_regclass(v_name)::oid UNION ALL SELECT p.relid FROM pg_partition_tree(to_regclass(v_name)) AS p)
             AND (v_mode LIKE 'ACCESS %' OR l.mode NOT IN ('AccessShareLock', 'RowShareLock'))
           ORDER BY l.pid IS NOT NULL, a.xact_start, l.pid
           LIMIT 1;
          RAISE EXCEPTION USING
            ERRCODE = 'lock_not_available',
            MESSAGE = format('%s was in use by other transactions at each of %s attempts in %s s%s%s: the table was not changed; wait for their end, and run this again',
                             v_name, v_tries, round(extract(epoch FROM v_waited)),
                             CASE WHEN v_longest < v_patience THEN ' (statement_timeout or transaction_timeout leave no more)' END,
                             ', at last by ' || v_user);
        END IF;
      END;
      v_pause := least(1, 0.1 * v_tries) * (0.5 + random() / 2) * interval '1 s';
      v_waited := v_waited + v_pause + v_wait * interval '1 ms';
      PERFORM pg_sleep(extract(epoch FROM v_pause));  -- and holds no lock meanwhile
    END LOOP;
  END;
END
$function$;
