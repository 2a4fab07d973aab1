-- session_lock by hand, 2: the functions of one kind of task. Run at every deploy, after sessions.alwaysup.sql. Replace
-- each word that begins with TODO; README.md says what each of them stands for. As it stands this file is valid SQL.
--
-- What you may change is what a task is, what finishes it, and in which order tasks come. Keep these rules, or tasks are
-- lost or done twice (each of them was learned from a fault that somebody had):
--   * Signatures and the first thirteen result columns of get_work stay as they are: the Runner calls them.
--   * Lock order: the own session first (hold_session does it), then task rows, several of them in the order of the key or
--     with SKIP LOCKED. What other tables you write, write after that.
--   * The fence: finish, release and discard only what is `held` by standing_TODO_NAME: my session, my token, still pending.
--   * Ended sessions are read in one statement and their tasks are taken in a *later* one, so that what they claimed last is
--     seen. Never "held by none of the live ones": a session that started after the reading would be robbed.
--   * The token only grows, by 1 in the UPDATE that claims, and is never cleared. Settling a task sets session_id to NULL and
--     leaves the token: so an answer that was lost can be told from a claim that was lost.
--   * After a finish the row is not pending; the function checks it, or the task would come back for ever.
--   * Time is session_lock.clock(), read once into a variable; never now().
--   * Lock the task row alone (FOR .. OF t). What a join reads from other tables is as old as the statement: if that
--     can change under you, look again in your tasker, in the finishing transaction.

-- Where each of the caller's claims stands: held · closed (mine, but the application closed it) · finished or free
-- (settled by an earlier call) · lost (somebody else's) · locked (by somebody's transaction: ask again) · unknown.
CREATE OR REPLACE FUNCTION session_lock.standing_TODO_NAME(p_id bigint, p_keys TODO_KEY_TYPE[], p_tokens bigint[])
RETURNS TABLE (task_key TODO_KEY_TYPE, task_token bigint, standing text)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
  v_locked TODO_KEY_TYPE[];
BEGIN
  -- Lock in one statement and look in the next: a lock waits for the newest version of its own row, but what else the
  -- same statement reads is as old as its start, and would take a row for pending that has just been closed.
  v_locked := ARRAY(
    SELECT t.TODO_KEY FROM TODO_TABLE AS t WHERE t.TODO_KEY = ANY (p_keys) ORDER BY t.TODO_KEY FOR NO KEY UPDATE SKIP LOCKED
  );
  RETURN QUERY
  SELECT claim.key, claim.token,
         CASE
           WHEN t.TODO_KEY IS NULL THEN 'unknown'
           WHEN t.TODO_KEY <> ALL (v_locked) THEN 'locked'
           WHEN t.claim_token IS DISTINCT FROM claim.token THEN 'lost'
           WHEN t.session_id = p_id AND pending.key IS NOT NULL THEN 'held'
           WHEN t.session_id = p_id THEN 'closed'
           WHEN t.session_id IS NULL AND pending.key IS NOT NULL THEN 'free'
           WHEN t.session_id IS NULL THEN 'finished'
           ELSE 'lost'
         END
    FROM unnest(p_keys, p_tokens) AS claim (key, token)
    LEFT JOIN TODO_TABLE AS t ON t.TODO_KEY = claim.key
    LEFT JOIN (SELECT t.TODO_KEY FROM TODO_TASKS AS t WHERE t.TODO_KEY = ANY (v_locked) AND (TODO_PENDING)) AS pending (key)
      ON pending.key = claim.key;
END
$function$;

