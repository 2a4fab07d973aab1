-- session_lock: how tasks are put into the ready-made table __title__. Run at every deploy, before the new code starts.

-- Adds tasks in the caller's transaction. The arrays run side by side, one element for each task:
--   p_payloads      the tasks' data
--   p_priorities    the smaller the sooner
--   p_after         seconds from now before which it is not claimed; NULL: see p_available_at
--   p_available_at  the time before which it is not claimed; NULL: at once
--   p_dedup_keys    while a task of this key is pending no other is added; NULL: no such key
--   p_traceparents  W3C trace context; NULL: none
-- Returns, in the same order, the key of each task; where it is a duplicate, that of the one that is pending already. A duplicate
-- is no error, and nobody waits but for a transaction that adds, or finishes, a task of the same dedup key. Runners that have
-- room are woken.
CREATE OR REPLACE FUNCTION session_lock.enqueue__set__(
  p_payloads jsonb[], p_priorities smallint[], p_after double precision[], p_available_at timestamptz[],
  p_dedup_keys text[], p_traceparents text[]
) RETURNS TABLE (task_key bigint, duplicate boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  clock  timestamptz := session_lock.clock();
  ids    bigint[] := ARRAY(  -- drawn before the rows are sorted, so that keys follow the order in which tasks were given
    SELECT nextval(pg_get_serial_sequence(__table_text__, 'id')) FROM generate_series(1, cardinality(p_payloads))
  );
  keys   bigint[];
  rounds integer := 0;
BEGIN
  LOOP
    -- By dedup_key, lest two callers with the same keys wait for each other for ever.
    INSERT INTO __table__ (id, payload, priority, __available_at__, dedup_key, traceparent, created_at)
    SELECT task.id, task.payload, task.priority,
           coalesce(my.clock + make_interval(secs => task.after), task.available_at, my.clock),
           task.dedup_key, task.traceparent, my.clock
      FROM unnest(my.ids, p_payloads, p_priorities, p_after, p_available_at, p_dedup_keys, p_traceparents, my.keys)
           WITH ORDINALITY AS task (id, payload, priority, after, available_at, dedup_key, traceparent, key, position)
     WHERE task.key IS NULL
     ORDER BY task.dedup_key, task.position
    ON CONFLICT (dedup_key) WHERE dedup_key IS NOT NULL AND finished_at IS NULL AND discarded_at IS NULL DO NOTHING;

    -- What was not inserted has a pending twin, seen by this later statement; or it had one, which was finished just now.
    my.keys := ARRAY(
      SELECT CASE WHEN task.dedup_key IS NULL THEN task.id ELSE coalesce(
               task.key,
               (SELECT t.id FROM __table__ AS t WHERE t.id = task.id),
               (SELECT t.id FROM __table__ AS t
                 WHERE t.dedup_key = task.dedup_key AND t.finished_at IS NULL AND t.discarded_at IS NULL)) END
        FROM unnest(my.ids, p_dedup_keys, my.keys) WITH ORDINALITY AS task (id, dedup_key, key, position)
       ORDER BY task.position
    );
    EXIT WHEN array_position(my.keys, NULL) IS NULL;
    my.rounds := my.rounds + 1;
    IF my.rounds = 100 THEN
      RAISE EXCEPTION 'tasks of __title__ are neither added nor duplicates: does a trigger of the table keep them out?';
    END IF;
  END LOOP;

  IF my.keys && my.ids THEN
    PERFORM session_lock.wake(__name__, true);
  END IF;
  RETURN QUERY
  SELECT task.key, task.key <> task.id
    FROM unnest(my.ids, my.keys) WITH ORDINALITY AS task (id, key, position)
   ORDER BY task.position;
END
$function$;

-- The first half of adding many tasks by COPY: draws their keys and works out their times, in the order of the arrays. COPY
-- knows no duplicates, so this is for tasks without a dedup key.
CREATE OR REPLACE FUNCTION session_lock.enqueue_keys__set__(p_after double precision[], p_available_at timestamptz[])
RETURNS TABLE (task_key bigint, available_at text, created_at text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  WITH moment AS MATERIALIZED (
    SELECT session_lock.clock() AS now, 'YYYY-MM-DD HH24:MI:SS.US+00' AS form
  )
  SELECT nextval(pg_get_serial_sequence(__table_text__, 'id')),
         to_char(coalesce(m.now + make_interval(secs => task.after), task.available_at, m.now) AT TIME ZONE 'UTC', m.form),
         to_char(m.now AT TIME ZONE 'UTC', m.form)
    FROM unnest(p_after, p_available_at) AS task (after, available_at), moment AS m
$function$;

REVOKE ALL ON FUNCTION
  session_lock.enqueue__set__(jsonb[], smallint[], double precision[], timestamptz[], text[], text[]),
  session_lock.enqueue_keys__set__(double precision[], timestamptz[])
FROM PUBLIC;
