-- session_lock: the functions that plan duties. Run at every deploy, before the new code starts: CREATE OR REPLACE only.
-- When a duty is due is worked out by its instances, all alike; here they agree on whose schedule counts and what is planned.
--
-- Lock order: the own session's row (FOR KEY SHARE), the duties' rows in the order of their names, then runs. A run is given to
-- sessions alone that have declared its duty (get_work sees to that). One that was never begun is pending and was never claimed. Whoever
-- claims one at the same time is waited for, and it counts as begun then.

-- Declares the duties of a session, and plans some of them. The arrays run side by side:
--   p_names, p_schedules   what the session declares; p_rank: the id of the first session of the same process
--   p_last, p_lapsed       what an earlier answer said; the plan is carried out only if both still hold. p_lapsed NULL: no plan
-- The plan is p_due_names, p_due: the due times that shall have a run. After a lapse it also says which of the unbegun
-- runs stay that fell due when nobody was there; the others were missed, and are taken away.
--
-- Returns for each duty: in_force (this schedule counts now), lapsed (no live session was there to see what fell due
-- before this one), since (from when on the schedule counts; if something is planned by it and it has lapsed: from when on nobody
-- was there), last_due (its last due time that is planned), unbegun (due times of runs that are due and were never begun, the
-- latest first, at most 101), at (the time of this answer).
CREATE OR REPLACE FUNCTION session_lock.plan_duties(
  p_id bigint, p_nonce uuid, p_rank bigint, p_names text[], p_schedules text[],
  p_last timestamptz[], p_lapsed boolean[], p_due_names text[], p_due timestamptz[]
) RETURNS TABLE (
  name text, in_force boolean, lapsed boolean, since timestamptz, last_due timestamptz, unbegun timestamptz[], at timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  mapping  text;
  clock    timestamptz;
  rank     bigint := least(p_rank, p_id);
  given    record;
  duty     record;
  watched  boolean;
  unseen   timestamptz;
  first    text;
  answer   timestamptz[];
BEGIN
  -- What others have planned is read in one statement, under a lock that an earlier one took.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'plan_duties needs READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
      USING ERRCODE = 'invalid_transaction_state';
  END IF;
  SELECT h.name INTO my.mapping FROM session_lock.hold_session(p_id, p_nonce) AS h;
  IF my.mapping <> '__title__' THEN
    RAISE EXCEPTION 'session % is not live', p_id USING ERRCODE = 'SL001';
  END IF;

  FOR my.given IN
    SELECT g.name, g.schedule, g.last, g.lapsed
      FROM unnest(p_names, p_schedules, p_last, p_lapsed) AS g (name, schedule, last, lapsed)
     ORDER BY g.name
  LOOP
    INSERT INTO session_lock.duty (name) VALUES (my.given.name) ON CONFLICT DO NOTHING;
    SELECT d.schedule, d.since, d.last_due INTO my.duty FROM session_lock.duty AS d WHERE d.name = my.given.name FOR UPDATE;
    my.clock := session_lock.clock();  -- after the wait for the lock, not before it
    INSERT INTO session_lock.duty_declaration (name, session, rank, schedule, declared_at)
    VALUES (my.given.name, p_id, my.rank, my.given.schedule, my.clock)
    ON CONFLICT DO NOTHING;

    -- 1 Whose schedule counts, and was anybody there before?
    SELECT coalesce(bool_or(d.watches), false),
           (array_agg(d.schedule ORDER BY d.rank DESC, d.session DESC) FILTER (WHERE d.session = p_id OR NOT s.draining))[1]
      INTO my.watched, my.first
      FROM session_lock.duty_declaration AS d JOIN session_lock.session AS s ON s.id = d.session
     WHERE d.name = my.given.name AND s.ended_at IS NULL AND s.expires_at > my.clock;
    my.answer := '{}';

    IF my.first = my.given.schedule THEN
      -- 2 It has not counted until now: the future of the one before it is not to be. It counts from when this session
      --   declared it or, if it was overruled by a younger one since, from the end of that.
      IF my.duty.schedule IS DISTINCT FROM my.given.schedule THEN
        DELETE FROM session_lock.duty_run AS r
         WHERE r.name = my.given.name AND r.finished_at IS NULL AND r.failed_at IS NULL AND r.claim_token IS NULL AND r.due_at > my.clock;
        my.duty.since := greatest(
          (SELECT d.declared_at FROM session_lock.duty_declaration AS d WHERE d.name = my.given.name AND d.session = p_id),
          (SELECT max(least(s.ended_at, s.expires_at, my.clock))
             FROM session_lock.duty_declaration AS d JOIN session_lock.session AS s ON s.id = d.session
            WHERE d.name = my.given.name AND d.rank > my.rank AND d.schedule <> my.given.schedule)
        );
        my.duty.last_due := NULL;
        UPDATE session_lock.duty AS d SET schedule = my.given.schedule, since = my.duty.since, last_due = NULL
         WHERE d.name = my.given.name;
      END IF;

      -- 3 From when on was nobody there? What fell due before that is late, and not missed. It is noted at the duty: who was
      --   there is forgotten after a day.
      IF NOT my.watched THEN
        my.unseen := (
          SELECT max(least(s.ended_at, s.expires_at))
            FROM session_lock.duty_declaration AS d JOIN session_lock.session AS s ON s.id = d.session
           WHERE d.name = my.given.name AND d.watches
        );
        IF my.duty.last_due IS NOT NULL THEN
          my.duty.since := greatest(my.duty.since, my.unseen);
          my.unseen := my.duty.since;
          UPDATE session_lock.duty AS d SET since = my.duty.since WHERE d.name = my.given.name AND d.since < my.duty.since;
        END IF;
      END IF;

      -- 4 The plan, if it was made for what still holds.
      IF my.given.lapsed = NOT my.watched AND my.given.last IS NOT DISTINCT FROM my.duty.last_due THEN
        IF NOT my.watched THEN
          DELETE FROM session_lock.duty_run AS r
           WHERE r.name = my.given.name AND r.finished_at IS NULL AND r.failed_at IS NULL AND r.claim_token IS NULL AND r.due_at <= my.clock
             AND r.due_at > coalesce(my.unseen, '-infinity')
             AND NOT EXISTS (SELECT FROM unnest(p_due_names, p_due) AS p (name, due_at)
                              WHERE p.name = my.given.name AND p.due_at = r.due_at);
        END IF;
        INSERT INTO session_lock.duty_run (name, due_at, schedule, available_at)
        SELECT p.name, p.due_at, my.given.schedule, p.due_at
          FROM unnest(p_due_names, p_due) AS p (name, due_at)
         WHERE p.name = my.given.name
         ORDER BY p.due_at
        ON CONFLICT DO NOTHING;
        my.duty.last_due := greatest(my.duty.last_due, (SELECT max(p.due_at) FROM unnest(p_due_names, p_due) AS p (name, due_at)
                                                         WHERE p.name = my.given.name));
        UPDATE session_lock.duty AS d SET last_due = my.duty.last_due WHERE d.name = my.given.name;
        my.watched := true;
        DELETE FROM session_lock.duty_run AS r
         WHERE r.name = my.given.name AND r.due_at < my.clock - interval '30 days'
           AND (r.finished_at IS NOT NULL OR r.failed_at IS NOT NULL);
      END IF;
      my.answer := ARRAY(
        SELECT r.due_at FROM session_lock.duty_run AS r
         WHERE r.name = my.given.name AND r.finished_at IS NULL AND r.failed_at IS NULL AND r.claim_token IS NULL AND r.due_at <= my.clock
         ORDER BY r.due_at DESC
         LIMIT 101
      );
    END IF;

    IF my.watched THEN
      UPDATE session_lock.duty_declaration AS d SET watches = true
       WHERE d.name = my.given.name AND d.session = p_id AND NOT d.watches;
    END IF;
    RETURN QUERY
    SELECT my.given.name, my.first = my.given.schedule, NOT my.watched, my.duty.since, my.duty.last_due, my.answer, my.clock;
  END LOOP;

  PERFORM session_lock.forget_duties(my.clock);
END
$function$;

-- Takes away what nobody has declared for a day, while others were here to see it: the duty, and its runs that are pending
-- (those that were begun are given up).
CREATE OR REPLACE FUNCTION session_lock.forget_duties(p_now timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  v_locked text[];
  v_gone   text[];
BEGIN
  v_locked := ARRAY(
    SELECT d.name FROM session_lock.duty AS d
     WHERE NOT EXISTS (SELECT FROM session_lock.duty_declaration AS c JOIN session_lock.session AS s ON s.id = c.session
                        WHERE c.name = d.name AND least(s.ended_at, s.expires_at) > p_now - interval '24 hours')
     ORDER BY d.name
       FOR UPDATE SKIP LOCKED
  );
  IF cardinality(v_locked) > 0 THEN
    -- Asked again under the locks: somebody may have declared one between the look and the lock.
    v_gone := ARRAY(
      SELECT d.name FROM session_lock.duty AS d
       WHERE d.name = ANY (v_locked)
         AND NOT EXISTS (SELECT FROM session_lock.duty_declaration AS c JOIN session_lock.session AS s ON s.id = c.session
                          WHERE c.name = d.name AND least(s.ended_at, s.expires_at) > p_now - interval '24 hours')
    );
    DELETE FROM session_lock.duty_run AS r
     WHERE r.name = ANY (v_gone) AND r.finished_at IS NULL AND r.failed_at IS NULL AND r.claim_token IS NULL;
    UPDATE session_lock.duty_run AS r SET failed_at = p_now, session_id = NULL
     WHERE r.name = ANY (v_gone) AND r.finished_at IS NULL AND r.failed_at IS NULL
       AND NOT EXISTS (SELECT FROM session_lock.session AS s WHERE s.id = r.session_id AND s.ended_at IS NULL);
    DELETE FROM session_lock.duty AS d WHERE d.name = ANY (v_gone);
  END IF;
  WITH gone AS MATERIALIZED (
    SELECT c.name, c.session FROM session_lock.duty_declaration AS c
     WHERE NOT EXISTS (SELECT FROM session_lock.session AS s
                        WHERE s.id = c.session AND least(s.ended_at, s.expires_at) > p_now - interval '24 hours')
     ORDER BY c.name, c.session
       FOR UPDATE SKIP LOCKED
  )
  DELETE FROM session_lock.duty_declaration AS c USING gone WHERE c.name = gone.name AND c.session = gone.session;
END
$function$;

-- Of the sessions that share: those that have declared a duty, and so may be given its runs.
CREATE OR REPLACE FUNCTION session_lock.sharing_duty(
  p_ids bigint[], p_capacities integer[], p_name text, OUT ids bigint[], OUT capacities integer[]
)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT array_agg(o.id ORDER BY o.id), array_agg(o.capacity ORDER BY o.id)
    FROM unnest(p_ids, p_capacities) AS o (id, capacity)
    JOIN session_lock.duty_declaration AS d ON d.session = o.id AND d.name = p_name
$function$;

REVOKE ALL ON FUNCTION
  session_lock.plan_duties(bigint, uuid, bigint, text[], text[], timestamptz[], boolean[], text[], timestamptz[]),
  session_lock.forget_duties(timestamptz),
  session_lock.sharing_duty(bigint[], integer[], text)
FROM PUBLIC;
