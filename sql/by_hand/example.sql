-- session_lock by hand, the example: orders that are to be packed. It is tasks.up.sql and tasks.alwaysup.sql of this
-- folder with every TODO filled in, and a mapping could not say it: three tables together decide what is a task, and in
-- which order.
--
--   a task      an order that is new, whose customer is not blocked, and for which a payment has come in
--   the order   VIPs' orders first, then the oldest; whether somebody is one stands in another table
--   finished    the order's state is 'packed' (one of three), and the time is kept
--   given up    its state is 'cancelled'
--
-- Run it after sessions.up.sql and sessions.alwaysup.sql. Running it again changes nothing.

-- 0 The application's own tables, here to make the example whole.

CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.customer (
  id         bigint PRIMARY KEY,
  name       text NOT NULL,
  is_vip     boolean NOT NULL DEFAULT false,
  blocked_at timestamptz
);

CREATE TABLE IF NOT EXISTS shop.orders (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_id bigint NOT NULL REFERENCES shop.customer,
  state       text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'packed', 'cancelled')),
  placed_at   timestamptz NOT NULL,
  packed_at   timestamptz
);

CREATE TABLE IF NOT EXISTS shop.payment (
  order_id bigint PRIMARY KEY REFERENCES shop.orders
);

-- 1 tasks.up.sql: the order is what is locked, so it gets the columns. A payment that arrives, or a customer who is
--   unblocked, makes a task without touching the order: nothing has to be told, the next call finds it.

SET lock_timeout = '50ms';  -- rather give up than wait for a long transaction, with everybody behind us: run it again then

ALTER TABLE shop.orders
  ADD COLUMN IF NOT EXISTS session_id bigint,                                -- who holds it
  ADD COLUMN IF NOT EXISTS claim_token bigint,                               -- counts its claims; never reset
  ADD COLUMN IF NOT EXISTS attempts integer NOT NULL DEFAULT 0,              -- claims that count
  ADD COLUMN IF NOT EXISTS available_at timestamptz NOT NULL DEFAULT now();  -- not before; infinity is parked

-- Every call looks for tasks: an index that finds those that are pending, in their order if this table knows it. If the
-- table is large, make the index by hand and CONCURRENTLY.
CREATE INDEX IF NOT EXISTS packing_pending ON shop.orders (placed_at) WHERE (state = 'new');

RESET lock_timeout;

-- 2 tasks.alwaysup.sql. A customer may be blocked between the claim and the finish: the order is not pending any
--   more then, its finish is refused as lost, and what the tasker wrote in the finishing transaction is undone with it.

-- Where each of the caller's claims stands: held · closed (mine, but the application closed it) · finished or free
-- (settled by an earlier call) · lost (somebody else's) · locked (by somebody's transaction: ask again) · unknown.
CREATE OR REPLACE FUNCTION session_lock.standing_packing(p_id bigint, p_keys bigint[], p_tokens bigint[])
RETURNS TABLE (task_key bigint, task_token bigint, standing text)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
  v_locked bigint[];
BEGIN
  -- Lock in one statement and look in the next: a lock waits for the newest version of its own row, but what else the
  -- same statement reads is as old as its start, and would take a row for pending that has just been closed.
  v_locked := ARRAY(
    SELECT t.id FROM shop.orders AS t WHERE t.id = ANY (p_keys) ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED
  );
  RETURN QUERY
  SELECT claim.key, claim.token,
         CASE
           WHEN t.id IS NULL THEN 'unknown'
           WHEN t.id <> ALL (v_locked) THEN 'locked'
           WHEN t.claim_token IS DISTINCT FROM claim.token THEN 'lost'
           WHEN t.session_id = p_id AND pending.key IS NOT NULL THEN 'held'
           WHEN t.session_id = p_id THEN 'closed'
           WHEN t.session_id IS NULL AND pending.key IS NOT NULL THEN 'free'
           WHEN t.session_id IS NULL THEN 'finished'
           ELSE 'lost'
         END
    FROM unnest(p_keys, p_tokens) AS claim (key, token)
    LEFT JOIN shop.orders AS t ON t.id = claim.key
    LEFT JOIN (SELECT t.id FROM (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)
        WHERE t.id = ANY (v_locked) AND (t.state = 'new' AND c.blocked_at IS NULL
        AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id))) AS pending (key)
      ON pending.key = claim.key;
END
$function$;

