-- session_lock: of a mapping with a Limit: the tasks that are held, which are counted. Run it outside a transaction, after
-- the columns are there. Claims and finishes of such a mapping write every index of the table (no HOT updates).

CREATE INDEX CONCURRENTLY IF NOT EXISTS __held_index__ ON __table__ (__held_by__)
  WHERE (__pending__) AND __session_id__ IS NOT NULL;
