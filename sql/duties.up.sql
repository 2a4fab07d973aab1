-- session_lock: the tables of duties, which are due by a schedule. Run once; running it again changes nothing.
-- What a duty has to do at one due time is a run: a row of duty_run, which is a task table like any other.

CREATE TABLE IF NOT EXISTS session_lock.duty_run (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name        text NOT NULL,         -- the duty's
  due_at      timestamptz NOT NULL,
  schedule    text NOT NULL,         -- by which it was planned
  finished_at timestamptz,
  failed_at   timestamptz,           -- given up
  UNIQUE (name, due_at)              -- once in the whole group
) WITH (fillfactor = 50);

-- What is planned of a duty. Its row is locked by whoever plans, and by nobody else.
CREATE TABLE IF NOT EXISTS session_lock.duty (
  name     text PRIMARY KEY,
  schedule text,                     -- the one that counts; NULL: none yet
  since    timestamptz,              -- from when on it counts: what was due by it before that was never promised; or until when it was watched
  last_due timestamptz               -- its last due time that was planned; NULL: none yet
);

-- Who says when a duty is due. Of the live sessions the one of the highest rank counts; a rank is the id of the first
-- session that its process has had, so an old process does not become the youngest by losing its lease.
CREATE TABLE IF NOT EXISTS session_lock.duty_declaration (
  name        text NOT NULL,
  session     bigint NOT NULL,       -- no foreign key: sessions are pruned
  rank        bigint NOT NULL,
  schedule    text NOT NULL,
  declared_at timestamptz NOT NULL,
  watches     boolean NOT NULL DEFAULT false,  -- it has dealt with what was missed before it, or another had
  PRIMARY KEY (name, session)
);

REVOKE ALL ON session_lock.duty_run, session_lock.duty, session_lock.duty_declaration FROM PUBLIC;
