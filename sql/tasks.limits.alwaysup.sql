-- session_lock: the limits of one mapping, __title__. Run at every deploy, after tasks.alwaysup.sql, for a mapping that
-- has limits or fair_by; no other has these functions. CREATE OR REPLACE only.
--
-- A value is the hash of the row's column that limits and fair_by name: a bigint whatever the column's type, never null
-- (NULL is a value like any other), and the number of the value's advisory lock.
--
-- What makes a limit hold, with rows that are passed over where they are locked and under READ COMMITTED:
--   * Who claims tasks of a value takes the value's lock first, to the end of the transaction. It is the transaction's,
--     so it works behind a pooler and never outlives its holder.
--   * What is held is counted in a statement that begins after that: it sees all that was claimed under the lock before.
--   * Held is what names a session that is not known to be ended, also after its lease has run out.
-- And what keeps them from waiting for each other for ever: locks are waited for in one order (the group's, then those
-- of values, ascending) and before rows are locked. Who has finished tasks in the same call, or has locks of a later look,
-- waits for none: it passes by what is not free.

-- How many tasks could be held at once, as far as p_enough: for the share, in place of a plain count of what is due.
CREATE OR REPLACE FUNCTION session_lock.possible__set__(p_enough bigint, p_now timestamptz, p_version numeric[])
RETURNS bigint
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  clock    timestamptz := p_now;
  version  numeric[] := p_version;
  enough   bigint := least(p_enough, __most__);
  rows     bigint;
  number   bigint;
  complete boolean;
BEGIN
  SELECT coalesce(sum(v.rows), 0), coalesce(sum(least(v.rows, __most_each__)), 0) INTO my.rows, my.number
    FROM (SELECT count(*) AS rows
            FROM (SELECT __value__ AS value
                    FROM __table__ AS t
                   WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__
                   ORDER BY __order_by__
                   LIMIT my.enough) AS task
           GROUP BY task.value) AS v;
  IF my.number >= my.enough OR my.rows < my.enough THEN
    RETURN my.number;
  END IF;

  -- The first ones in the order are many of few values: value by value, up to a bound, beyond which it is plenty.
  WITH RECURSIVE ring (value, place, number) AS (
    SELECT (SELECT __value__ FROM __table__ AS t WHERE (__pending__) ORDER BY __value__ LIMIT 1), 1, 0::bigint
    UNION ALL
    SELECT (SELECT __value__ FROM __table__ AS t WHERE (__pending__) AND __value__ > ring.value ORDER BY __value__ LIMIT 1),
           ring.place + 1,
           ring.number + (SELECT count(*) FROM (SELECT FROM __table__ AS t
                                                 WHERE (__pending__) AND t.__available_at__ <= my.clock AND __acceptable__ AND __value__ = ring.value
                                                 LIMIT __most_each__) AS task)
      FROM ring
     WHERE ring.value IS NOT NULL AND ring.place <= 1000 AND ring.number < my.enough
  )
  SELECT max(ring.number), bool_or(ring.value IS NULL) INTO my.number, my.complete FROM ring;
  RETURN CASE WHEN my.complete THEN least(my.number, my.enough) ELSE my.enough END;
END
$function$;

