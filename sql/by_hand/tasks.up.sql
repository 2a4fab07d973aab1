-- session_lock by hand, 1: the four columns of a claim, on the table whose rows are your tasks. Run once, after
-- sessions.up.sql. Replace each word that begins with TODO; README.md says what each of them stands for.
--
-- A task is one row of ONE table, TODO_TABLE, however many other tables decide about it: that row is what is locked.

SET lock_timeout = '50ms';  -- rather give up than wait for a long transaction, with everybody behind us: run it again then

ALTER TABLE TODO_TABLE
  ADD COLUMN IF NOT EXISTS session_id bigint,                                -- who holds it
  ADD COLUMN IF NOT EXISTS claim_token bigint,                               -- counts its claims; never reset
  ADD COLUMN IF NOT EXISTS attempts integer NOT NULL DEFAULT 0,              -- claims that count
  ADD COLUMN IF NOT EXISTS available_at timestamptz NOT NULL DEFAULT now();  -- not before; infinity is parked

-- Every call looks for tasks: an index that finds those that are pending, in their order if this table knows it. If the
-- table is large, make the index by hand and CONCURRENTLY.
CREATE INDEX IF NOT EXISTS TODO_NAME_pending ON TODO_TABLE (TODO_INDEX) WHERE (TODO_INDEX_CONDITION);

RESET lock_timeout;