-- Flags tasks as finished. For each key: finished · already yours · lost · locked · unknown.
CREATE OR REPLACE FUNCTION session_lock.finish_tasks_packing(
  p_id bigint, p_nonce uuid, p_keys bigint[], p_tokens bigint[]
) RETURNS TABLE (task_key bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
DECLARE
  v_keys      bigint[];
  v_standings text[];
  v_held      bigint[];
  v_closed    bigint[];
BEGIN
  PERFORM session_lock.hold_session(p_id, p_nonce);  -- SL001 if it is not live; it cannot end before this transaction does
  SELECT array_agg(s.task_key), array_agg(s.standing),
         array_agg(s.task_key) FILTER (WHERE s.standing = 'held'), array_agg(s.task_key) FILTER (WHERE s.standing = 'closed')
    INTO v_keys, v_standings, v_held, v_closed
    FROM session_lock.standing_packing(p_id, p_keys, p_tokens) AS s;

  UPDATE shop.orders AS t SET session_id = NULL, state = 'packed', packed_at = session_lock.clock()
      WHERE t.id = ANY (v_held);
  IF EXISTS (SELECT FROM (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)
      WHERE t.id = ANY (v_held) AND (t.state = 'new' AND c.blocked_at IS NULL
      AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id))) THEN
    RAISE EXCEPTION 'finish leaves a row of packing pending' USING ERRCODE = 'SL003';
  END IF;
  UPDATE shop.orders AS t SET session_id = NULL WHERE t.id = ANY (v_closed);

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
CREATE OR REPLACE FUNCTION session_lock.finish_in_packing(
  p_id bigint, p_nonce uuid, p_keys bigint[], p_tokens bigint[]
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

  PERFORM FROM shop.orders AS t WHERE t.id = ANY (p_keys) ORDER BY t.id FOR NO KEY UPDATE;  -- may wait
  IF session_lock.clock() >= v_expires THEN  -- the lease ran out in that wait
    RAISE EXCEPTION 'session % is not live', p_id USING ERRCODE = 'SL001';
  END IF;
  IF EXISTS (SELECT FROM session_lock.standing_packing(p_id, p_keys, p_tokens) AS s WHERE s.standing <> 'held') THEN
    RAISE EXCEPTION 'not all of these tasks of packing are held by session %', p_id USING ERRCODE = 'SL002';
  END IF;

  UPDATE shop.orders AS t SET session_id = NULL, state = 'packed', packed_at = session_lock.clock()
      WHERE t.id = ANY (p_keys);
  IF EXISTS (SELECT FROM (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)
      WHERE t.id = ANY (p_keys) AND (t.state = 'new' AND c.blocked_at IS NULL
      AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id))) THEN
    RAISE EXCEPTION 'finish leaves a row of packing pending' USING ERRCODE = 'SL003';
  END IF;
END
$function$;