-- The tasks that a session may claim, their rows locked: get_work claims them. In claim order as far as limits let it,
-- or in turns (fair_by). It looks at a bounded number of tasks and values, however many are in the way.
--
--   p_want    how many
--   p_start   the position of an earlier reply
--   p_waits   whether it may wait for the locks of others
--   p_version its version, if the mapping asks for one (accepts)
--
-- from_start: too few from the position on, so it has looked from the start. limited: a limit has held tasks back. next_at: when
-- the first of them is due (ordered) or may start (rate). not_before: before that none may be claimed at all, infinity if time
-- alone does not help.
CREATE OR REPLACE FUNCTION session_lock.pick__set__(
  p_id bigint, p_want integer, p_held __key_type__[], p_ended bigint[], p_now timestamptz, p_start text, p_waits boolean,
  p_version numeric[],
  OUT keys __key_type__[], OUT start text, OUT from_start boolean, OUT limited boolean, OUT next_at timestamptz,
  OUT not_before timestamptz
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
<<my>>
DECLARE
  id       bigint := p_id;
  held     __key_type__[] := p_held;
  ended    bigint[] := p_ended;
  clock    timestamptz := p_now;
  version  numeric[] := p_version;
  start    text := CASE WHEN NOT __fair__ THEN p_start END;
  self     bigint := CASE WHEN NOT __counts_held__ THEN p_id END;  -- whose unknown tasks are as good as free
  keys     __key_type__[] := '{}';  -- picked: they are the caller's from here on
  picked   bigint[] := '{}';        -- the values of these, but for those that were the caller's before
  want     integer := CASE WHEN __limits_each__ THEN least(p_want, 200) ELSE p_want END;  -- how many more (a lock each)
  waits    boolean := p_waits;
  limited  boolean := false;
  next_at  timestamptz;
  room     integer;
  cut      boolean := false;        -- whether the group has less room than is wanted
  allowed  integer;                 -- how many more the group's rate lets start,
  allowed_at timestamptz;           -- and when the next one after these
  now      timestamptz := p_now;
  spent    bigint[] := '{}';        -- values whose rate is used up
  all_want integer;
  step     text := 'order';         -- where to look: from the position on, from the start of the order, value by value
  walk     integer;
  offer    __key_type__[];          -- what may be picked, in the order of preference, and
  offer_of bigint[];                -- the values of these
  number   integer;
  all_seen boolean := false;        -- whether that was all that is due
  first    __key_type__[];          -- what a look in claim order has found
  first_of bigint[];
  value    bigint;
  locked   bigint[] := '{}';
  passed   bigint[] := '{}';        -- values whose lock, or rows, somebody else has
  tried    integer;                 -- how many of the offer are let through
  looks    integer := 0;            -- how often a step was done again without what was passed by
  turn     bigint := coalesce(substring(p_start FROM '^-?\d{1,19}$')::bigint, ((random() - 0.5) * 1.8e19)::bigint);
  at       bigint;
  ring     bigint[];
  next     bigint[];
  visited  integer;
  laps     integer;
  depth    integer;
BEGIN
  -- 0 What a call claimed whose reply was lost: it counts as held already, so no limit may keep it from its session.
  IF __counts_held__ AND p_start IS NULL THEN
    my.keys := ARRAY(
      SELECT t.__key__
        FROM __table__ AS t
       WHERE (__pending__) AND t.__available_at__ <= my.clock AND t.__session_id__ = my.id AND t.__key__ <> ALL (my.held)
       ORDER BY __order_by__
       LIMIT my.want
         FOR NO KEY UPDATE SKIP LOCKED
    );
    my.want := my.want - cardinality(my.keys);
  END IF;

  -- 1 What the whole group has room for.
  IF __limits_group__ AND my.want > 0 THEN
    IF my.waits THEN
      PERFORM pg_advisory_xact_lock(hashtextextended('session_lock limit of __title__', 0));
    ELSIF NOT pg_try_advisory_xact_lock(hashtextextended('session_lock limit of __title__', 0)) THEN
      my.want := 0;
      my.limited := true;
    END IF;
    my.now := session_lock.clock();  -- after the wait for the lock, not before it
    IF __most__ IS NOT NULL THEN
      SELECT __most__ - count(*) INTO my.room
        FROM (SELECT FROM __table__ AS t
               WHERE (__pending__) AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> ALL (my.ended)
               LIMIT __most__) AS task;
      IF my.room = 0 THEN
        pick__set__.not_before := 'infinity';
      END IF;
    END IF;
    IF __rate__ IS NOT NULL THEN
      SELECT __rate__ - coalesce(sum(s.number), 0), coalesce(min(s.at), my.now) + make_interval(secs => __rate_per__)
        INTO my.allowed, my.allowed_at
        FROM session_lock.started AS s
       WHERE s.name = '__title__' AND s.value IS NULL AND s.at > my.now - make_interval(secs => __rate_per__);
      IF my.allowed <= 0 THEN
        pick__set__.not_before := greatest(pick__set__.not_before, my.allowed_at);
      END IF;
    END IF;
    IF least(my.room, my.allowed) < my.want THEN
      my.want := greatest(least(my.room, my.allowed), 0);
      my.cut := true;
      my.limited := my.limited OR my.want = 0;
    END IF;
  END IF;

  -- 2 The tasks, one step after the other until there are enough.
  my.all_want := my.want;
  WHILE my.want > 0 LOOP
    my.offer := '{}';
    my.offer_of := '{}';

    IF my.step = 'order' THEN
      my.walk := 2 * my.want + 20;
      SELECT coalesce(array_agg(task.key) FILTER (WHERE task.value <> ALL (my.passed)), '{}'),
             coalesce(array_agg(task.value) FILTER (WHERE task.value <> ALL (my.passed)), '{}'), count(*)
        INTO my.offer, my.offer_of, my.number
        FROM (
          -- for each part of the order
          SELECT part.key, part.value
            FROM (SELECT t.__key__ AS key, __value__ AS value
                    FROM __table__ AS t
                   WHERE (__pending__) AND t.__available_at__ <= my.clock
                     AND (t.__session_id__ IS NULL OR t.__session_id__ = ANY (my.ended)
                          OR (t.__session_id__ = my.self AND t.__key__ <> ALL (my.held)))
                     AND t.__key__ <> ALL (my.keys)
                     AND __acceptable__ AND __from_position__
                   ORDER BY __order_by__
                   LIMIT my.walk) AS part
          -- as far as here
           LIMIT my.walk
        ) AS task;
      my.all_seen := my.start IS NULL AND my.number < my.walk;
      IF my.looks = 0 THEN
        my.first := my.offer;
        my.first_of := my.offer_of;
      END IF;
    END IF;

    -- Value by value, from the one on whose turn it is: first one task of each, until there are enough or all values or
    -- many were visited, then more of each.
    IF my.step = 'values' OR (__fair__ AND NOT my.all_seen) THEN
      my.offer := '{}';
      my.offer_of := '{}';
      my.ring := '{}';
      my.at := my.turn;
      my.laps := 0;
      my.visited := 0;
      WHILE my.laps < 2 AND my.visited < 1000 AND cardinality(my.offer) < my.want LOOP
        WITH RECURSIVE ring (value, place) AS (
          SELECT (SELECT __value__ FROM __table__ AS t WHERE (__pending__) AND __value__ > my.at ORDER BY __value__ LIMIT 1), 1
          UNION ALL
          SELECT (SELECT __value__ FROM __table__ AS t WHERE (__pending__) AND __value__ > ring.value ORDER BY __value__ LIMIT 1),
                 ring.place + 1
            FROM ring
           WHERE ring.value IS NOT NULL AND (my.laps = 0 OR ring.value <= my.turn) AND ring.place <= least(greatest(my.want, my.visited), 100)
        )
        SELECT coalesce(array_agg(ring.value ORDER BY ring.place)
                          FILTER (WHERE ring.value IS NOT NULL AND ring.value <> ALL (my.passed) AND (my.laps = 0 OR ring.value <= my.turn)), '{}'),
               max(ring.value), my.laps + bool_or(ring.value IS NULL OR (my.laps = 1 AND ring.value > my.turn))::integer
          INTO my.next, my.at, my.number
          FROM ring;
        my.visited := my.visited + cardinality(my.next) + 1;
        IF my.number > my.laps THEN
          my.at := -9223372036854775808;
          my.laps := my.number;
        END IF;
        IF __limits_each__ THEN
          my.number := cardinality(my.next);
          my.next := ARRAY(
            SELECT ring.value
              FROM unnest(my.next) WITH ORDINALITY AS ring (value, place)
              LEFT JOIN (SELECT __value__ AS value, count(*) AS held
                           FROM __table__ AS t
                          WHERE __most_each__ IS NOT NULL AND (__pending__)
                            AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> ALL (my.ended) AND __value__ = ANY (my.next)
                          GROUP BY __value__) AS taken ON taken.value = ring.value
              LEFT JOIN (SELECT s.value, sum(s.number) AS number
                           FROM session_lock.started AS s
                          WHERE __rate_each__ IS NOT NULL AND s.name = '__title__' AND s.value = ANY (my.next)
                            AND s.at > my.now - make_interval(secs => __rate_each_per__)
                          GROUP BY s.value) AS started ON started.value = ring.value
             WHERE least(__most_each__ - coalesce(taken.held, 0), __rate_each__ - coalesce(started.number, 0))
                   > (SELECT count(*) FROM unnest(my.picked) AS p (value) WHERE p.value = ring.value)
             ORDER BY ring.place
          );
          my.limited := my.limited OR cardinality(my.next) < my.number;
        END IF;
        my.ring := my.ring || my.next;
        my.depth := 1;
        LOOP
          SELECT coalesce(array_agg(task.key), '{}'), coalesce(array_agg(task.value), '{}') INTO my.offer, my.offer_of
            FROM (SELECT task.key, ring.value
                    FROM unnest(my.ring) WITH ORDINALITY AS ring (value, place)
                   CROSS JOIN LATERAL (
                     SELECT task.key, task.rank
                       FROM (SELECT t.__key__ AS key, row_number() OVER (ORDER BY __order_by__) AS rank,
                                    t.__available_at__ <= my.clock
                                    AND (t.__session_id__ IS NULL OR t.__session_id__ = ANY (my.ended)
                                         OR (t.__session_id__ = my.self AND t.__key__ <> ALL (my.held)))
                                    AND t.__key__ <> ALL (my.keys) AND __acceptable__ AS free
                               FROM __table__ AS t
                              WHERE (__pending__) AND __value__ = ring.value
                                AND (__ordered__
                                     OR (t.__available_at__ <= my.clock
                                         AND (t.__session_id__ IS NULL OR t.__session_id__ = ANY (my.ended)
                                              OR (t.__session_id__ = my.self AND t.__key__ <> ALL (my.held)))
                                         AND t.__key__ <> ALL (my.keys) AND __acceptable__))
                              ORDER BY __order_by__
                              LIMIT CASE WHEN __ordered__ THEN 1 ELSE my.depth END) AS task
                      WHERE task.free) AS task
                   ORDER BY task.rank, ring.place
                   LIMIT my.want) AS task;
          EXIT WHEN cardinality(my.offer) >= my.want OR my.depth >= least(my.want, __most_each__, __rate_each__)
                 OR (my.laps < 2 AND my.visited < 1000);
          my.depth := my.depth * 4;
        END LOOP;
      END LOOP;
      IF __fair__ AND cardinality(my.offer) < my.want THEN  -- whoever's turn it is: no session goes without
        SELECT my.offer || coalesce(array_agg(f.key ORDER BY f.place), '{}'), my.offer_of || coalesce(array_agg(f.value ORDER BY f.place), '{}')
          INTO my.offer, my.offer_of
          FROM unnest(my.first, my.first_of) WITH ORDINALITY AS f (key, value, place)
         WHERE f.key <> ALL (my.offer) AND f.key <> ALL (my.keys) AND f.value <> ALL (my.passed);
      END IF;
    ELSIF __fair__ THEN
      SELECT coalesce(array_agg(f.key ORDER BY f.rank, f.later, f.value), '{}'),
             coalesce(array_agg(f.value ORDER BY f.rank, f.later, f.value), '{}')
        INTO my.offer, my.offer_of
        FROM (SELECT f.key, f.value, f.value <= my.turn AS later, row_number() OVER (PARTITION BY f.value ORDER BY f.place) AS rank
                FROM unnest(my.offer, my.offer_of) WITH ORDINALITY AS f (key, value, place)) AS f;
    END IF;

    -- What the limit of each value lets through: once as it looks, to know which locks to take; once under the locks.
    my.limited := my.limited OR (my.cut AND cardinality(my.offer) > my.want);
    my.number := least(cardinality(my.offer), my.want);
    my.tried := my.number;
    IF __limits_each__ THEN
      FOR v_look IN 1..2 LOOP
        SELECT coalesce(array_agg(f.key ORDER BY f.place), '{}'), coalesce(array_agg(f.value ORDER BY f.place), '{}')
          INTO my.offer, my.offer_of
          FROM (SELECT f.key, f.value, f.place
                  FROM (SELECT f.key, f.value, f.place, row_number() OVER (PARTITION BY f.value ORDER BY f.place) AS rank
                          FROM unnest(my.offer, my.offer_of) WITH ORDINALITY AS f (key, value, place)
                         WHERE f.value <> ALL (my.passed)) AS f
                  LEFT JOIN (SELECT __value__ AS value, count(*) AS held
                               FROM __table__ AS t
                              WHERE __most_each__ IS NOT NULL AND (__pending__)
                                AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> ALL (my.ended) AND __value__ = ANY (my.offer_of)
                              GROUP BY __value__) AS taken ON taken.value = f.value
                  LEFT JOIN (SELECT s.value, sum(s.number) AS number
                               FROM session_lock.started AS s
                              WHERE __rate_each__ IS NOT NULL AND s.name = '__title__' AND s.value = ANY (my.offer_of)
                                AND s.at > my.now - make_interval(secs => __rate_each_per__)
                              GROUP BY s.value) AS started ON started.value = f.value
                 WHERE f.rank <= least(__most_each__ - coalesce(taken.held, 0), __rate_each__ - coalesce(started.number, 0))
                                 - (SELECT count(*) FROM unnest(my.picked) AS p (value) WHERE p.value = f.value)
                   AND (NOT __ordered__
                        OR f.key = (SELECT t.__key__ FROM __table__ AS t
                                     WHERE (__pending__) AND __value__ = f.value ORDER BY __order_by__ LIMIT 1))
                 ORDER BY f.place
                 LIMIT my.want) AS f;
        IF v_look = 1 THEN
          my.tried := cardinality(my.offer);
        END IF;
        EXIT WHEN v_look = 2 OR cardinality(my.offer) = 0;
        FOREACH my.value IN ARRAY ARRAY(SELECT DISTINCT v.value FROM unnest(my.offer_of) AS v (value)
                                         WHERE v.value <> ALL (my.locked) ORDER BY v.value) LOOP
          IF my.waits THEN
            PERFORM pg_advisory_xact_lock(hashtextextended('session_lock limit of __title__ by value', my.value));
            my.locked := my.locked || my.value;
          ELSIF pg_try_advisory_xact_lock(hashtextextended('session_lock limit of __title__ by value', my.value)) THEN
            my.locked := my.locked || my.value;
          ELSE
            my.passed := my.passed || my.value;
          END IF;
        END LOOP;
        my.waits := false;
        my.now := session_lock.clock();
      END LOOP;
      my.limited := my.limited OR cardinality(my.offer) < my.number;
    END IF;

    -- The rows themselves, so many of each value: what somebody has locked, or is just claiming, is passed over for the next.
    SELECT my.keys || coalesce(array_agg(task.key ORDER BY task.rank, quota.place), '{}'),
           my.picked || coalesce(array_agg(quota.value ORDER BY task.rank, quota.place), '{}'), count(*)
      INTO my.keys, my.picked, my.number
      FROM (SELECT o.value, count(*) AS number, min(o.place) AS place
              FROM unnest(my.offer_of[1:my.want]) WITH ORDINALITY AS o (value, place)
             GROUP BY o.value) AS quota
     CROSS JOIN LATERAL unnest(ARRAY(
             -- for each part of the order
             SELECT part.key
               FROM (SELECT t.__key__ AS key
                       FROM __table__ AS t
                      WHERE (__pending__) AND t.__available_at__ <= my.clock
                        AND (t.__session_id__ IS NULL OR t.__session_id__ = ANY (my.ended)
                             OR (t.__session_id__ = my.self AND t.__key__ <> ALL (my.held)))
                        AND t.__key__ <> ALL (my.keys) AND (NOT __ordered__ OR t.__key__ = ANY (my.offer)) AND __acceptable__
                        AND __value__ = quota.value AND __from_position__
                      ORDER BY __order_by__
                      LIMIT quota.number
                        FOR NO KEY UPDATE SKIP LOCKED) AS part
             -- as far as here
              LIMIT quota.number
           )) WITH ORDINALITY AS task (key, rank);
    my.want := my.want - my.number;
    my.waits := my.waits AND my.number = 0;

    -- What was let through and is not to be had keeps nobody from the other values: the same again without those that have
    -- given too few. (From a position on that is left to the look from the start.)
    IF __has_value__ AND my.number < my.tried AND my.start IS NULL AND my.looks < 25 THEN
      my.looks := my.looks + 1;
      my.passed := my.passed || ARRAY(
        SELECT o.value
          FROM unnest(my.offer_of[1:my.want + my.number]) AS o (value)
         GROUP BY o.value
        HAVING count(*) > (SELECT count(*) FROM unnest(my.picked[cardinality(my.picked) - my.number + 1:]) AS p (value) WHERE p.value = o.value)
      );
      CONTINUE;
    END IF;

    EXIT WHEN my.want = 0 OR my.all_seen OR my.step = 'values' OR __fair__;
    IF my.start IS NOT NULL THEN
      my.start := NULL;  -- too few from the position on: from the start, in order
      my.keys := '{}';
      my.picked := '{}';
      my.want := my.all_want;
    ELSIF __limits_each__ THEN
      my.step := 'values';
    ELSE
      EXIT;
    END IF;
  END LOOP;

  -- 3 What starts now, for the rates. Old starts go when their value, or the group, comes by again.
  IF __rate__ IS NOT NULL AND cardinality(my.picked) > 0 THEN
    DELETE FROM session_lock.started AS s
     WHERE s.name = '__title__' AND s.value IS NULL AND s.at <= my.now - make_interval(secs => __rate_per__);
    INSERT INTO session_lock.started (name, value, at, number) VALUES ('__title__', NULL, my.now, cardinality(my.picked));
    IF cardinality(my.picked) >= my.allowed THEN
      pick__set__.not_before := greatest(pick__set__.not_before, my.allowed_at);
    END IF;
  END IF;
  IF __rate_each__ IS NOT NULL AND cardinality(my.picked) > 0 THEN
    DELETE FROM session_lock.started AS s
     WHERE s.name = '__title__' AND s.value = ANY (my.picked) AND s.at <= my.now - make_interval(secs => __rate_each_per__);
    INSERT INTO session_lock.started (name, value, at, number)
    SELECT '__title__', p.value, my.now, count(*) FROM unnest(my.picked) AS p (value) GROUP BY p.value;
  END IF;

  -- 4 If values are full: when may the first of them go on? Its head is due again (in order); its rate allows it; or a task
  --   comes due of a value that is not full.
  IF my.limited AND my.want > 0 THEN
    IF __rate_each__ IS NOT NULL THEN
      SELECT min(full_value.at), coalesce(array_agg(full_value.value), '{}') INTO my.next_at, my.spent
        FROM (SELECT s.value, min(s.at) + make_interval(secs => __rate_each_per__) AS at
                FROM session_lock.started AS s
               WHERE s.name = '__title__' AND s.value = ANY (my.first_of)
                 AND s.at > my.now - make_interval(secs => __rate_each_per__)
               GROUP BY s.value
              HAVING sum(s.number) >= __rate_each__) AS full_value;
    END IF;
    IF __ordered__ THEN
      SELECT least(min(head.at), my.next_at) INTO my.next_at
        FROM (SELECT DISTINCT v.value FROM unnest(my.first_of) AS v (value)) AS v
       CROSS JOIN LATERAL (SELECT t.__available_at__ AS at FROM __table__ AS t
                            WHERE (__pending__) AND __value__ = v.value ORDER BY __order_by__ LIMIT 1) AS head
       WHERE head.at > my.clock AND head.at < 'infinity';
    ELSIF __due_is_indexed__ OR to_regclass('__due_index_literal__') IS NOT NULL THEN
      SELECT least(min(task.at), my.next_at) INTO my.next_at
        FROM (SELECT t.__available_at__ AS at, __value__ AS value
                FROM __table__ AS t
               WHERE (__pending__) AND t.__available_at__ > my.clock AND t.__available_at__ < 'infinity' AND __acceptable__
               ORDER BY t.__available_at__
               LIMIT 100) AS task
       WHERE task.value <> ALL (my.spent)
         AND (__most_each__ IS NULL
              OR __most_each__ > (SELECT count(*) FROM unnest(my.picked) AS p (value) WHERE p.value = task.value)
                                 + (SELECT count(*) FROM __table__ AS t
                                     WHERE (__pending__) AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> ALL (my.ended)
                                       AND __value__ = task.value));
    END IF;
  END IF;

  IF __has_value__ AND NOT __fair__ THEN
    my.keys := ARRAY(SELECT t.__key__ FROM __table__ AS t WHERE t.__key__ = ANY ((SELECT my.keys)::__key_type__[]) ORDER BY __order_by__);
  END IF;
  pick__set__.keys := my.keys;
  pick__set__.from_start := my.start IS NULL;
  pick__set__.limited := my.limited;
  pick__set__.next_at := my.next_at;
  pick__set__.start := CASE
    WHEN __fair__ THEN coalesce(my.picked[cardinality(my.picked)], my.turn)::text
    WHEN my.step = 'order' THEN 'order'
  END;
END
$function$;

REVOKE ALL ON FUNCTION
  session_lock.possible__set__(bigint, timestamptz, numeric[]),
  session_lock.pick__set__(bigint, integer, __key_type__[], bigint[], timestamptz, text, boolean, numeric[])
FROM PUBLIC;
