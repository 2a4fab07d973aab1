-- session_lock: the functions of a session that need no task table. Run at every deploy, before the new code starts:
-- CREATE OR REPLACE only, so instances of the version before go on working. A changed signature is a new function
-- with _v2 at its end, never an edit.
--
-- All of them are SECURITY DEFINER and owned by the role that migrates, so a service needs EXECUTE and nothing else;
-- the search_path is pinned (pg_temp last), so nothing that a caller creates can stand in for what is meant.
-- What is called in each look for work is plpgsql, which keeps its plans: before PostgreSQL 18 sql makes them anew in each call.
-- SQLSTATE SL001: the session is not live (or the nonce is wrong, which must look the same). SL004: the database is a copy.

-- What the schema offers and the oldest library that it still serves; a library compares both with its own.
CREATE OR REPLACE FUNCTION session_lock.schema_version(OUT version integer, OUT serves integer)
LANGUAGE sql STABLE
AS $function$ SELECT 2, 1 $function$;

-- The one clock of all leases and due times: the server's, and not the transaction's (`now()` stands still while a
-- transaction waits). Tests replace this function to move time.
CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE
AS $function$ SELECT clock_timestamp() $function$;

-- Where this database is: what tells it from a copy of it, and does not change when a standby takes over.
CREATE OR REPLACE FUNCTION session_lock.whereabouts(OUT system bigint, OUT database text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $function$ SELECT c.system_identifier, current_database()::text FROM pg_control_system() AS c $function$;

-- From here on the sessions belong to this database, wherever its rows were copied from. Granted to nobody: for its owner, after
-- a look at what would run.
CREATE OR REPLACE FUNCTION session_lock.adopt() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $function$
  INSERT INTO session_lock.origin (system, database) SELECT w.system, w.database FROM session_lock.whereabouts() AS w
  ON CONFLICT (one) DO UPDATE SET system = excluded.system, database = excluded.database
$function$;

-- A copy of another database starts no session, so that its tasks are not done a second time, until it is adopted.
CREATE OR REPLACE FUNCTION session_lock.start_session(
  p_name text, p_functions text, p_capacity integer, p_ttl double precision,
  p_label text, p_app_version text, p_library_version text,
  OUT id bigint, OUT nonce uuid, OUT "left" double precision
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
  v_now    timestamptz := session_lock.clock();
  v_here   record := session_lock.whereabouts();
  v_origin record;
BEGIN
  INSERT INTO session_lock.origin (system, database) VALUES (v_here.system, v_here.database) ON CONFLICT (one) DO NOTHING;
  SELECT o.system, o.database INTO v_origin FROM session_lock.origin AS o;
  IF v_origin <> v_here THEN
    RAISE EXCEPTION 'database % of server % is a copy of database % of server %, and no task is run in it before its owner says so: session-lock adopt MODULE:ATTRIBUTE, or SELECT %',
      v_here.database, v_here.system, v_origin.database, v_origin.system, $name$session_lock.adopt()$name$ USING ERRCODE = 'SL004';
  END IF;

  INSERT INTO session_lock.session (name, functions, capacity, started_at, expires_at, label, app_version, library_version)
  VALUES (p_name, p_functions, p_capacity, v_now, v_now + make_interval(secs => p_ttl),
          p_label, p_app_version, p_library_version)
  RETURNING session.id, session.nonce INTO start_session.id, start_session.nonce;
  "left" := p_ttl;
END
$function$;

-- The keepalive: moves the end of the lease to p_ttl from now, never backwards, and brings back what others ask of
-- this session. An expired session is never revived, also if nobody has ended it yet: someone may be about to.
-- p_running is how many tasks are in calls of its tasker: for people who look, and for others that share what they do not see all of.
CREATE OR REPLACE FUNCTION session_lock.bump_session(
  p_id bigint, p_nonce uuid, p_ttl double precision, p_draining boolean, p_running integer,
  OUT "left" double precision, OUT give_back integer, OUT pause boolean, OUT drain boolean, OUT cancel_keys text[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
  v_name     text;
  v_draining boolean;
  v_expires  timestamptz;
  v_now      timestamptz;
BEGIN
  -- give_back is read under the row's lock and cleared in the same transaction: it is told once. To drain or to pause is a
  -- state, and told each time; so is what it is to cancel, until the task is settled: an answer may be lost.
  SELECT s.name, s.draining, s.expires_at, s.give_back, s.drain_requested, s.cancel_keys
    INTO v_name, v_draining, v_expires, bump_session.give_back, bump_session.drain, bump_session.cancel_keys
    FROM session_lock.session AS s
   WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL
     FOR NO KEY UPDATE;
  v_now := session_lock.clock();  -- after the wait for the lock, not before it
  IF v_expires IS NULL OR v_expires <= v_now THEN
    RAISE EXCEPTION 'session % is not live', p_id USING ERRCODE = 'SL001';
  END IF;

  v_expires := greatest(v_expires, v_now + make_interval(secs => p_ttl));
  UPDATE session_lock.session AS s
     SET expires_at = v_expires, beat_at = v_now, draining = s.draining OR p_draining, give_back = 0, running = coalesce(p_running, 0)
   WHERE s.id = p_id;
  IF p_draining AND NOT v_draining THEN  -- the shares of the others have grown, and it may have given back what it had not begun
    PERFORM session_lock.wake(v_name);
  END IF;
  "left" := extract(epoch FROM v_expires - v_now);
  pause := EXISTS (SELECT FROM session_lock.pause AS p WHERE p.name = v_name);
END
$function$;

-- For the functions of the mappings: holds the caller's own session live until the transaction ends. FOR KEY SHARE
-- lets keepalives through and makes whoever would end the session wait (who ends one takes FOR UPDATE).
CREATE OR REPLACE FUNCTION session_lock.hold_session(
  p_id bigint, p_nonce uuid,
  OUT name text, OUT capacity integer, OUT expires_at timestamptz, OUT at timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
  SELECT s.name, s.capacity, s.expires_at INTO hold_session.name, hold_session.capacity, hold_session.expires_at
    FROM session_lock.session AS s
   WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL
     FOR KEY SHARE;
  at := session_lock.clock();  -- after the wait for the lock, not before it
  IF hold_session.expires_at IS NULL OR hold_session.expires_at <= at THEN
    RAISE EXCEPTION 'session % is not live', p_id USING ERRCODE = 'SL001';
  END IF;
END
$function$;

-- The sessions of a name: those that have ended and whose tasks may still have to be found (among them the ones that were
-- not ended by themselves: expired), and those that may be given work now: live, not draining, and none of them while the name is paused. Expired ones are ended on the way, if
-- there are any: under FOR UPDATE, so that none ends beneath an open claim or finish of its own, and with SKIP LOCKED, so
-- that nobody waits for one that is in its finishing transaction.
-- The caller must use the list in a *later* statement: what an ended session claimed is visible to that one.
-- counted is how many tasks one of those that share has counted within the last second, if they were many. Many sessions would
-- all find at once that it is too old, and count: so for a second more one of them does, by lot, and the others go by it.
CREATE OR REPLACE FUNCTION session_lock.sessions_of(
  p_name text, p_now timestamptz,
  OUT ended bigint[], OUT expired bigint[], OUT sharing bigint[], OUT capacities integer[], OUT counted integer
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  v_expired boolean;
  v_lately  integer;
  v_paused  boolean := EXISTS (SELECT FROM session_lock.pause AS p WHERE p.name = p_name);
BEGIN
  FOR v_round IN 1..2 LOOP
    SELECT coalesce(array_agg(s.id) FILTER (WHERE s.ended_at IS NOT NULL), '{}'),
           coalesce(array_agg(s.id) FILTER (WHERE s.ended_at >= s.expires_at), '{}'),
           coalesce(array_agg(s.id ORDER BY s.id) FILTER (WHERE live.sharing), '{}'),
           coalesce(array_agg(s.capacity ORDER BY s.id) FILTER (WHERE live.sharing), '{}'),
           (array_agg(s.counted ORDER BY s.counted_at DESC)
              FILTER (WHERE live.sharing AND s.counted_at BETWEEN p_now - interval '1 second' AND p_now + interval '1 second'))[1],
           (array_agg(s.counted ORDER BY s.counted_at DESC)
              FILTER (WHERE live.sharing AND s.counted_at BETWEEN p_now - interval '2 seconds' AND p_now + interval '1 second'))[1],
           coalesce(bool_or(s.ended_at IS NULL AND s.expires_at <= p_now), false)
      INTO ended, expired, sharing, capacities, counted, v_lately, v_expired
      FROM session_lock.session AS s,
           LATERAL (SELECT s.ended_at IS NULL AND s.expires_at > p_now AND NOT s.draining AND NOT v_paused) AS live (sharing)
     WHERE s.name = p_name AND s.swept_at IS NULL;
    EXIT WHEN NOT v_expired OR v_round = 2;

    WITH expired AS MATERIALIZED (
      SELECT s.id FROM session_lock.session AS s
       WHERE s.name = p_name AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.expires_at <= p_now
       ORDER BY s.id LIMIT 100
         FOR UPDATE SKIP LOCKED
    )
    UPDATE session_lock.session AS s SET ended_at = p_now FROM expired WHERE s.id = expired.id;
    IF FOUND THEN
      PERFORM session_lock.wake(p_name);
    END IF;
  END LOOP;
  IF counted IS NULL AND cardinality(sharing) >= 8 AND random() * cardinality(sharing) >= 1 THEN
    counted := v_lately;
  END IF;
END
$function$;

-- After a look at all tasks that are due found nothing more to claim: p_named are the sessions that those tasks name.
-- An ended session that none of them names leaves the list. One that they name although it had left it (its row was
-- closed by hand, and opened again when it was swept) comes back to it. Returns those that do not exist at all.
-- Both states are final, and p_named was read in an earlier statement than the sessions are here: a session that
-- has only just started is never taken for one that is gone.
CREATE OR REPLACE FUNCTION session_lock.sweep_sessions(p_ended bigint[], p_named bigint[], p_now timestamptz)
RETURNS bigint[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  IF cardinality(p_ended) > 0 THEN
    WITH gone AS MATERIALIZED (
      SELECT s.id FROM session_lock.session AS s
       WHERE s.id = ANY (p_ended) AND s.id <> ALL (p_named) AND s.swept_at IS NULL
       ORDER BY s.id
         FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE session_lock.session AS s SET swept_at = p_now FROM gone WHERE s.id = gone.id;
  END IF;
  IF cardinality(p_named) > 0 THEN
    WITH back AS MATERIALIZED (
      SELECT s.id FROM session_lock.session AS s
       WHERE s.id = ANY (p_named) AND s.swept_at IS NOT NULL
       ORDER BY s.id
         FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE session_lock.session AS s SET swept_at = NULL FROM back WHERE s.id = back.id;
  END IF;
  RETURN ARRAY(SELECT n.id FROM unnest(p_named) AS n (id)
                WHERE NOT EXISTS (SELECT FROM session_lock.session AS s WHERE s.id = n.id));
END
$function$;

-- At the end of a look for work: whether it left the session with room (written only when that changes, and once more by the next
-- look, by when it can be seen), and how many tasks it has counted, if they were many. Never waited for, since the caller holds
-- task rows by now: it is a hint, and the next look gives it again.
CREATE OR REPLACE FUNCTION session_lock.note_look(p_id bigint, p_idle boolean, p_counted bigint, p_now timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  WITH changed AS MATERIALIZED (
    SELECT s.id FROM session_lock.session AS s
     WHERE s.id = p_id AND (s.idle <> p_idle OR p_counted IS NOT NULL OR (s.idle AND s.idle_from IS NULL))
       FOR NO KEY UPDATE SKIP LOCKED
  )
  UPDATE session_lock.session AS s
     SET idle = p_idle, idle_from = CASE WHEN p_idle AND s.idle THEN coalesce(s.idle_from, pg_snapshot_xmax(pg_current_snapshot())) END,
         counted = coalesce(p_counted, s.counted),
         counted_at = CASE WHEN p_counted IS NULL THEN s.counted_at ELSE p_now END
    FROM changed WHERE s.id = changed.id;
END
$function$;

-- Whether a wake-up for a task that is inserted is sent, also a quiet one: each transaction that is under way has begun when it was
-- to be seen that this session has room.
CREATE OR REPLACE FUNCTION session_lock.seen_idle(p_id bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  RETURN coalesce((SELECT s.idle AND s.idle_from <= pg_snapshot_xmin(pg_current_snapshot())
                     FROM session_lock.session AS s WHERE s.id = p_id), false);
END
$function$;

-- How many of p_tasks each session may hold: its part by capacity, whole numbers by the largest remainder, ties to the
-- lower id (so 4 tasks on 3 equal sessions are 2, 1, 1). The parts of all sessions add up to p_tasks.
CREATE OR REPLACE FUNCTION session_lock.shares(p_ids bigint[], p_capacities integer[], p_tasks bigint)
RETURNS TABLE (id bigint, share integer)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH part AS (  -- in whole numbers, so that equal remainders are equal
    SELECT s.id,
           p_tasks * s.capacity / sum(s.capacity) OVER () AS whole,
           p_tasks * s.capacity % sum(s.capacity) OVER () AS remainder
      FROM unnest(p_ids, p_capacities) AS s (id, capacity)
  ), ranked AS (
    SELECT part.id, whole,
           row_number() OVER (ORDER BY remainder DESC, part.id) AS rank,
           p_tasks - sum(whole) OVER () AS remaining
      FROM part
  )
  SELECT ranked.id, (whole + (rank <= remaining)::integer)::integer FROM ranked;
END
$function$;

-- That of one session; NULL for one that is not among them.
CREATE OR REPLACE FUNCTION session_lock.share(p_id bigint, p_ids bigint[], p_capacities integer[], p_tasks bigint)
RETURNS integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  RETURN (SELECT s.share FROM session_lock.shares(p_ids, p_capacities, p_tasks) AS s WHERE s.id = p_id);
END
$function$;

-- Tells sessions, when the transaction commits, that something is asked of them: they hear what in the answer to their next
-- keepalive, which they send at once. On the channel of the wake-ups: a tab, and the session's id.
CREATE OR REPLACE FUNCTION session_lock.tell(p_ids bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT pg_notify((parse_ident($name$session_lock.tell$name$))[1], E'\t' || id) FROM unnest(p_ids) AS t (id)
$function$;

-- Tells all sessions of a name.
CREATE OR REPLACE FUNCTION session_lock.tell_all(p_name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT session_lock.tell(array_agg(s.id)) FROM session_lock.session AS s
   WHERE s.name = p_name AND s.swept_at IS NULL AND s.ended_at IS NULL
$function$;

-- For people who operate a service, and granted to nobody: it is about all instances, and knows no nonce. From now on no session of
-- the name begins a task, and what runs goes on. Whether that is new.
CREATE OR REPLACE FUNCTION session_lock.pause_mapping(p_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  v_is_new boolean;
BEGIN
  INSERT INTO session_lock.pause (name, at) VALUES (p_name, session_lock.clock()) ON CONFLICT (name) DO NOTHING;
  v_is_new := FOUND;
  PERFORM session_lock.tell_all(p_name);
  RETURN v_is_new;
END
$function$;

-- The same: it takes that back. Whether there was a pause.
CREATE OR REPLACE FUNCTION session_lock.resume_mapping(p_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  v_was boolean;
BEGIN
  DELETE FROM session_lock.pause AS p WHERE p.name = p_name;
  v_was := FOUND;
  PERFORM session_lock.tell_all(p_name);
  RETURN v_was;
END
$function$;

-- The same: asks one session to drain. Whether there is such a one of this name that lives.
CREATE OR REPLACE FUNCTION session_lock.drain_session(p_name text, p_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  UPDATE session_lock.session AS s SET drain_requested = true
   WHERE s.id = p_id AND s.name = p_name AND s.ended_at IS NULL AND s.expires_at > session_lock.clock();
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM session_lock.tell(ARRAY[p_id]);
  RETURN true;
END
$function$;

-- On behalf of a session that has nothing to do and found nothing to claim: those that hold more than their share of what there
-- is (p_tasks) are asked to release what they hold above it and have not begun, and told so. p_counts are the tasks that p_holders
-- hold. Nobody is waited for, and nobody is asked again within 0.2 seconds, however many have nothing to do.
CREATE OR REPLACE FUNCTION session_lock.ask_for_tasks(
  p_sharing bigint[], p_capacities integer[], p_tasks bigint, p_holders bigint[], p_counts bigint[], p_now timestamptz
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  v_asked bigint[];
BEGIN
  WITH above AS (
    SELECT part.id, holder.held, holder.held - part.share AS surplus
      FROM session_lock.shares(p_sharing, p_capacities, p_tasks) AS part
      JOIN unnest(p_holders, p_counts) AS holder (id, held) ON holder.id = part.id
     WHERE holder.held > part.share
  ), asked AS MATERIALIZED (
    SELECT s.id
      FROM session_lock.session AS s
      JOIN above ON above.id = s.id
     CROSS JOIN LATERAL (SELECT CASE WHEN s.running < above.held THEN interval '0.2 seconds' ELSE interval '1 second' END) AS pause (length)
     WHERE s.asked_at IS NULL OR s.asked_at <= p_now - pause.length OR s.asked_at > p_now + pause.length
     ORDER BY s.id
       FOR NO KEY UPDATE OF s SKIP LOCKED
  ), done AS (
    UPDATE session_lock.session AS s SET give_back = above.surplus, asked_at = p_now
      FROM asked JOIN above ON above.id = asked.id
     WHERE s.id = asked.id
    RETURNING s.id
  )
  SELECT array_agg(done.id) INTO v_asked FROM done;
  PERFORM session_lock.tell(v_asked);
END
$function$;

-- Whether somebody who shares has been asked within the last second, and so somebody had nothing to do.
CREATE OR REPLACE FUNCTION session_lock.asked_lately(p_sharing bigint[], p_now timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  RETURN EXISTS (SELECT FROM session_lock.session AS s
                  WHERE s.id = ANY (p_sharing) AND s.asked_at BETWEEN p_now - interval '1 second' AND p_now + interval '1 second');
END
$function$;

-- At the end of a look for work, too: what it was asked to cancel and does not hold (any more) is forgotten. Not waited for either.
CREATE OR REPLACE FUNCTION session_lock.forget_cancelled(p_id bigint, p_held text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  WITH stale AS MATERIALIZED (
    SELECT s.id FROM session_lock.session AS s
     WHERE s.id = p_id AND NOT s.cancel_keys <@ p_held
       FOR NO KEY UPDATE SKIP LOCKED
  )
  UPDATE session_lock.session AS s
     SET cancel_keys = ARRAY(SELECT k FROM unnest(s.cancel_keys) AS k WHERE k = ANY (p_held))
    FROM stale WHERE s.id = stale.id
$function$;

-- Wakes the Runners of a mapping when the caller's transaction commits: call it where a task is inserted, or otherwise becomes
-- pending or due sooner. The channel is named like this schema, the payload is the mapping's name; however often it is called in a
-- transaction, one notification is sent. It is a hint: whoever misses it finds the task at the next poll.
--   p_quiet  silent while no session of the mapping has room. For NOTIFY holds a lock of the whole database's while
--            its transaction commits, one after another. A session that looked before this commit and is idle
--            only since then is not told: it finds the task when it looks once more, soon after, or at its next poll. A
--            transaction that is not READ COMMITTED is never silent: its snapshot may be from before it has an id, by which idle_from goes.
CREATE OR REPLACE FUNCTION session_lock.wake(p_name text, p_quiet boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  IF p_name IS NULL THEN
    RAISE EXCEPTION 'wake needs the name of a mapping, not NULL' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  IF p_quiet AND current_setting('transaction_isolation') = 'read committed'
     AND NOT EXISTS (SELECT FROM session_lock.session AS s
                      WHERE s.name = p_name AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.idle AND NOT s.draining
                        AND s.expires_at > session_lock.clock()) THEN
    RETURN;
  END IF;
  PERFORM pg_notify((parse_ident($name$session_lock.wake$name$))[1], p_name);
END
$function$;

-- The same for a trigger on the task table, after each statement that inserts; its arguments are those of wake.
CREATE OR REPLACE FUNCTION session_lock.wake_on_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  PERFORM session_lock.wake(TG_ARGV[0], TG_ARGV[1]::boolean);
  RETURN NULL;
END
$function$;

-- The numbers of a version, to be compared: 2.10 is more than 2.9, 2.0 is 2. A v before them and what comes after them (-rc1, +build)
-- do not count. NULL: there are none to read, as in a commit's hash.
CREATE OR REPLACE FUNCTION session_lock.version_numbers(p_version text) RETURNS numeric[]
LANGUAGE sql IMMUTABLE
AS $function$
  SELECT string_to_array(
    regexp_replace(substring(left(p_version, 100) FROM '^ *[vV]?([0-9]+(?:[.][0-9]+)+|[0-9]+(?![0-9A-Za-z]))'), '([.]0+)+$', ''), '.'
  )::numeric[]
$function$;

-- Whether a session of this version may be given a task that needs that one (`accepts` of its mapping): any may if it needs none, and
-- none may if what it needs cannot be read. (Neither this function nor the one before has settings, so that both are inlined.)
CREATE OR REPLACE FUNCTION session_lock.may_take(p_version numeric[], p_needed text) RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $function$
  SELECT p_needed IS NULL OR coalesce(session_lock.version_numbers(p_needed) <= p_version, false)
$function$;

-- Of the sessions that share: those that may be given a task that needs this version.
CREATE OR REPLACE FUNCTION session_lock.sharing_with(
  p_ids bigint[], p_capacities integer[], p_needed text, OUT ids bigint[], OUT capacities integer[]
)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT array_agg(o.id ORDER BY o.id), array_agg(o.capacity ORDER BY o.id)
    FROM unnest(p_ids, p_capacities) AS o (id, capacity)
    JOIN session_lock.session AS s ON s.id = o.id
   WHERE session_lock.may_take(session_lock.version_numbers(s.app_version), p_needed)
$function$;

-- Bounds the rest of the current transaction by what is left of a lease: a frozen client's connection is closed by the
-- server then, and its locks with it. A shorter limit that is set already stays.
CREATE OR REPLACE FUNCTION session_lock.limit_transaction(p_left interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  v_limit  interval := least(greatest(p_left, interval '1 millisecond'), interval '24 days');  -- more is no integer
  v_name   text;
  v_set_to interval;
BEGIN
  FOREACH v_name IN ARRAY ARRAY['idle_in_transaction_session_timeout', 'transaction_timeout'] LOOP
    v_set_to := nullif(current_setting(v_name, true), '')::interval;
    CONTINUE WHEN v_set_to IS NULL;  -- transaction_timeout came with PostgreSQL 17
    IF v_set_to = interval '0' OR v_set_to > v_limit THEN
      PERFORM set_config(v_name, ceil(extract(epoch FROM v_limit) * 1000)::bigint || 'ms', true);
    END IF;
  END LOOP;
END
$function$;

-- Keeps the newest 20 failures of each of the tasks.
CREATE OR REPLACE FUNCTION session_lock.trim_failures(p_name text, p_keys text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  DELETE FROM session_lock.failure AS f
   USING unnest(p_keys) AS k (key)
   WHERE f.name = p_name AND f.task_key = k.key
     AND f.id <= (SELECT n.id FROM session_lock.failure AS n
                   WHERE n.name = p_name AND n.task_key = k.key ORDER BY n.id DESC OFFSET 20 LIMIT 1)
$function$;

-- An attempt that ended with its session is kept as a failure: nobody was left to say what went wrong.
CREATE OR REPLACE FUNCTION session_lock.note_expired(
  p_name text, p_keys text[], p_attempts integer[], p_sessions bigint[], p_now timestamptz
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  INSERT INTO session_lock.failure (name, task_key, attempt, at, session, error)
  SELECT p_name, e.key, e.attempt, p_now, e.session, 'its session expired'
    FROM unnest(p_keys, p_attempts, p_sessions) AS e (key, attempt, session);
  PERFORM session_lock.trim_failures(p_name, p_keys);
END
$function$;

-- Whether a task's session expired under it at least twice: it may be what kills processes, and is to be run alone.
CREATE OR REPLACE FUNCTION session_lock.is_suspect(p_name text, p_key text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT count(*) >= 2 FROM session_lock.failure AS f
   WHERE f.name = p_name AND f.task_key = p_key AND f.error = 'its session expired'
$function$;

-- For people: what there is around a task of a mapping, which its row does not say: the session that it names, what stands in the way
-- of all tasks, and what went wrong with this one, the newest first. What was raised is shown to who may read it in the table.
CREATE OR REPLACE FUNCTION session_lock.around_task(p_name text, p_key text, p_holder bigint, p_now timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT jsonb_build_object(
    'copy_of', (SELECT format('database %s of server %s', o.database, o.system)
                  FROM session_lock.origin AS o, session_lock.whereabouts() AS w
                 WHERE (o.system, o.database) <> (w.system, w.database)),
    'paused_for', (SELECT extract(epoch FROM p_now - p.at) FROM session_lock.pause AS p WHERE p.name = p_name),
    'session', (SELECT jsonb_build_object(
                         'id', s.id, 'label', s.label, 'app_version', s.app_version,
                         'state', CASE
                           WHEN s.name <> p_name THEN 'foreign'
                           WHEN s.ended_at IS NOT NULL THEN 'ended'
                           WHEN s.expires_at <= p_now THEN 'expired'
                           WHEN s.draining OR s.drain_requested THEN 'draining'
                           ELSE 'live'
                         END,
                         'beat_ago', extract(epoch FROM p_now - coalesce(s.beat_at, s.started_at)),
                         'left', extract(epoch FROM s.expires_at - p_now),
                         'asked_to_cancel', p_key = ANY (s.cancel_keys))
                  FROM session_lock.session AS s
                 WHERE s.id = p_holder),
    'live', live.number, 'draining', live.draining,
    'failures', coalesce((SELECT jsonb_agg(jsonb_build_object(
                                   'attempt', f.attempt, 'ago', extract(epoch FROM p_now - f.at), 'session', f.session,
                                   'error', CASE WHEN has_table_privilege(session_user, f.tableoid, 'SELECT') THEN f.error END)
                                 ORDER BY f.id DESC)
                            FROM session_lock.failure AS f
                           WHERE f.name = p_name AND f.task_key = p_key), '[]')
  )
    FROM (SELECT count(*) AS number, count(*) FILTER (WHERE s.draining OR s.drain_requested) AS draining
            FROM session_lock.session AS s
           WHERE s.name = p_name AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.expires_at > p_now) AS live
$function$;

REVOKE ALL ON FUNCTION
  session_lock.adopt(),
  session_lock.start_session(text, text, integer, double precision, text, text, text),
  session_lock.bump_session(bigint, uuid, double precision, boolean, integer),
  session_lock.hold_session(bigint, uuid),
  session_lock.sessions_of(text, timestamptz),
  session_lock.sweep_sessions(bigint[], bigint[], timestamptz),
  session_lock.sharing_with(bigint[], integer[], text),
  session_lock.note_look(bigint, boolean, bigint, timestamptz),
  session_lock.seen_idle(bigint),
  session_lock.ask_for_tasks(bigint[], integer[], bigint, bigint[], bigint[], timestamptz),
  session_lock.asked_lately(bigint[], timestamptz),
  session_lock.tell(bigint[]),
  session_lock.tell_all(text),
  session_lock.pause_mapping(text),
  session_lock.resume_mapping(text),
  session_lock.drain_session(text, bigint),
  session_lock.forget_cancelled(bigint, text[]),
  session_lock.wake(text, boolean),
  session_lock.wake_on_insert(),
  session_lock.trim_failures(text, text[]),
  session_lock.note_expired(text, text[], integer[], bigint[], timestamptz),
  session_lock.is_suspect(text, text),
  session_lock.around_task(text, text, bigint, timestamptz)
FROM PUBLIC;