-- Flags tasks as finished. For each key: finished · already yours · lost · locked · unknown.
CREATE OR REPLACE FUNCTION session_lock.finish_tasks_TODO_NAME(
  p_id bigint, p_nonce uuid, p_keys TODO_KEY_TYPE[], p_tokens bigint[]
) RETURNS TABLE (task_key TODO_KEY_TYPE, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
DECLARE
  v_keys      TODO_KEY_TYPE[];
  v_standings text[];
  v_held      TODO_KEY_TYPE[];
  v_closed    TODO_KEY_TYPE[];
BEGIN
  PERFORM session_lock.hold_session(p_id, p_nonce);  -- SL001 if it is not live; it cannot end before this transaction does
  SELECT array_agg(s.task_key), array_agg(s.standing),
         array_agg(s.task_key) FILTER (WHERE s.standing = 'held'), array_agg(s.task_key) FILTER (WHERE s.standing = 'closed')
    INTO v_keys, v_standings, v_held, v_closed
    FROM session_lock.standing_TODO_NAME(p_id, p_keys, p_tokens) AS s;

  UPDATE TODO_TABLE AS t SET session_id = NULL, TODO_FINISH = DEFAULT WHERE t.TODO_KEY = ANY (v_held);
  IF EXISTS (SELECT FROM TODO_TASKS AS t WHERE t.TODO_KEY = ANY (v_held) AND (TODO_PENDING)) THEN
    RAISE EXCEPTION 'finish leaves a row of TODO_NAME pending' USING ERRCODE = 'SL003';
  END IF;
  UPDATE TODO_TABLE AS t SET session_id = NULL WHERE t.TODO_KEY = ANY (v_closed);

  RETURN QUERY
  SELECT s.key,
         CASE s.standing
           WHEN 'held' THEN 'finished' WHEN 'finished' THEN 'already yours'
           WHEN 'closed' THEN 'lost' WHEN 'free' THEN 'lost' ELSE s.standing
         END
    FROM unnest(v_keys, v_standings) AS s (key, standing);
END
$function$;

-- Fences and finishes inside the caller's own transaction, all or nothing: SL001, or SL002 if one of them is not held.
CREATE OR REPLACE FUNCTION session_lock.finish_in_TODO_NAME(
  p_id bigint, p_nonce uuid, p_keys TODO_KEY_TYPE[], p_tokens bigint[]
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
  v_expires timestamptz;
  v_clock   timestamptz;
BEGIN
  SELECT h.expires_at, h.at INTO v_expires, v_clock FROM session_lock.hold_session(p_id, p_nonce) AS h;
  -- A client that freezes from here on would keep its tasks for ever.
  PERFORM session_lock.limit_transaction(v_expires - v_clock);

  PERFORM FROM TODO_TABLE AS t WHERE t.TODO_KEY = ANY (p_keys) ORDER BY t.TODO_KEY FOR NO KEY UPDATE;  -- may wait
  IF session_lock.clock() >= v_expires THEN  -- the lease ran out in that wait
    RAISE EXCEPTION 'session % is not live', p_id USING ERRCODE = 'SL001';
  END IF;
  IF EXISTS (SELECT FROM session_lock.standing_TODO_NAME(p_id, p_keys, p_tokens) AS s WHERE s.standing <> 'held') THEN
    RAISE EXCEPTION 'not all of these tasks of TODO_NAME are held by session %', p_id USING ERRCODE = 'SL002';
  END IF;

  UPDATE TODO_TABLE AS t SET session_id = NULL, TODO_FINISH = DEFAULT WHERE t.TODO_KEY = ANY (p_keys);
  IF EXISTS (SELECT FROM TODO_TASKS AS t WHERE t.TODO_KEY = ANY (p_keys) AND (TODO_PENDING)) THEN
    RAISE EXCEPTION 'finish leaves a row of TODO_NAME pending' USING ERRCODE = 'SL003';
  END IF;
END
$function$;

-- Work for a session: records what it has finished, takes over from the dead, and claims up to p_limit tasks. p_held are
-- the keys that it knows it holds, p_at_once how many tasks it could begin at once. Rows of three kinds: 'outcome' (of p_finished), 'task', and last one 'state'.
CREATE OR REPLACE FUNCTION session_lock.get_work_TODO_NAME(
  p_id bigint, p_nonce uuid, p_limit integer, p_held TODO_KEY_TYPE[], p_position text, p_until text, p_over_share boolean, p_at_once integer,
  p_finished TODO_KEY_TYPE[], p_tokens bigint[]
) RETURNS TABLE (
  kind text, task_key TODO_KEY_TYPE, task_token bigint, task_attempt integer, outcome text,
  task_position text, next_due double precision, lease_left double precision, task_share integer, task_alone boolean,
  walked double precision, heard boolean, sharing integer, TODO_COLUMNS text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
DECLARE
  v_held       TODO_KEY_TYPE[] := coalesce(p_held, '{}');
  v_holds      integer := cardinality(v_held);  -- when some of these have been finished
  v_name       text;
  v_capacity   integer;
  v_expires    timestamptz;
  v_clock      timestamptz;
  v_ended      bigint[];
  v_expired    bigint[];
  v_sharing    bigint[];
  v_capacities integer[];
  v_total      bigint;
  v_tasks      bigint;
  v_share      integer;
  v_want       integer;
  v_keys       TODO_KEY_TYPE[] := '{}';
  v_named      bigint[];
  v_counts     bigint[];
  v_gone       bigint[];
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN  -- else a later statement sees no more
    RAISE EXCEPTION 'get_work needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
  END IF;
  SELECT h.name, h.capacity, h.expires_at, h.at INTO v_name, v_capacity, v_expires, v_clock
    FROM session_lock.hold_session(p_id, p_nonce) AS h;

  -- 1 Finish what the caller has accomplished.
  FOR task_key, outcome IN SELECT f.task_key, f.outcome
                             FROM session_lock.finish_tasks_TODO_NAME(p_id, p_nonce, p_finished, p_tokens) AS f LOOP
    v_holds := greatest(v_holds - (outcome <> 'locked')::integer, 0);
    kind := 'outcome';
    RETURN NEXT;
  END LOOP;

  -- 2 Who has ended, who shares.
  SELECT s.ended, s.expired, s.sharing, s.capacities INTO v_ended, v_expired, v_sharing, v_capacities
    FROM session_lock.sessions_of(v_name, v_clock) AS s;

  -- 3 The share, where there is less than all could take together. Counted no further than that.
  v_want := CASE WHEN p_id = ANY (v_sharing) THEN least(p_limit, v_capacity - v_holds) ELSE 0 END;
  IF p_at_once < v_want AND cardinality(v_sharing) > 1 AND (p_over_share OR session_lock.asked_lately(v_sharing, v_clock)) THEN
    v_want := p_at_once;
  END IF;
  IF p_over_share THEN
    NULL;  -- it had nothing to do for its patience
  ELSIF v_want > 0 AND cardinality(v_sharing) > 1 THEN
    v_total := (SELECT sum(c) FROM unnest(v_capacities) AS c);
    SELECT count(*) INTO v_tasks
      FROM (SELECT FROM TODO_TASKS AS t WHERE (TODO_PENDING) AND t.available_at <= v_clock LIMIT v_total) AS task;
    IF v_tasks > 0 AND v_tasks < v_total THEN
      v_share := coalesce(session_lock.share(p_id, v_sharing, v_capacities, v_tasks), 0);
      v_want := least(v_want, v_share - v_holds, p_at_once);  -- nothing is taken ahead
    END IF;
  END IF;

  -- 4 Claim. Claimable is what is pending, due, and free: held by nobody, by a session *known* to be ended, or by the caller
  --   who does not know it (the answer to that call was lost).
  IF v_want > 0 THEN
    v_keys := ARRAY(
      SELECT t.TODO_KEY
        FROM TODO_TASKS AS t
       WHERE (TODO_PENDING) AND t.available_at <= v_clock
         AND (t.session_id IS NULL OR t.session_id = ANY (v_ended) OR (t.session_id = p_id AND t.TODO_KEY <> ALL (v_held)))
       ORDER BY TODO_ORDER, t.TODO_KEY
       LIMIT v_want
         FOR NO KEY UPDATE OF t SKIP LOCKED
    );
    IF cardinality(v_expired) > 0 THEN  -- nobody was left to say what went wrong with these
      PERFORM session_lock.note_expired(v_name, array_agg(t.TODO_KEY::text), array_agg(t.attempts), array_agg(t.session_id), v_clock)
         FROM TODO_TABLE AS t
        WHERE t.TODO_KEY = ANY (v_keys) AND t.session_id = ANY (v_expired)
       HAVING count(*) > 0;
    END IF;
    UPDATE TODO_TABLE AS t
       SET session_id = p_id, claim_token = coalesce(t.claim_token, 0) + 1,
           attempts = t.attempts + (t.session_id IS DISTINCT FROM p_id)::integer  -- a lost answer was no attempt
     WHERE t.TODO_KEY = ANY (v_keys);
    RETURN QUERY
    SELECT 'task'::text, t.TODO_KEY, t.claim_token, t.attempts, NULL::text,
           NULL::text, NULL::double precision, NULL::double precision, NULL::integer,
           CASE WHEN t.attempts > 2 THEN session_lock.is_suspect(v_name, t.TODO_KEY::text) END,  -- to be run alone
           NULL::double precision, NULL::boolean, NULL::integer, TODO_SELECT
      FROM unnest(v_keys) WITH ORDINALITY AS claim (key, rank)
      JOIN TODO_TASKS AS t ON t.TODO_KEY = claim.key
     ORDER BY claim.rank;
  END IF;

  -- For quiet wake-ups.
  PERFORM session_lock.note_look(p_id, p_id = ANY (v_sharing) AND cardinality(v_keys) < p_limit, NULL, v_clock);

  -- 5 All that is due has been walked: an ended session that none of the tasks names leaves the list, and tasks of
  --   sessions whose rows somebody deleted are freed. A caller who found nothing, and could begin tasks, asks those that hold more than their share.
  IF v_want > 0 AND cardinality(v_keys) < v_want THEN
    SELECT coalesce(array_agg(h.id), '{}'), coalesce(array_agg(h.held), '{}') INTO v_named, v_counts
      FROM (
        SELECT t.session_id AS id, count(*) AS held
          FROM TODO_TASKS AS t
         WHERE (TODO_PENDING) AND t.available_at <= v_clock AND t.session_id IS NOT NULL AND t.session_id <> p_id
         GROUP BY t.session_id
      ) AS h;
    IF p_at_once > 0 AND cardinality(v_keys) = 0 AND cardinality(v_named) > 0 THEN
      v_tasks := v_holds
        + (SELECT coalesce(sum(h.held), 0) FROM unnest(v_named, v_counts) AS h (id, held) WHERE h.id = ANY (v_sharing));
      PERFORM session_lock.ask_for_tasks(v_sharing, v_capacities, v_tasks, v_named, v_counts, v_clock);
    END IF;
    v_gone := session_lock.sweep_sessions(v_ended, v_named, v_clock);
    IF cardinality(v_gone) > 0 THEN
      v_keys := ARRAY(
        SELECT t.TODO_KEY FROM TODO_TABLE AS t
         WHERE t.session_id = ANY (v_gone)
         ORDER BY t.TODO_KEY
           FOR NO KEY UPDATE SKIP LOCKED
      );
      UPDATE TODO_TABLE AS t SET session_id = NULL WHERE t.TODO_KEY = ANY (v_keys);
    END IF;
  END IF;

  -- Assigning leaves the mapping's own columns NULL. No position and no next_due: they are hints, which a Runner can miss.
  kind := 'state';
  task_key := NULL;
  outcome := NULL;
  lease_left := extract(epoch FROM v_expires - v_clock);
  task_share := v_share;
  sharing := cardinality(v_sharing);
  RETURN NEXT;
END
$function$;

-- Gives tasks back, each in its own way (the arrays run side by side): p_after seconds from now (NULL: in its old
-- place; infinity: parked), p_give_back: the attempt does not count, p_discard: given up, p_errors: what went wrong. p_wake: the
-- others shall have them at once.
-- For each key: released · discarded · parked · already yours · lost · locked · unknown.
CREATE OR REPLACE FUNCTION session_lock.release_tasks_TODO_NAME(
  p_id bigint, p_nonce uuid, p_keys TODO_KEY_TYPE[], p_tokens bigint[],
  p_after double precision[], p_give_back boolean[], p_discard boolean[], p_errors text[], p_wake boolean
) RETURNS TABLE (task_key TODO_KEY_TYPE, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
DECLARE
  v_name    text;
  v_clock   timestamptz;
  v_attempt integer;
  r         record;
BEGIN
  SELECT h.name, h.at INTO v_name, v_clock FROM session_lock.hold_session(p_id, p_nonce) AS h;

  -- One by one, since each may differ; standing_TODO_NAME has locked them all, so their order is no matter here.
  FOR r IN SELECT DISTINCT ON (g.key, g.token) s.standing, g.*
             FROM session_lock.standing_TODO_NAME(p_id, p_keys, p_tokens) AS s
             JOIN unnest(p_keys, p_tokens, p_after, p_give_back, p_discard, p_errors)
                  AS g (key, token, after, give_back, discard, error)
               ON g.key = s.task_key AND g.token IS NOT DISTINCT FROM s.task_token LOOP
    task_key := r.key;
    outcome := CASE r.standing
      WHEN 'finished' THEN 'already yours' WHEN 'free' THEN 'already yours' WHEN 'closed' THEN 'lost' ELSE r.standing
    END;
    IF r.standing = 'closed' THEN
      UPDATE TODO_TABLE AS t SET session_id = NULL WHERE t.TODO_KEY = r.key;
    ELSIF r.standing = 'held' AND r.discard THEN
      UPDATE TODO_TABLE AS t SET session_id = NULL, TODO_DISCARD = DEFAULT
       WHERE t.TODO_KEY = r.key
      RETURNING t.attempts INTO v_attempt;
      outcome := CASE
        WHEN EXISTS (SELECT FROM TODO_TASKS AS t WHERE t.TODO_KEY = r.key AND (TODO_PENDING)) THEN 'parked' ELSE 'discarded'
      END;
    ELSIF r.standing = 'held' THEN
      UPDATE TODO_TABLE AS t
         SET session_id = NULL,
             attempts = greatest(t.attempts - r.give_back::integer, 0),
             available_at = CASE
               WHEN r.after IS NULL THEN t.available_at
               WHEN r.after = 'infinity' THEN 'infinity'
               ELSE v_clock + make_interval(secs => r.after)
             END
       WHERE t.TODO_KEY = r.key
      RETURNING t.attempts + r.give_back::integer INTO v_attempt;
      outcome := CASE WHEN r.after = 'infinity' THEN 'parked' ELSE 'released' END;
    END IF;
    IF r.standing = 'held' AND r.error IS NOT NULL THEN
      INSERT INTO session_lock.failure (name, task_key, attempt, at, session, error)
      VALUES (v_name, r.key::text, v_attempt, v_clock, p_id, left(r.error, 4000));
      PERFORM session_lock.trim_failures(v_name, ARRAY[r.key::text]);
    END IF;
    RETURN NEXT;
  END LOOP;
  IF p_wake THEN  -- for the others, at once, also for those that have no room now
    PERFORM session_lock.wake(v_name);
  END IF;
END
$function$;

-- Ends the session and gives back what it knows that it holds, with the attempts. The rest is free because it has ended. The
-- row's lock makes it wait for an open finish of the session's own: nobody ends a session in any other way than under it.
CREATE OR REPLACE FUNCTION session_lock.end_session_TODO_NAME(
  p_id bigint, p_nonce uuid, p_keys TODO_KEY_TYPE[], p_tokens bigint[]
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
DECLARE
  v_name text;
  v_held TODO_KEY_TYPE[];
BEGIN
  SELECT s.name INTO v_name
    FROM session_lock.session AS s WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  v_held := ARRAY(
    SELECT s.task_key FROM session_lock.standing_TODO_NAME(p_id, p_keys, p_tokens) AS s WHERE s.standing = 'held'
  );
  UPDATE TODO_TABLE AS t SET session_id = NULL, attempts = greatest(t.attempts - 1, 0) WHERE t.TODO_KEY = ANY (v_held);
  UPDATE session_lock.session AS s SET ended_at = session_lock.clock() WHERE s.id = p_id;
  PERFORM session_lock.wake(v_name, cardinality(p_keys) = 0);  -- its tasks are for the others
  RETURN true;
END
$function$;

-- Everybody may execute a new function; these act with the rights of their owner.
REVOKE ALL ON FUNCTION
  session_lock.standing_TODO_NAME(bigint, TODO_KEY_TYPE[], bigint[]),
  session_lock.get_work_TODO_NAME(bigint, uuid, integer, TODO_KEY_TYPE[], text, text, boolean, integer, TODO_KEY_TYPE[], bigint[]),
  session_lock.finish_tasks_TODO_NAME(bigint, uuid, TODO_KEY_TYPE[], bigint[]),
  session_lock.finish_in_TODO_NAME(bigint, uuid, TODO_KEY_TYPE[], bigint[]),
  session_lock.release_tasks_TODO_NAME(bigint, uuid, TODO_KEY_TYPE[], bigint[], double precision[], boolean[], boolean[], text[], boolean),
  session_lock.end_session_TODO_NAME(bigint, uuid, TODO_KEY_TYPE[], bigint[])
FROM PUBLIC;