-- Work for a session: records what it has finished, takes over from the dead, and claims up to p_limit tasks. p_held are
-- the keys that it knows it holds, p_at_once how many tasks it could begin at once. Rows of three kinds: 'outcome' (of p_finished), 'task', and last one 'state'.
CREATE OR REPLACE FUNCTION session_lock.get_work_packing(
  p_id bigint, p_nonce uuid, p_limit integer, p_held bigint[], p_position text, p_until text, p_over_share boolean, p_at_once integer,
  p_finished bigint[], p_tokens bigint[]
) RETURNS TABLE (
  kind text, task_key bigint, task_token bigint, task_attempt integer, outcome text,
  task_position text, next_due double precision, lease_left double precision, task_share integer, task_alone boolean,
  walked double precision, heard boolean, sharing integer, id bigint, customer text, placed_at timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
DECLARE
  v_held       bigint[] := coalesce(p_held, '{}');
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
  v_keys       bigint[] := '{}';
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
                             FROM session_lock.finish_tasks_packing(p_id, p_nonce, p_finished, p_tokens) AS f LOOP
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
      FROM (SELECT FROM (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)
          WHERE (t.state = 'new' AND c.blocked_at IS NULL
          AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id)) AND t.available_at <= v_clock
          LIMIT v_total) AS task;
    IF v_tasks > 0 AND v_tasks < v_total THEN
      v_share := coalesce(session_lock.share(p_id, v_sharing, v_capacities, v_tasks), 0);
      v_want := least(v_want, v_share - v_holds, p_at_once);  -- nothing is taken ahead
    END IF;
  END IF;

  -- 4 Claim. Claimable is what is pending, due, and free: held by nobody, by a session *known* to be ended, or by the caller
  --   who does not know it (the answer to that call was lost).
  IF v_want > 0 THEN
    v_keys := ARRAY(
      SELECT t.id
        FROM (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)
       WHERE (t.state = 'new' AND c.blocked_at IS NULL
           AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id)) AND t.available_at <= v_clock
         AND (t.session_id IS NULL OR t.session_id = ANY (v_ended) OR (t.session_id = p_id AND t.id <> ALL (v_held)))
       ORDER BY c.is_vip DESC, t.placed_at, t.id
       LIMIT v_want
         FOR NO KEY UPDATE OF t SKIP LOCKED
    );
    IF cardinality(v_expired) > 0 THEN  -- nobody was left to say what went wrong with these
      PERFORM session_lock.note_expired(v_name, array_agg(t.id::text), array_agg(t.attempts), array_agg(t.session_id), v_clock)
         FROM shop.orders AS t
        WHERE t.id = ANY (v_keys) AND t.session_id = ANY (v_expired)
       HAVING count(*) > 0;
    END IF;
    UPDATE shop.orders AS t
       SET session_id = p_id, claim_token = coalesce(t.claim_token, 0) + 1,
           attempts = t.attempts + (t.session_id IS DISTINCT FROM p_id)::integer  -- a lost answer was no attempt
     WHERE t.id = ANY (v_keys);
    RETURN QUERY
    SELECT 'task'::text, t.id, t.claim_token, t.attempts, NULL::text,
           NULL::text, NULL::double precision, NULL::double precision, NULL::integer,
           CASE WHEN t.attempts > 2 THEN session_lock.is_suspect(v_name, t.id::text) END,  -- to be run alone
           NULL::double precision, NULL::boolean, NULL::integer, t.id, c.name, t.placed_at
      FROM unnest(v_keys) WITH ORDINALITY AS claim (key, rank)
      JOIN (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id) ON t.id = claim.key
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
          FROM (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)
         WHERE (t.state = 'new' AND c.blocked_at IS NULL
           AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id)) AND t.available_at <= v_clock
           AND t.session_id IS NOT NULL AND t.session_id <> p_id
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
        SELECT t.id FROM shop.orders AS t
         WHERE t.session_id = ANY (v_gone)
         ORDER BY t.id
           FOR NO KEY UPDATE SKIP LOCKED
      );
      UPDATE shop.orders AS t SET session_id = NULL WHERE t.id = ANY (v_keys);
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
CREATE OR REPLACE FUNCTION session_lock.release_tasks_packing(
  p_id bigint, p_nonce uuid, p_keys bigint[], p_tokens bigint[],
  p_after double precision[], p_give_back boolean[], p_discard boolean[], p_errors text[], p_wake boolean
) RETURNS TABLE (task_key bigint, outcome text)
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

  -- One by one, since each may differ; standing_packing has locked them all, so their order is no matter here.
  FOR r IN SELECT DISTINCT ON (g.key, g.token) s.standing, g.*
             FROM session_lock.standing_packing(p_id, p_keys, p_tokens) AS s
             JOIN unnest(p_keys, p_tokens, p_after, p_give_back, p_discard, p_errors)
                  AS g (key, token, after, give_back, discard, error)
               ON g.key = s.task_key AND g.token IS NOT DISTINCT FROM s.task_token LOOP
    task_key := r.key;
    outcome := CASE r.standing
      WHEN 'finished' THEN 'already yours' WHEN 'free' THEN 'already yours' WHEN 'closed' THEN 'lost' ELSE r.standing
    END;
    IF r.standing = 'closed' THEN
      UPDATE shop.orders AS t SET session_id = NULL WHERE t.id = r.key;
    ELSIF r.standing = 'held' AND r.discard THEN
      UPDATE shop.orders AS t SET session_id = NULL, state = 'cancelled'
       WHERE t.id = r.key
      RETURNING t.attempts INTO v_attempt;
      outcome := CASE
        WHEN EXISTS (SELECT FROM (shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)
            WHERE t.id = r.key AND (t.state = 'new' AND c.blocked_at IS NULL
            AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id))) THEN 'parked' ELSE 'discarded'
      END;
    ELSIF r.standing = 'held' THEN
      UPDATE shop.orders AS t
         SET session_id = NULL,
             attempts = greatest(t.attempts - r.give_back::integer, 0),
             available_at = CASE
               WHEN r.after IS NULL THEN t.available_at
               WHEN r.after = 'infinity' THEN 'infinity'
               ELSE v_clock + make_interval(secs => r.after)
             END
       WHERE t.id = r.key
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
CREATE OR REPLACE FUNCTION session_lock.end_session_packing(
  p_id bigint, p_nonce uuid, p_keys bigint[], p_tokens bigint[]
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
DECLARE
  v_name text;
  v_held bigint[];
BEGIN
  SELECT s.name INTO v_name
    FROM session_lock.session AS s WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  v_held := ARRAY(
    SELECT s.task_key FROM session_lock.standing_packing(p_id, p_keys, p_tokens) AS s WHERE s.standing = 'held'
  );
  UPDATE shop.orders AS t SET session_id = NULL, attempts = greatest(t.attempts - 1, 0) WHERE t.id = ANY (v_held);
  UPDATE session_lock.session AS s SET ended_at = session_lock.clock() WHERE s.id = p_id;
  PERFORM session_lock.wake(v_name, cardinality(p_keys) = 0);  -- its tasks are for the others
  RETURN true;
END
$function$;

-- Everybody may execute a new function; these act with the rights of their owner.
REVOKE ALL ON FUNCTION
  session_lock.standing_packing(bigint, bigint[], bigint[]),
  session_lock.get_work_packing(bigint, uuid, integer, bigint[], text, text, boolean, integer, bigint[], bigint[]),
  session_lock.finish_tasks_packing(bigint, uuid, bigint[], bigint[]),
  session_lock.finish_in_packing(bigint, uuid, bigint[], bigint[]),
  session_lock.release_tasks_packing(bigint, uuid, bigint[], bigint[], double precision[], boolean[], boolean[], text[], boolean),
  session_lock.end_session_packing(bigint, uuid, bigint[], bigint[])
FROM PUBLIC;
