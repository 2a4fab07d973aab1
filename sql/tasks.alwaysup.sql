-- session_lock: the functions of one mapping, __title__. Run at every deploy, before the new code starts: CREATE OR
-- REPLACE only, and the names end in a hash over what their signatures depend on, so instances of the version before go on
-- working. Words between double underscores are holes that `session-lock sql always` fills with the mapping's names.
--
-- How to read the bodies. The mapping's own expressions (pending, finish, discard) stand where nothing but the columns
-- of the task table, under the alias t, is in scope; columns win over variables; and variables are called my.x there,
-- so that no column of any table can be taken for one of them.
--
-- An array of keys stands in a statement of each call as (SELECT my.keys). As a parameter PostgreSQL would look into it and, where it
-- has few elements, plan the statement anew each time, which takes longer than to execute it.
--
-- What holds them together:
--   * Lock order, everywhere: the own session's row (FOR KEY SHARE), then task rows in key order; what is noted in the
--     session's row after that (note_look) waits for nobody.
--   * A claim is (session, token). The token is the row's own counter: it only grows, and is never cleared.
--   * Finish, discard and release clear the session of a row and nothing else of the claim. So a row with my token and
--     no session is one that I have settled; and a row opened again by hand is claimable at once.

-- Where each of the caller's claims stands, with its row locked if it can be without waiting:
--   held: its own, and pending · closed: its own, but the application has closed the row meanwhile · finished: settled
--   by an earlier call, and not pending · free: given back by an earlier call · lost: somebody else's, or claimed again
--   locked: somebody's transaction has the row, ask again · unknown: there is no such row
CREATE OR REPLACE FUNCTION session_lock.standing__set__(p_id bigint, p_keys __key_type__[], p_tokens bigint[])
RETURNS TABLE (task_key __key_type__, standing text)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  keys __key_type__[] := p_keys;
BEGIN
  RETURN QUERY
  WITH task AS MATERIALIZED (
    SELECT t.__key__ AS key, t.__session_id__ AS holder, t.__claim_token__ AS token, (__pending__) IS TRUE AS pending
      FROM __table__ AS t
     WHERE t.__key__ = ANY ((SELECT my.keys)::__key_type__[])
     ORDER BY t.__key__
       FOR NO KEY UPDATE SKIP LOCKED
  )
  SELECT claim.key,
         CASE
           WHEN task.key IS NULL THEN
             CASE WHEN EXISTS (SELECT FROM __table__ AS t WHERE t.__key__ = claim.key) THEN 'locked' ELSE 'unknown' END
           WHEN task.token IS DISTINCT FROM claim.token THEN 'lost'
           WHEN task.holder = p_id AND task.pending THEN 'held'
           WHEN task.holder = p_id THEN 'closed'
           WHEN task.holder IS NULL AND task.pending THEN 'free'
           WHEN task.holder IS NULL THEN 'finished'
           ELSE 'lost'
         END
    FROM unnest((SELECT p_keys), (SELECT p_tokens)) AS claim (key, token)
    LEFT JOIN task ON task.key = claim.key;
END
$function$;

