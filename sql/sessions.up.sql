-- session_lock: the tables that all mappings share. Run once; running it again changes nothing.
--
-- A session is the lease of one Runner on one mapping. While it is live (not ended, not expired) its tasks are its
-- own; once it is *ended* they are claimable by others. Expiring and ending are two things: a session whose lease ran
-- out is ended by whoever sees it first, under FOR UPDATE of its row, and only then do its tasks change hands.

CREATE SCHEMA IF NOT EXISTS session_lock;

CREATE TABLE IF NOT EXISTS session_lock.session (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  nonce           uuid NOT NULL DEFAULT gen_random_uuid(),  -- proof of identity; known to the session alone
  name            text NOT NULL,                            -- the mapping's name: sessions of one name share its tasks
  functions       text NOT NULL DEFAULT '',                 -- which set of functions it calls (name_hash), for prune
  capacity        integer NOT NULL CHECK (capacity > 0),    -- how many tasks it may hold
  started_at      timestamptz NOT NULL,
  expires_at      timestamptz NOT NULL,                     -- moved by every keepalive, so no index may contain it
  beat_at         timestamptz,                              -- its last keepalive; NULL: none yet. For people
  ended_at        timestamptz,                              -- set once, never unset: its tasks are claimable from here on
  swept_at        timestamptz,                              -- ended, and no task named it in a full walk: left the list
  draining        boolean NOT NULL DEFAULT false,           -- takes no more work; not counted in the shares
  drain_requested boolean NOT NULL DEFAULT false,           -- somebody asked it to drain; it hears so at its next keepalive
  idle            boolean NOT NULL DEFAULT false,           -- its last look left it with room: a quiet wake-up is for it
  idle_from       xid8,                                     -- and transactions from this one on have begun when that was to be seen
  give_back       integer NOT NULL DEFAULT 0,               -- unstarted tasks that others ask it to release
  asked_at        timestamptz,                              -- when they did so last
  running         integer NOT NULL DEFAULT 0,               -- tasks in calls of its tasker, at its last keepalive
  counted         integer,                                  -- tasks that it counted for its share, where they were many
  counted_at      timestamptz,
  cancel_keys     text[] NOT NULL DEFAULT '{}',             -- running tasks that it is asked to cancel
  label           text NOT NULL DEFAULT '',                 -- host:pid, for people; never an identity
  app_version     text NOT NULL DEFAULT '',
  library_version text NOT NULL DEFAULT ''
) WITH (fillfactor = 50);  -- room for the keepalive's new row version in the same page (HOT)

-- A table of an earlier version gets what it lacks; asked first, since ALTER TABLE would hold up all keepalives.
DO $function$
BEGIN
  IF (SELECT count(*) FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_type AS t ON t.typrelid = a.attrelid
       WHERE t.oid = pg_typeof(NULL::session_lock.session) AND a.attname IN ('beat_at', 'idle_from') AND NOT a.attisdropped) < 2 THEN
    LOCK TABLE session_lock.session IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE session_lock.session
      ADD COLUMN IF NOT EXISTS beat_at timestamptz,
      ADD COLUMN IF NOT EXISTS idle_from xid8;
  END IF;
END
$function$;

-- What went wrong with a task; the newest few per task are kept.
CREATE TABLE IF NOT EXISTS session_lock.failure (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name     text NOT NULL,         -- the mapping's
  task_key text NOT NULL,         -- the task's key as text
  attempt  integer NOT NULL,
  at       timestamptz NOT NULL,
  session  bigint,                -- that held it; no foreign key: sessions are pruned, and a shared parent would be locked by all
  error    text NOT NULL          -- cut to 4,000 characters
);

-- A name that stands here is paused: its sessions go on living and finish what they run, but get no new work.
CREATE TABLE IF NOT EXISTS session_lock.pause (
  name text PRIMARY KEY,
  at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What was started lately under a Rate of its mapping: by the hash of a column's value, or NULL for the whole mapping.
-- Rows are kept for the time of the rate.
CREATE TABLE IF NOT EXISTS session_lock.started (
  name   text NOT NULL,         -- the mapping's
  value  bigint,
  at     timestamptz NOT NULL,
  number integer NOT NULL       -- tasks that were claimed then
);

-- The database that all this belongs to, written by the first session that starts in it: a copy restored elsewhere has it too, and so
-- knows that it is one. One row.
CREATE TABLE IF NOT EXISTS session_lock.origin (
  one      boolean PRIMARY KEY DEFAULT true CHECK (one),
  system   bigint NOT NULL,     -- the server's system identifier, which its standbys share
  database text NOT NULL
);

-- Asked first: to make an index, also one that is there, holds up all keepalives until the transaction ends.
DO $function$
BEGIN
  IF to_regclass($name$session_lock.session_unswept$name$) IS NULL
     OR to_regclass($name$session_lock.failure_of_task$name$) IS NULL
     OR to_regclass($name$session_lock.started_name_value_at$name$) IS NULL THEN
    LOCK TABLE session_lock.session, session_lock.failure, session_lock.started IN SHARE MODE;
    -- The sessions that matter to a name: live ones, and ended ones whose tasks may still have to be found.
    CREATE INDEX IF NOT EXISTS session_unswept ON session_lock.session (name) WHERE swept_at IS NULL;
    CREATE INDEX IF NOT EXISTS failure_of_task ON session_lock.failure (name, task_key, id);
    CREATE INDEX IF NOT EXISTS started_name_value_at ON session_lock.started (name, value, at);
  END IF;
END
$function$;

REVOKE ALL ON session_lock.session, session_lock.failure, session_lock.pause, session_lock.started, session_lock.origin FROM PUBLIC;