-- Work for a session, in one round trip: records what it has finished, takes over from the dead, and claims tasks.
--
--   p_limit       how many tasks the caller has room for
--   p_held        the keys that it holds, those of p_finished among them. A row that names it and is not one of them was claimed
--                 by a call whose reply was lost; it is claimed again here, with a new token.
--   p_position    the position of an earlier reply: nothing before it is looked at, so what has become free there is found by a
--                 look from the start, NULL, which the caller makes now and then and where this one brings too little. What was
--                 claimed and finished stays in the index as long as somebody's old snapshot may see it: a look that begins
--                 behind it need not walk over it.
--   p_until       another one: what lies behind it need not be looked at, so such a look walks over a piece of all that is due
--                 (NULL, under limits, and where the order has no ends: up to the end)
--   p_over_share  it had nothing to do for its patience: the share does not bind it now
--   p_at_once     how many of these its tasker could begin at once: where work is scarce it gets no more, so that what is not begun
--                 stays for others; and if it finds none, those that hold more than their share are asked for theirs
--   p_finished, p_tokens   claims to finish first (as finish_tasks does)
--
-- Returns rows of three kinds:
--   'task'     task_key, task_token, task_attempt, task_alone (its session expired under it again and again: run it with
--              nothing beside it) and the mapping's columns, in claim order; outcome is 'cancelled' if it is to be discarded
--              and not run, 'rescued' if the session that had it has expired. The last one has task_position, for the next call (the first one, under limits: what they passed over).
--   'outcome'  task_key and outcome of each of p_finished
--   'state'    once, last: next_due (seconds until the next task is due, if there were fewer tasks than room), lease_left
--              (seconds), task_share (how many tasks the session may hold; NULL where the share does not bind: there is
--              plenty, or nobody to share with), walked (seconds that it took to look through all that is due, or through
--              what lies before p_until; NULL if the look began at a position and went to the end), heard (until next_due each
--              task that comes wakes who listens, so nobody need look for it), sharing (how many sessions there are that may be
--              given work); outcome is 'limited' if a limit of the mapping has held tasks back.
CREATE OR REPLACE FUNCTION session_lock.get_work__set__(
  p_id bigint, p_nonce uuid, p_limit integer, p_held __key_type__[], p_position text, p_until text, p_over_share boolean, p_at_once integer,
  p_finished __key_type__[], p_tokens bigint[]
) RETURNS TABLE (
  kind text, task_key __key_type__, task_token bigint, task_attempt integer, outcome text,
  task_position text, next_due double precision, lease_left double precision, task_share integer, task_alone boolean,
  walked double precision, heard boolean, sharing integer, __columns__ text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  id         bigint := p_id;
  held       __key_type__[] := coalesce(p_held, '{}');
  holds      integer := cardinality(coalesce(p_held, '{}'));  -- of these: how many it still holds when some have been finished
  want       integer;
  name       text;
  capacity   integer;
  expires    timestamptz;
  clock      timestamptz;
  ended      bigint[];
  expired    bigint[];
  sharing    bigint[];
  capacities integer[];
  total      bigint;
  enough     bigint;
  tasks      bigint;
  free       bigint;  -- of these
  others     bigint;  -- how many they hold
  part       bigint;
  counted    integer;
  many       bigint;
  share      integer;
  start      text := p_position;
  until      text := CASE WHEN __ends__ THEN p_until END;
  named      bigint[];
  counts     bigint[];
  gone       bigint[];
  keys       __key_type__[] := '{}';
  outcomes   text[];
  limited    boolean := false;
  next_at    timestamptz;
  not_before timestamptz;
  asked      text[];
  cancelled  __key_type__[] := '{}';
  rescued    __key_type__[] := '{}';
  anew       __key_type__[] := '{}';
  version    numeric[];  -- the session's, for what the mapping asks of it (accepts)
  from_start boolean;
  since      timestamptz;
  walked     double precision;
  heard      boolean := false;
BEGIN
  my.from_start := p_position IS NULL AND my.until IS NULL;
  -- Ended sessions are read in one statement and used in the next; that is sound only if the next one sees more.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'get_work needs READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
      USING ERRCODE = 'invalid_transaction_state';
  END IF;
  SELECT h.name, h.capacity, h.expires_at, h.at INTO my.name, my.capacity, my.expires, my.clock
    FROM session_lock.hold_session(p_id, p_nonce) AS h;
  IF my.name <> __name__ THEN  -- when it ends, no session of this mapping would hear of it, and take over what it claims here
    RAISE EXCEPTION 'session % is not one of this mapping', p_id USING ERRCODE = 'SL001';
  END IF;
  IF __has_accepts__ THEN
    my.version := (SELECT session_lock.version_numbers(s.app_version) FROM session_lock.session AS s WHERE s.id = p_id);
  END IF;
  -- A client that freezes while it reads a long reply keeps this transaction open, with all its locks. Of the server's timeouts
  -- only that of its socket ends that (and where it has none it complains of the attempt to set it).
  IF version() LIKE '%linux%' THEN
    PERFORM set_config('tcp_user_timeout', ceil(extract(epoch FROM
                         least(greatest(my.expires - my.clock, interval '1 second'), interval '24 days')) * 1000)::text, true);
  END IF;

  -- 1 Finish what the caller has accomplished, while nothing but the own session is locked.
  IF cardinality(p_finished) > 0 THEN
    SELECT array_agg(f.task_key), array_agg(f.outcome), greatest(my.holds - count(*) FILTER (WHERE f.outcome <> 'locked'), 0)
      INTO my.keys, my.outcomes, my.holds
      FROM session_lock.finish_tasks__set__(p_id, p_nonce, p_finished, p_tokens) AS f;
    RETURN QUERY
    SELECT 'outcome'::text, f.key, NULL::bigint, NULL::integer, f.outcome,
           NULL::text, NULL::double precision, NULL::double precision, NULL::integer, NULL::boolean, NULL::double precision, NULL::boolean,
           NULL::integer, __no_columns__
      FROM unnest(my.keys, my.outcomes) AS f (key, outcome);
    my.keys := '{}';
  END IF;

  -- 2 Who has ended, who shares. From here on the ended ones are known, and never more than they.
  SELECT s.ended, s.expired, s.sharing, s.capacities, s.counted
    INTO my.ended, my.expired, my.sharing, my.capacities, my.counted
    FROM session_lock.sessions_of(my.name, my.clock) AS s;

  -- 3 The share, for who may be given work at all (not while it drains, or the mapping is paused): of the tasks that are
  --   there, held ones included, counted no further than it takes to allow all that is wanted. More than 1000 are counted by
  --   one session for all, once in a second; as is plenty for all, where that is more than 200. Alone, or after its patience,
  --   a session takes what it has room for. Nothing is claimed ahead where there is not plenty for all, or somebody has had
  --   nothing to do within the last second. From a position on not all is counted: is that too little, the others hold what is seen,
  --   or as many as they ran at their last keepalives, if that is more. As that may have changed, a session takes at least its part
  --   of what is free, rounded up. (Of what lies before p_until, which is not counted, and where not each task is for all, it
  --   takes what it can begin at once.)
  my.since := session_lock.clock();
  my.want := CASE WHEN p_id = ANY (my.sharing) THEN least(p_limit, my.capacity - my.holds) ELSE 0 END;
  IF p_at_once < my.want AND cardinality(my.sharing) > 1 AND session_lock.asked_lately(my.sharing, my.clock) THEN
    my.want := p_at_once;
  END IF;
  IF my.want > 0 AND (p_over_share OR my.until IS NOT NULL) AND cardinality(my.sharing) > 1 THEN
    my.want := least(my.want, p_at_once);
  ELSIF my.want > 0 AND cardinality(my.sharing) > 1 THEN
    my.total := (SELECT sum(c) FROM unnest(my.capacities) AS c);
    my.enough := CASE
      WHEN p_at_once < my.want THEN my.total  -- to claim ahead there must be plenty for all
      ELSE least(my.total, ceil((my.holds + my.want)::numeric * my.total / my.capacity))
    END;
    IF my.counted >= my.enough OR my.enough > 1000 AND my.counted IS NOT NULL THEN
      my.tasks := my.counted;
    ELSE
      my.many := CASE WHEN my.enough > 1000 THEN my.total ELSE my.enough END;
      IF __picks__ THEN
        my.tasks := session_lock.possible__set__(my.many, my.clock, my.version);
      ELSE
        SELECT count(*), count(*) FILTER (WHERE task.holder IS NULL OR task.holder = ANY (my.ended)),
               count(*) FILTER (WHERE task.holder <> my.id AND task.holder <> ALL (my.ended))
          INTO my.tasks, my.free, my.others
          FROM (
            -- for each part of the order
            SELECT t.__session_id__ AS holder
              FROM __table__ AS t
             WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__ AND __from_position__
            -- as far as here
            LIMIT my.many
          ) AS task;
      END IF;
      my.many := CASE WHEN (my.tasks > 1000 AND my.from_start) OR (my.tasks = my.total AND my.total > 200) THEN my.tasks END;
      IF __has_accepts__ THEN  -- what this version may have is not for all
        my.many := NULL;
      END IF;
    END IF;
    IF my.free IS NOT NULL AND NOT my.from_start AND my.tasks < my.enough THEN
      IF my.free > 0 AND NOT __has_accepts__ THEN
        my.others := greatest(my.others, (
          SELECT sum(s.running) FROM session_lock.session AS s WHERE s.id = ANY (my.sharing) AND s.id <> p_id
        ));
        my.part := greatest(session_lock.share(p_id, my.sharing, my.capacities, my.holds + my.free + my.others) - my.holds,
                            ceil(my.free::numeric * my.capacity / my.total));
        my.share := CASE WHEN my.part < my.free THEN my.holds + my.part END;
      END IF;
      my.want := least(my.want, my.share - my.holds, p_at_once);
    ELSIF my.tasks > 0 AND my.tasks < my.enough THEN
      IF __has_accepts__ AND NOT __picks__ THEN  -- each task is for those alone that may be given it
        my.share := coalesce((
          SELECT sum(session_lock.share(p_id, among.ids, among.capacities, need.tasks))
            FROM (SELECT task.needed, count(*) AS tasks
                    FROM (SELECT __accepts__ AS needed FROM __table__ AS t
                           WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__ LIMIT my.enough) AS task
                   GROUP BY task.needed) AS need
           CROSS JOIN LATERAL session_lock.__sharing_with__(my.sharing, my.capacities, need.needed) AS among
        ), 0);
      ELSE
        my.share := coalesce(session_lock.share(p_id, my.sharing, my.capacities, my.tasks), 0);
      END IF;
      my.want := least(my.want, my.share - my.holds, p_at_once);
      IF __picks__ AND my.share <= my.holds THEN  -- all that the limits let it hold: are there tasks that they hold back?
        SELECT count(*) > my.tasks INTO my.limited
          FROM (SELECT FROM __table__ AS t WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__ LIMIT my.tasks + 1) AS task;
      END IF;
    END IF;
  END IF;

  -- 4 What one of the ended was asked to cancel is claimed to be discarded: the request is the caller's from now on.
  IF my.want > 0 AND cardinality(my.ended) > 0 THEN
    my.asked := ARRAY(
      SELECT s.id || ' ' || k FROM session_lock.session AS s, unnest(s.cancel_keys) AS k WHERE s.id = ANY (my.ended)
    );
    IF cardinality(my.asked) > 0 THEN
      my.cancelled := ARRAY(
        SELECT t.__key__ FROM __table__ AS t
         WHERE (__pending__) AND t.__session_id__ = ANY (my.ended) AND t.__session_id__ || ' ' || t.__key__ = ANY (my.asked)
      );
    END IF;
    IF cardinality(my.cancelled) > 0 THEN  -- before any row is locked; what is not claimed below is forgotten below
      UPDATE session_lock.session AS s
         SET cancel_keys = s.cancel_keys || ARRAY(SELECT k::text FROM unnest(my.cancelled) AS k WHERE k::text <> ALL (s.cancel_keys))
       WHERE s.id = p_id;
    END IF;
  END IF;

  -- 5 Claim. A row is claimable if it is pending, due, and free: held by nobody, by a session *known* to be ended, or by
  --   the caller who does not know it; and acceptable: the caller has the version that it needs, if any. Locked rows are passed over.
  --   A mapping with limits has a function of its own for it, which also sees to them (tasks.limits.alwaysup.sql).
  IF __picks__ AND my.want > 0 THEN
    SELECT p.keys, p.start, p.from_start, p.limited, p.next_at, p.not_before
      INTO my.keys, my.start, my.from_start, my.limited, my.next_at, my.not_before
      FROM session_lock.pick__set__(
        p_id, my.want, my.held, my.ended, my.clock, my.start, coalesce(cardinality(p_finished), 0) = 0, my.version
      ) AS p;
  END IF;
  IF my.want > 0 AND NOT __picks__ THEN
    my.keys := ARRAY(
      -- for each part of the order
      SELECT task.key
        FROM (
          SELECT t.__key__ AS key
            FROM __table__ AS t
           WHERE (__pending__) AND t.__available_at__ <= my.clock
             AND (t.__session_id__ IS NULL OR t.__session_id__ = ANY (my.ended)
                  OR (t.__session_id__ = my.id AND t.__key__ <> ALL (my.held)))
             AND __acceptable__ AND __from_position__ AND __until_position__
           ORDER BY __order_by__
           LIMIT my.want
             FOR NO KEY UPDATE SKIP LOCKED
        ) AS task
      -- as far as here
       LIMIT my.want
    );
  END IF;
  my.walked := extract(epoch FROM session_lock.clock() - my.since);

  IF cardinality(my.keys) > 0 THEN
    IF cardinality(my.expired) > 0 THEN
      PERFORM session_lock.note_expired(my.name, array_agg(t.__key__::text), array_agg(t.__attempts__), array_agg(t.__session_id__), my.clock)
         FROM __table__ AS t
        WHERE t.__key__ = ANY (my.keys) AND t.__session_id__ = ANY (my.expired)
       HAVING count(*) > 0;
      my.rescued := ARRAY(SELECT t.__key__ FROM __table__ AS t WHERE t.__key__ = ANY (my.keys) AND t.__session_id__ = ANY (my.expired));
    END IF;
    -- A row without a token, of a key that is held, was put in anew. Its tokens begin at the clock, lest a verdict on the row before it be
    -- taken for one on this.
    IF cardinality(my.held) > 0 THEN
      my.anew := ARRAY(SELECT unnest((SELECT my.keys)) INTERSECT SELECT unnest((SELECT my.held)));
    END IF;
    RETURN QUERY
    WITH claimed AS (
      UPDATE __table__ AS t
         SET __session_id__ = my.id,
             __claim_token__ = coalesce(t.__claim_token__, CASE WHEN t.__key__ = ANY ((SELECT my.anew)::__key_type__[]) THEN floor(extract(epoch FROM my.clock) * 1e6)::bigint ELSE 0 END) + 1,
             -- not counted again: a claim whose reply was lost was never begun
             __attempts__ = t.__attempts__ + (t.__session_id__ IS DISTINCT FROM my.id)::integer
       WHERE t.__key__ = ANY ((SELECT my.keys)::__key_type__[])
      RETURNING t.__key__ AS key, t.__claim_token__ AS token, t.__attempts__ AS attempt,
                CASE WHEN t.__key__ = my.keys[CASE WHEN __picks__ THEN 1 ELSE cardinality(my.keys) END] THEN __position__ END AS position,
                CASE WHEN t.__attempts__ > 2 THEN session_lock.is_suspect(my.name, t.__key__::text) END AS alone, __select_columns__
    )
    SELECT 'task'::text, c.key, c.token, c.attempt, CASE WHEN c.key = ANY (my.cancelled) THEN 'cancelled' WHEN c.key = ANY (my.rescued) THEN 'rescued' END,
           c.position, NULL::double precision, NULL::double precision, NULL::integer, c.alone,
           NULL::double precision, NULL::boolean, NULL::integer, __claimed_columns__
      FROM claimed AS c JOIN unnest((SELECT my.keys)) WITH ORDINALITY AS claim (key, rank) ON claim.key = c.key
     ORDER BY claim.rank;
  END IF;

  PERFORM session_lock.note_look(p_id, p_id = ANY (my.sharing) AND cardinality(my.keys) < p_limit, my.many, my.clock);
  my.asked := ARRAY(SELECT k::text FROM unnest(my.held || my.keys) AS k);
  IF EXISTS (SELECT FROM session_lock.session AS s WHERE s.id = p_id AND NOT s.cancel_keys <@ my.asked) THEN
    -- What it holds without knowing it, since the answer to the claim was lost, is still to be cancelled.
    PERFORM session_lock.forget_cancelled(
      p_id, my.asked || ARRAY(SELECT t.__key__::text FROM __table__ AS t WHERE (__pending__) AND t.__session_id__ = my.id)
    );
  END IF;

  -- 6 There was room for more, and all that is due has been walked, from the start: when is the next one due, and which sessions do the
  --   tasks name that are due and not free, or not for the caller? (If a limit was in the way, the held ones are walked: they have an
  --   index.) A caller who could begin more asks those that hold more than their share; not if it is brought tasks: should it freeze
  --   while it reads them, it would keep the rows of those sessions locked, and they could not renew their leases.
  my.since := session_lock.clock();
  IF my.want > 0 AND cardinality(my.keys) < my.want AND my.from_start THEN
    IF NOT my.limited AND (__due_is_indexed__ OR to_regclass('__due_index_literal__') IS NOT NULL) THEN
      SELECT extract(epoch FROM t.__available_at__ - my.clock) INTO next_due
        FROM __table__ AS t
       WHERE (__pending__) AND t.__available_at__ > my.clock AND t.__available_at__ < 'infinity' AND __acceptable__
       ORDER BY t.__available_at__
       LIMIT 1;
    END IF;
    IF __picks__ THEN
      next_due := CASE  -- held back by a limit alone: nobody knows when
        WHEN my.not_before = 'infinity' THEN NULL
        ELSE extract(epoch FROM greatest(least(my.clock + make_interval(secs => next_due), my.next_at), my.not_before) - my.clock)
      END;
    END IF;
  END IF;
  --   Where nothing that is due is left to others, it need not look again for what it will be told: of tasks that are inserted where a
  --   trigger or enqueue wakes, and given back. When the next one is due it must know.
  IF my.want > 0 AND cardinality(my.keys) = 0 AND my.from_start AND NOT my.limited THEN
    my.heard := session_lock.seen_idle(p_id)
      AND (__due_is_indexed__ OR to_regclass('__due_index_literal__') IS NOT NULL)
      AND (__always_wakes__ OR EXISTS (
        SELECT FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
         WHERE g.tgrelid = to_regclass(__table_text__) AND g.tgname = __wake_trigger_text__ AND g.tgenabled IN ('O', 'A') AND c.relkind = 'r'
      ))
      AND NOT EXISTS (
        SELECT FROM __table__ AS t WHERE (__pending__) AND t.__available_at__ <= my.clock AND t.__session_id__ IS DISTINCT FROM my.id
      );
  END IF;
  IF my.want > 0 AND cardinality(my.keys) < my.want AND my.from_start AND (__counts_held__ OR NOT my.limited) THEN
    SELECT coalesce(array_agg(holder.id), '{}'), coalesce(array_agg(holder.held), '{}') INTO my.named, my.counts
      FROM (
        SELECT t.__session_id__ AS id, count(*) FILTER (WHERE __acceptable__) AS held
          FROM __table__ AS t
         WHERE (__pending__) AND (__counts_held__ OR t.__available_at__ <= my.clock)
           AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> my.id
         GROUP BY t.__session_id__
      ) AS holder;
    IF p_at_once > 0 AND cardinality(my.keys) = 0 AND cardinality(my.named) > 0 THEN
      -- without what those hold that do not share (any more)
      my.tasks := my.holds
        + (SELECT coalesce(sum(h.held), 0) FROM unnest(my.named, my.counts) AS h (id, held) WHERE h.id = ANY (my.sharing));
      PERFORM session_lock.ask_for_tasks(my.sharing, my.capacities, my.tasks, my.named, my.counts, my.clock);
    END IF;
    my.gone := session_lock.sweep_sessions(my.ended, my.named, my.clock);
    IF cardinality(my.gone) > 0 THEN
      my.keys := ARRAY(
        SELECT t.__key__ FROM __table__ AS t
         WHERE (__pending__) AND (__counts_held__ OR t.__available_at__ <= my.clock) AND t.__session_id__ = ANY (my.gone)
         ORDER BY t.__key__
           FOR NO KEY UPDATE SKIP LOCKED
      );
      UPDATE __table__ AS t SET __session_id__ = NULL WHERE t.__key__ = ANY (my.keys);
    END IF;
  --   Under a backlog that no look comes to the end of, only the first of the tasks are asked whom they name. What was opened again by
  --   hand is among them before long, and names a session that was swept, or is gone: it must not wait until all others are done.
  ELSIF my.want > 0 AND my.from_start THEN
    SELECT array_agg(DISTINCT task.holder), array_agg(task.key) INTO my.named, my.keys
      FROM (
        SELECT t.__key__ AS key, t.__session_id__ AS holder
          FROM __table__ AS t
         WHERE (__pending__) AND t.__available_at__ <= my.clock
         ORDER BY __order_by__
         LIMIT 100
      ) AS task
     WHERE task.holder <> ALL (my.sharing);
    IF my.named IS NOT NULL THEN
      my.gone := session_lock.sweep_sessions('{}', my.named, my.clock);
      IF cardinality(my.gone) > 0 THEN
        my.keys := ARRAY(
          SELECT t.__key__ FROM __table__ AS t
           WHERE t.__key__ = ANY (my.keys) AND t.__session_id__ = ANY (my.gone)
           ORDER BY t.__key__
             FOR NO KEY UPDATE SKIP LOCKED
        );
        UPDATE __table__ AS t SET __session_id__ = NULL WHERE t.__key__ = ANY (my.keys);
      END IF;
    END IF;
  END IF;

  RETURN QUERY
  SELECT 'state'::text, NULL::__key_type__, NULL::bigint, NULL::integer, CASE WHEN my.limited THEN 'limited' END,
         NULL::text, get_work__set__.next_due, extract(epoch FROM my.expires - my.clock)::double precision, my.share,
         NULL::boolean, CASE WHEN my.from_start THEN my.walked + extract(epoch FROM session_lock.clock() - my.since) WHEN my.until IS NOT NULL THEN my.walked END, my.heard,
         cardinality(my.sharing), __no_columns__;
END
$function$;

-- Flags tasks as finished. For each key one of: finished · already yours (an earlier call did it; its reply was lost) ·
-- lost (claimed by somebody else, given back, or closed by the application) · locked (ask again) · unknown.
-- An error of a row (a CHECK, a trigger) undoes the whole call: the caller finds the row by halving.
-- SQLSTATE SL003: the mapping's finish leaves a row pending, so it would be claimed for ever.
CREATE OR REPLACE FUNCTION session_lock.finish_tasks__set__(
  p_id bigint, p_nonce uuid, p_keys __key_type__[], p_tokens bigint[]
) RETURNS TABLE (task_key __key_type__, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  keys      __key_type__[];
  standings text[];
  held      __key_type__[];
  closed    __key_type__[];
  updated   bigint;
  pending   bigint;
BEGIN
  PERFORM session_lock.hold_session(p_id, p_nonce);
  SELECT array_agg(s.task_key), array_agg(s.standing),
         array_agg(DISTINCT s.task_key) FILTER (WHERE s.standing = 'held'), array_agg(s.task_key) FILTER (WHERE s.standing = 'closed')
    INTO my.keys, my.standings, my.held, my.closed
    FROM session_lock.standing__set__(p_id, p_keys, p_tokens) AS s;

  IF my.held IS NOT NULL THEN
    WITH finished AS (
      UPDATE __table__ AS t SET __session_id__ = NULL, __finish__ = DEFAULT
       WHERE t.__key__ = ANY ((SELECT my.held)::__key_type__[])
      RETURNING (__pending__) IS TRUE AS pending
    )
    SELECT count(*), count(*) FILTER (WHERE f.pending) INTO my.updated, my.pending FROM finished AS f;
    IF my.pending > 0 OR my.updated < cardinality(my.held) THEN
      RAISE EXCEPTION 'finish leaves a row of % pending: is a trigger in the way?', '__title__'::text USING ERRCODE = 'SL003';
    END IF;
  END IF;
  IF my.closed IS NOT NULL THEN
    UPDATE __table__ AS t SET __session_id__ = NULL WHERE t.__key__ = ANY (my.closed);
  END IF;

  RETURN QUERY
  SELECT s.key,
         CASE s.standing
           WHEN 'held' THEN 'finished' WHEN 'finished' THEN 'already yours'
           WHEN 'closed' THEN 'lost' WHEN 'free' THEN 'lost' ELSE s.standing
         END
    FROM unnest(my.keys, my.standings) AS s (key, standing);
END
$function$;

-- Fences and finishes tasks inside the caller's own transaction, all or nothing: SL001 if the session is not live, SL002
-- if any of the tasks is not held. Call it first, then write: session and rows stay locked until the transaction ends, so
-- what it writes and the finish take place together or not at all. Waits for rows that others have locked.
CREATE OR REPLACE FUNCTION session_lock.finish_in__set__(
  p_id bigint, p_nonce uuid, p_keys __key_type__[], p_tokens bigint[]
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  keys    __key_type__[] := p_keys;
  expires timestamptz;
  clock   timestamptz;
  held    bigint;
  pending bigint;
BEGIN
  SELECT h.expires_at, h.at INTO my.expires, my.clock FROM session_lock.hold_session(p_id, p_nonce) AS h;
  -- A client that freezes from here on would keep its session from ending, and so its tasks, for ever.
  PERFORM session_lock.limit_transaction(my.expires - my.clock);

  WITH task AS MATERIALIZED (
    SELECT t.__key__ AS key, t.__session_id__ AS holder, t.__claim_token__ AS token, (__pending__) IS TRUE AS pending
      FROM __table__ AS t
     WHERE t.__key__ = ANY ((SELECT my.keys)::__key_type__[])
     ORDER BY t.__key__
       FOR NO KEY UPDATE
  )
  SELECT count(*) INTO my.held
    FROM task JOIN unnest((SELECT p_keys), (SELECT p_tokens)) AS claim (key, token) ON claim.key = task.key AND claim.token = task.token
   WHERE task.holder = p_id AND task.pending;
  IF session_lock.clock() >= my.expires THEN  -- the lease ran out in the wait for a row
    RAISE EXCEPTION 'session % is not live', p_id USING ERRCODE = 'SL001';
  END IF;
  IF my.held < cardinality(p_keys) THEN
    RAISE EXCEPTION '% of % tasks of % are not held by session %', cardinality(p_keys) - my.held, cardinality(p_keys),
      '__title__', p_id USING ERRCODE = 'SL002';
  END IF;

  WITH finished AS (
    UPDATE __table__ AS t SET __session_id__ = NULL, __finish__ = DEFAULT
     WHERE t.__key__ = ANY ((SELECT my.keys)::__key_type__[])
    RETURNING (__pending__) IS TRUE AS pending
  )
  SELECT count(*), count(*) FILTER (WHERE f.pending) INTO my.held, my.pending FROM finished AS f;
  IF my.pending > 0 OR my.held < (SELECT count(DISTINCT k) FROM unnest(p_keys) AS k) THEN
    RAISE EXCEPTION 'finish leaves a row of % pending: is a trigger in the way?', '__title__'::text USING ERRCODE = 'SL003';
  END IF;
END
$function$;

-- Gives tasks back, each in its own way (the arrays run side by side):
--   p_after     seconds until it may be claimed again; NULL: it keeps its place in the order; infinity: parked
--   p_give_back whether the attempt does not count
--   p_discard   whether to discard it in the table's own words; a mapping without such words parks it instead
--   p_errors    what went wrong, kept in session_lock.failure; NULL: nothing did
--   p_wake      the others shall have them at once: they are woken
-- A task that the session was asked to cancel is discarded all the same, unless it is parked.
-- For each key one of: released · discarded · parked · already yours · lost · locked · unknown.
CREATE OR REPLACE FUNCTION session_lock.release_tasks__set__(
  p_id bigint, p_nonce uuid, p_keys __key_type__[], p_tokens bigint[],
  p_after double precision[], p_give_back boolean[], p_discard boolean[], p_errors text[], p_wake boolean
) RETURNS TABLE (task_key __key_type__, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  name      text;
  clock     timestamptz;
  keys      __key_type__[];
  standings text[];
  held      __key_type__[];
  closed    __key_type__[];
  discarded __key_type__[];
  asked     text[];
  updated   bigint;
  pending   bigint;
BEGIN
  -- Against cancel_task, which asks under the same lock: what it asks for is known here, or it sees that the task is free.
  SELECT s.cancel_keys INTO my.asked
    FROM session_lock.session AS s
   WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL
     FOR NO KEY UPDATE;
  SELECT h.name, h.at INTO my.name, my.clock FROM session_lock.hold_session(p_id, p_nonce) AS h;
  IF cardinality(my.asked) > 0 THEN
    SELECT array_agg(r.discard OR r.cancelled ORDER BY r.rank),
           array_agg(CASE WHEN r.cancelled AND NOT r.discard THEN coalesce(r.error, 'cancelled on request') ELSE r.error END ORDER BY r.rank)
      INTO p_discard, p_errors
      FROM (SELECT u.rank, u.error, coalesce(u.discard, false) AS discard,
                   u.key::text = ANY (my.asked) AND u.after IS DISTINCT FROM 'infinity' AS cancelled
              FROM unnest(p_keys, p_discard, p_errors, p_after) WITH ORDINALITY AS u (key, discard, error, after, rank)) AS r;
  END IF;
  SELECT array_agg(s.task_key), array_agg(s.standing),
         coalesce(array_agg(s.task_key) FILTER (WHERE s.standing = 'held'), '{}'),
         coalesce(array_agg(s.task_key) FILTER (WHERE s.standing = 'closed'), '{}')
    INTO my.keys, my.standings, my.held, my.closed
    FROM session_lock.standing__set__(p_id, p_keys, p_tokens) AS s;

  -- The token again in each of the joins: a stale claim on the same key has no say in how a good one is given back.
  my.discarded := ARRAY(SELECT DISTINCT r.key FROM unnest(p_keys, p_tokens, p_discard) AS r (key, token, discard)
                          JOIN __table__ AS t ON t.__key__ = r.key AND t.__claim_token__ = r.token
                         WHERE r.discard AND r.key = ANY (my.held));
  IF cardinality(my.discarded) > 0 THEN
    WITH discarded AS (
      UPDATE __table__ AS t SET __session_id__ = NULL, __discard__ = DEFAULT
       WHERE t.__key__ = ANY (my.discarded)
      RETURNING (__pending__) IS TRUE AS pending
    )
    SELECT count(*), count(*) FILTER (WHERE d.pending) INTO my.updated, my.pending FROM discarded AS d;
    IF my.updated < cardinality(my.discarded) OR (my.pending > 0 AND __discards__) THEN
      RAISE EXCEPTION 'discard leaves a row of % pending: is a trigger in the way?', '__title__'::text USING ERRCODE = 'SL003';
    END IF;
  END IF;

  UPDATE __table__ AS t
     SET __session_id__ = NULL,
         __attempts__ = greatest(t.__attempts__ - coalesce(r.give_back, false)::integer, 0),
         __available_at__ = CASE
           WHEN r.after IS NULL THEN t.__available_at__
           WHEN r.after = 'infinity' THEN 'infinity'
           ELSE my.clock + make_interval(secs => r.after)
         END
    FROM unnest(p_keys, p_tokens, p_after, p_give_back) AS r (key, token, after, give_back)
   WHERE t.__key__ = r.key AND t.__claim_token__ = r.token AND t.__key__ = ANY (my.held) AND t.__key__ <> ALL (my.discarded);
  IF cardinality(my.closed) > 0 THEN
    UPDATE __table__ AS t SET __session_id__ = NULL WHERE t.__key__ = ANY (my.closed);
  END IF;

  INSERT INTO session_lock.failure (name, task_key, attempt, at, session, error)
  SELECT my.name, r.key::text, t.__attempts__ + (r.give_back AND NOT r.discard)::integer, my.clock, p_id, left(r.error, 4000)
    FROM unnest(p_keys, p_tokens, p_give_back, p_discard, p_errors) AS r (key, token, give_back, discard, error)
    JOIN __table__ AS t ON t.__key__ = r.key AND t.__claim_token__ = r.token
   WHERE r.error IS NOT NULL AND r.key = ANY (my.held);
  IF FOUND THEN
    PERFORM session_lock.trim_failures(my.name, ARRAY(SELECT k::text FROM unnest(my.held) AS k));
  END IF;
  IF cardinality(my.asked) > 0 THEN
    PERFORM session_lock.forget_cancelled(
      p_id, ARRAY(SELECT k FROM unnest(my.asked) AS k WHERE k <> ALL (ARRAY(SELECT h::text FROM unnest(my.held) AS h)))
    );
  END IF;

  IF p_wake THEN
    -- Also those that have no room: what is given back may lie before the position from which they look.
    PERFORM session_lock.wake(my.name);
  ELSIF cardinality(my.held) > cardinality(my.discarded) THEN
    PERFORM session_lock.wake(my.name, true);  -- who has room and does not poll must know when it is due
  END IF;

  RETURN QUERY
  SELECT s.key,
         CASE s.standing
           WHEN 'held' THEN
             CASE
               WHEN s.key = ANY (my.discarded) THEN CASE WHEN __discards__ THEN 'discarded' ELSE 'parked' END
               WHEN EXISTS (SELECT FROM unnest(p_keys, p_tokens, p_after) AS r (key, token, after)
                              JOIN __table__ AS t ON t.__key__ = r.key AND t.__claim_token__ = r.token
                             WHERE r.key = s.key AND r.after = 'infinity')
                 THEN 'parked'
               ELSE 'released'
             END
           WHEN 'finished' THEN 'already yours' WHEN 'free' THEN 'already yours'
           WHEN 'closed' THEN 'lost' ELSE s.standing
         END
    FROM unnest(my.keys, my.standings) AS s (key, standing);
END
$function$;

-- Ends the session and gives back what it still holds, with the attempts, since it stops in good order. What it does not
-- know that it holds, and rows that somebody has locked, are claimable by the others because it has ended. They are woken.
-- True if it was this call that ended it.
CREATE OR REPLACE FUNCTION session_lock.end_session__set__(
  p_id bigint, p_nonce uuid, p_keys __key_type__[], p_tokens bigint[]
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  name   text;
  asked  text[];
  held   __key_type__[];
  closed __key_type__[];
BEGIN
  SELECT s.name, s.cancel_keys INTO my.name, my.asked
    FROM session_lock.session AS s WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  -- What it was asked to cancel stays its own: whoever looks for work next discards it.
  SELECT coalesce(array_agg(s.task_key) FILTER (WHERE s.standing = 'held' AND s.task_key::text <> ALL (my.asked)), '{}'),
         coalesce(array_agg(s.task_key) FILTER (WHERE s.standing = 'closed'), '{}')
    INTO my.held, my.closed
    FROM session_lock.standing__set__(p_id, p_keys, p_tokens) AS s;
  UPDATE __table__ AS t SET __session_id__ = NULL, __attempts__ = greatest(t.__attempts__ - 1, 0)
   WHERE t.__key__ = ANY (my.held);
  UPDATE __table__ AS t SET __session_id__ = NULL WHERE t.__key__ = ANY (my.closed);
  UPDATE session_lock.session AS s SET ended_at = session_lock.clock() WHERE s.id = p_id;
  PERFORM session_lock.wake(my.name, cardinality(p_keys) = 0);  -- as above, if it had tasks
  RETURN true;
END
$function$;

-- From outside, by whoever may: a task is not to be done any more. One that nobody runs is discarded in the table's own words
-- (parked, where the mapping has none). One that a live session holds is asked for: its holder, who is told (and hears so at
-- its next keepalive at the latest), cancels the run and discards it. The request stands until the claim is over: if it is given back, or left behind
-- by a session that has ended, the task is discarded then. Returns one of
-- discarded · parked · asked · closed (it was not pending) · unknown (there is no such row) · locked (ask again).
CREATE OR REPLACE FUNCTION session_lock.cancel_task__set__(p_key __key_type__) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  key     __key_type__ := p_key;
  holder  bigint;
  expires timestamptz;
  attempt integer;
  pending boolean;
BEGIN
  PERFORM session_lock.sessions_of('__title__', session_lock.clock());  -- which ends those that have expired
  FOR v_round IN 1..10 LOOP
    SELECT t.__session_id__, (__pending__) IS TRUE INTO my.holder, my.pending FROM __table__ AS t WHERE t.__key__ = my.key;
    IF NOT FOUND THEN
      RETURN 'unknown';
    ELSIF NOT my.pending THEN
      RETURN 'closed';
    END IF;

    -- The holder was read without a lock, because a session's row is locked before a task's. So it is asked again under it.
    IF my.holder IS NOT NULL THEN
      SELECT s.expires_at INTO my.expires
        FROM session_lock.session AS s
       WHERE s.id = my.holder AND s.ended_at IS NULL
         FOR NO KEY UPDATE;
      IF my.expires <= session_lock.clock() THEN
        RETURN 'locked';  -- and not to be ended: it is in a finishing transaction
      ELSIF FOUND THEN
        CONTINUE WHEN NOT EXISTS (SELECT FROM __table__ AS t WHERE t.__key__ = my.key AND t.__session_id__ = my.holder);
        UPDATE session_lock.session AS s
           SET cancel_keys = array_append(array_remove(s.cancel_keys, p_key::text), p_key::text)
         WHERE s.id = my.holder;
        PERFORM session_lock.tell(ARRAY[my.holder]);
        RETURN 'asked';
      END IF;
    END IF;

    SELECT t.__attempts__ INTO my.attempt
      FROM __table__ AS t
     WHERE t.__key__ = my.key AND t.__session_id__ IS NOT DISTINCT FROM my.holder AND (__pending__)
       FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
      UPDATE __table__ AS t SET __session_id__ = NULL, __discard__ = DEFAULT WHERE t.__key__ = my.key
      RETURNING (__pending__) IS TRUE INTO my.pending;
      IF my.pending AND __discards__ THEN
        RAISE EXCEPTION 'discard leaves a row of % pending: is a trigger in the way?', '__title__'::text USING ERRCODE = 'SL003';
      END IF;
      INSERT INTO session_lock.failure (name, task_key, attempt, at, error)
      VALUES ('__title__', p_key::text, my.attempt, session_lock.clock(), 'cancelled on request');
      RETURN CASE WHEN __discards__ THEN 'discarded' ELSE 'parked' END;
    END IF;
  END LOOP;
  RETURN 'locked';
END
$function$;

-- Parked tasks get a new row of attempts, from now on: those of p_keys, or all if that is NULL. Returns the keys of those
-- that were parked.
CREATE OR REPLACE FUNCTION session_lock.retry_tasks__set__(p_keys __key_type__[]) RETURNS SETOF __key_type__
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  chosen __key_type__[] := p_keys;
  keys   __key_type__[];
  clock  timestamptz := session_lock.clock();
BEGIN
  my.keys := ARRAY(
    SELECT t.__key__
      FROM __table__ AS t
     WHERE (__pending__) AND t.__available_at__ = 'infinity' AND t.__session_id__ IS NULL
       AND (my.chosen IS NULL OR t.__key__ = ANY (my.chosen))
     ORDER BY t.__key__
       FOR NO KEY UPDATE SKIP LOCKED
  );
  RETURN QUERY
  UPDATE __table__ AS t SET __attempts__ = 0, __available_at__ = my.clock
   WHERE t.__key__ = ANY (my.keys)
  RETURNING t.__key__;
  IF FOUND THEN
    PERFORM session_lock.wake(__name__);
  END IF;
END
$function$;

-- For who measures: how many tasks are due that no live session holds (counted up to 10,000, in claim order), and for how many seconds the
-- oldest of these has been due. The first of the live sessions is told, the others get no row: once is enough for all.
CREATE OR REPLACE FUNCTION session_lock.backlog__set__(p_id bigint) RETURNS TABLE (tasks bigint, oldest double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  clock timestamptz := session_lock.clock();
  live  bigint[];
BEGIN
  SELECT coalesce(array_agg(s.id ORDER BY s.id), '{}') INTO my.live
    FROM session_lock.session AS s
   WHERE s.name = '__title__' AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.expires_at > my.clock;
  IF p_id = my.live[1] THEN
    RETURN QUERY
    SELECT count(*), coalesce(extract(epoch FROM my.clock - min(task.due) FILTER (WHERE task.due > '-infinity')), 0)::double precision
      FROM (SELECT t.__available_at__ AS due
              FROM __table__ AS t
             WHERE (__pending__) AND t.__available_at__ <= my.clock AND (t.__session_id__ IS NULL OR t.__session_id__ <> ALL (my.live))
             ORDER BY __order_by__
             LIMIT 10000) AS task;
  END IF;
END
$function$;

-- For people: what each session of the mapping holds, may hold, and what stands in the way of more. It locks and changes nothing.
-- What is held is counted among the first 100,000 tasks that are due, what there is no further than all sessions together could hold.
--
--   state    live · draining · expired (nobody has ended it yet) · ended (shown while a task still names it)
--   target   its share of the tasks that are due, all that it has room for if there are plenty; 0 for who gets none now
--   running  as it said in its last keepalive
--   tasks    how many are due and could be held at once by somebody; free: some of them are held by nobody that lives
--   unfit    there are free ones, but none for a session of its kind (accepts) · limited: limits let fewer be held than are due
--   other_version  it calls the functions of another version of the mapping, by whose words it is given tasks
--   idle     its last look left it with room · age: for how long it has been there, in seconds
CREATE OR REPLACE FUNCTION session_lock.shares__set__() RETURNS TABLE (
  session bigint, label text, app_version text, state text, capacity integer, target integer, held bigint, running integer,
  tasks bigint, free boolean, unfit boolean, limited boolean, paused boolean, other_version boolean,
  idle boolean, age double precision
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  clock      timestamptz := session_lock.clock();
  paused     boolean := EXISTS (SELECT FROM session_lock.pause AS p WHERE p.name = '__title__');
  live       bigint[];
  sharing    bigint[];
  capacities integer[];
  total      bigint;
  named      bigint[];
  counts     bigint[];
  kind       text;
  ids        bigint[];
  id         bigint;  -- one of these, for what the mapping asks of a session (accepts)
  version    numeric[];
  shared     bigint[] := '{}';
  targets    integer[] := '{}';
  found      jsonb := '{}';
  tasks      bigint;
  free       boolean;
  unfit      boolean;
  limited    boolean := false;
BEGIN
  SELECT coalesce(array_agg(s.id), '{}'),
         coalesce(array_agg(s.id ORDER BY s.id) FILTER (WHERE NOT s.draining AND NOT my.paused), '{}'),
         coalesce(array_agg(s.capacity ORDER BY s.id) FILTER (WHERE NOT s.draining AND NOT my.paused), '{}'),
         coalesce(sum(s.capacity) FILTER (WHERE NOT s.draining AND NOT my.paused), 0)
    INTO my.live, my.sharing, my.capacities, my.total
    FROM session_lock.session AS s
   WHERE s.name = '__title__' AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.expires_at > my.clock;
  SELECT array_agg(holder.id), array_agg(holder.held) INTO my.named, my.counts
    FROM (SELECT task.id, count(*) AS held
            FROM (SELECT t.__session_id__ AS id
                    FROM __table__ AS t
                   WHERE (__pending__) AND t.__available_at__ <= my.clock
                   ORDER BY __order_by__
                   LIMIT 100000) AS task
           WHERE task.id IS NOT NULL
           GROUP BY task.id) AS holder;

  -- What there is, and what is whose share of it: the same for all sessions of a kind, where the mapping asks of what kind they are.
  FOR my.kind, my.ids, my.version IN
    SELECT __kind__, array_agg(s.id), session_lock.version_numbers(min(s.app_version))
      FROM session_lock.session AS s
     WHERE s.id = ANY (my.sharing)
     GROUP BY 1
  LOOP
    my.id := my.ids[1];
    IF __picks__ THEN
      my.tasks := session_lock.possible__set__(my.total, my.clock, my.version);
      SELECT my.tasks < my.total AND count(*) > my.tasks INTO my.limited
        FROM (SELECT FROM __table__ AS t WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__ LIMIT my.tasks + 1) AS task;
    ELSE
      SELECT count(*) INTO my.tasks
        FROM (SELECT FROM __table__ AS t WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__ LIMIT my.total) AS task;
    END IF;
    my.free := EXISTS (
      SELECT FROM __table__ AS t
       WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__
         AND (t.__session_id__ IS NULL OR t.__session_id__ <> ALL (my.live))
    );
    my.unfit := __has_accepts__ AND NOT my.free AND EXISTS (
      SELECT FROM __table__ AS t
       WHERE (__pending__) AND t.__available_at__ <= my.clock
         AND (t.__session_id__ IS NULL OR t.__session_id__ <> ALL (my.live))
    );
    IF __has_accepts__ AND NOT __picks__ THEN  -- each task is for those alone that may be given it
      SELECT my.shared || array_agg(whole.id), my.targets || array_agg(whole.share) INTO my.shared, my.targets
        FROM (SELECT part.id, sum(part.share) AS share
                FROM (SELECT task.needed, count(*) AS tasks
                        FROM (SELECT __accepts__ AS needed FROM __table__ AS t
                               WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__ LIMIT my.total) AS task
                       GROUP BY task.needed) AS need
               CROSS JOIN LATERAL session_lock.__sharing_with__(my.sharing, my.capacities, need.needed) AS among
               CROSS JOIN LATERAL session_lock.shares(among.ids, among.capacities, need.tasks) AS part
               WHERE part.id = ANY (my.ids)
               GROUP BY part.id) AS whole;
    ELSE
      SELECT my.shared || array_agg(part.id), my.targets || array_agg(part.share) INTO my.shared, my.targets
        FROM session_lock.shares(my.sharing, my.capacities, my.tasks) AS part
       WHERE part.id = ANY (my.ids);
    END IF;
    my.found := my.found || jsonb_build_object(
      my.kind, jsonb_build_object('tasks', my.tasks, 'free', my.free, 'unfit', my.unfit, 'limited', my.limited));
  END LOOP;

  RETURN QUERY
  SELECT s.id, s.label, s.app_version,
         CASE
           WHEN s.ended_at IS NOT NULL THEN 'ended'
           WHEN s.expires_at <= my.clock THEN 'expired'
           WHEN s.draining THEN 'draining'
           ELSE 'live'
         END,
         s.capacity, least(coalesce(part.share, 0), s.capacity), coalesce(holder.held, 0), s.running,
         coalesce(there.tasks, 0), coalesce(there.free, false), coalesce(there.unfit, false), coalesce(there.limited, false), my.paused,
         s.functions NOT IN ('', substr('__set__', 2)), s.idle, extract(epoch FROM my.clock - s.started_at)::double precision
    FROM session_lock.session AS s
    LEFT JOIN unnest(my.named, my.counts) AS holder (id, held) ON holder.id = s.id
    LEFT JOIN unnest(my.shared, my.targets) AS part (id, share) ON part.id = s.id
   CROSS JOIN jsonb_to_record(coalesce(my.found -> (__kind__), '{}'))
      AS there (tasks bigint, free boolean, unfit boolean, limited boolean)
   WHERE s.name = '__title__' AND s.swept_at IS NULL AND (s.ended_at IS NULL OR holder.held > 0)
   ORDER BY s.id;
END
$function$;

-- For people: why a task does not run, or who has it. What its row says, and what there is around it, times in seconds. It changes
-- nothing and waits for nobody; of what limits and the order hold back it counts no further than it takes.
--
--   parts     of pending, in the order of the mapping: whether each is true; without p_in_parts it is asked as a whole, for there may
--             be parts that only those before them make safe to ask (a <> 0 AND 1 / a > 1)
--   free      nobody that lives has it · fitting: the sessions that may be given it, while nothing is paused
--   in_front  how many that are free come before it in the claim order; NULL: more than 10,000, or not each is for all, or they take turns
--   limits    what of each is used up · behind: the task that comes before it in order (an ordered limit)
--   versions  which sets of functions the sessions call that take work, if none of them calls these: by theirs it may not be pending
--   locked    whether somebody's transaction has its row; NULL where that cannot be tried (a standby). xmax says whose
--
-- NULL for pending: there is no such row.
CREATE OR REPLACE FUNCTION session_lock.why__set__(p_key __key_type__, p_in_parts boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  key        __key_type__ := p_key;
  in_parts   boolean := p_in_parts;
  clock      timestamptz := session_lock.clock();
  live       bigint[];
  gone       bigint[];
  fitting    bigint[];
  capacities integer[];
  versions   text[];
  holder     bigint;
  token      bigint;
  attempts   integer;
  due        timestamptz;
  pending    boolean;
  parts      boolean[];
  needed     text;
  value      bigint;
  locker     text;
  free       boolean;
  number     bigint;
  frees_in   double precision;
  limits     jsonb := '[]';
  behind     jsonb;
  in_front   integer;
  locked     boolean;
BEGIN
  SELECT coalesce(array_agg(s.id) FILTER (WHERE s.ended_at IS NULL AND s.expires_at > my.clock), '{}'),
         coalesce(array_agg(s.id) FILTER (WHERE s.ended_at IS NOT NULL OR s.expires_at <= my.clock), '{}'),
         coalesce(array_agg(s.id ORDER BY s.id) FILTER (WHERE s.ended_at IS NULL AND s.expires_at > my.clock AND NOT s.draining), '{}'),
         array_agg(s.capacity ORDER BY s.id) FILTER (WHERE s.ended_at IS NULL AND s.expires_at > my.clock AND NOT s.draining),
         array_agg(DISTINCT s.functions) FILTER (WHERE s.ended_at IS NULL AND s.expires_at > my.clock AND NOT s.draining)
    INTO my.live, my.gone, my.fitting, my.capacities, my.versions
    FROM session_lock.session AS s
   WHERE s.name = __name__ AND s.swept_at IS NULL;
  SELECT t.__session_id__, t.__claim_token__, t.__attempts__, t.__available_at__, (__pending__) IS TRUE,
         CASE WHEN my.in_parts THEN __pending_parts__ ELSE ARRAY[(__pending__)] END, __accepts__, __value__, t.xmax::text
    INTO my.holder, my.token, my.attempts, my.due, my.pending, my.parts, my.needed, my.value, my.locker
    FROM __table__ AS t
   WHERE t.__key__ = my.key;
  my.free := my.holder IS NULL OR my.holder <> ALL (my.live);
  IF __has_accepts__ THEN
    my.fitting := (SELECT among.ids FROM session_lock.__sharing_with__(my.fitting, my.capacities, my.needed) AS among);
  END IF;

  IF my.pending AND my.free AND my.due <= my.clock THEN
    IF __most__ IS NOT NULL THEN
      SELECT count(*) INTO my.number
        FROM (SELECT FROM __table__ AS t
               WHERE (__pending__) AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> ALL (my.gone)
               LIMIT __most__) AS task;
      my.limits := my.limits || jsonb_build_object('of_value', false, 'most', __most__, 'used', my.number);
    END IF;
    IF __most_each__ IS NOT NULL THEN
      SELECT count(*) INTO my.number
        FROM (SELECT FROM __table__ AS t
               WHERE (__pending__) AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> ALL (my.gone) AND __value__ = my.value
               LIMIT __most_each__) AS task;
      my.limits := my.limits || jsonb_build_object('of_value', true, 'most', __most_each__, 'used', my.number);
    END IF;
    IF __rate__ IS NOT NULL THEN
      SELECT coalesce(sum(s.number), 0), extract(epoch FROM min(s.at) + make_interval(secs => __rate_per__) - my.clock)
        INTO my.number, my.frees_in
        FROM session_lock.started AS s
       WHERE s.name = __name__ AND s.value IS NULL AND s.at > my.clock - make_interval(secs => __rate_per__);
      my.limits := my.limits || jsonb_build_object(
        'of_value', false, 'most', __rate__, 'per', __rate_per__::double precision, 'used', my.number, 'frees_in', my.frees_in);
    END IF;
    IF __rate_each__ IS NOT NULL THEN
      SELECT coalesce(sum(s.number), 0), extract(epoch FROM min(s.at) + make_interval(secs => __rate_each_per__) - my.clock)
        INTO my.number, my.frees_in
        FROM session_lock.started AS s
       WHERE s.name = __name__ AND s.value = my.value AND s.at > my.clock - make_interval(secs => __rate_each_per__);
      my.limits := my.limits || jsonb_build_object(
        'of_value', true, 'most', __rate_each__, 'per', __rate_each_per__::double precision, 'used', my.number, 'frees_in', my.frees_in);
    END IF;
    IF __ordered__ THEN
      SELECT jsonb_build_object('key', head.key::text, 'state', CASE
               WHEN head.holder IS NOT NULL AND head.holder <> ALL (my.gone) THEN 'held'
               WHEN head.due = 'infinity' THEN 'parked'
               WHEN head.due > my.clock THEN 'scheduled'
               ELSE 'due'
             END)
        INTO my.behind
        FROM (SELECT t.__key__ AS key, t.__session_id__ AS holder, t.__available_at__ AS due
                FROM __table__ AS t
               WHERE (__pending__) AND __value__ = my.value
               ORDER BY __order_by__
               LIMIT 1) AS head
       WHERE head.key <> my.key;
    END IF;
    IF NOT __fair__ AND NOT __has_accepts__ THEN
      my.in_front := array_position(ARRAY(
        SELECT t.__key__
          FROM __table__ AS t
         WHERE (__pending__) AND t.__available_at__ <= my.clock AND (t.__session_id__ IS NULL OR t.__session_id__ <> ALL (my.live))
         ORDER BY __order_by__
         LIMIT 10001
      ), my.key) - 1;
    END IF;
  END IF;

  -- Last, as it keeps the row locked until the caller's statement ends, and so do others pass it by.
  IF my.pending AND current_setting('transaction_read_only') = 'off' THEN
    PERFORM FROM __table__ AS t WHERE t.__key__ = my.key FOR NO KEY UPDATE SKIP LOCKED;
    my.locked := NOT FOUND;
  END IF;
  RETURN session_lock.around_task(__name__, p_key::text, my.holder, my.clock) || jsonb_build_object(
    'pending', my.pending, 'parts', to_jsonb(my.parts), 'holder', my.holder, 'token', my.token, 'attempts', my.attempts,
    'parked', my.due = 'infinity', 'due_in', CASE WHEN my.due < 'infinity' THEN extract(epoch FROM greatest(my.due, '2000-01-01 00:00+00') - my.clock) END,
    'needed', my.needed, 'free', my.free, 'fitting', to_jsonb(coalesce(my.fitting, '{}')), 'limits', my.limits, 'behind', my.behind,
    'in_front', my.in_front, 'locked', my.locked, 'xmax', my.locker,
    'versions', to_jsonb(CASE WHEN my.versions && ARRAY['', substr('__set__', 2)] THEN '{}' ELSE coalesce(my.versions, '{}') END)
  );
END
$function$;

REVOKE ALL ON FUNCTION
  session_lock.standing__set__(bigint, __key_type__[], bigint[]),
  session_lock.get_work__set__(bigint, uuid, integer, __key_type__[], text, text, boolean, integer, __key_type__[], bigint[]),
  session_lock.finish_tasks__set__(bigint, uuid, __key_type__[], bigint[]),
  session_lock.finish_in__set__(bigint, uuid, __key_type__[], bigint[]),
  session_lock.release_tasks__set__(bigint, uuid, __key_type__[], bigint[], double precision[], boolean[], boolean[], text[], boolean),
  session_lock.end_session__set__(bigint, uuid, __key_type__[], bigint[]),
  session_lock.cancel_task__set__(__key_type__),
  session_lock.retry_tasks__set__(__key_type__[]),
  session_lock.backlog__set__(bigint),
  session_lock.shares__set__(),
  session_lock.why__set__(__key_type__, boolean)
FROM PUBLIC;
