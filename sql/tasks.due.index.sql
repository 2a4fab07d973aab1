-- session_lock: an index of when what is pending falls due, for a mapping whose order does not begin with that. With it a
-- Runner knows when to look next; without it it looks at its poll interval. Run it outside a transaction, as tasks.index.sql.

CREATE INDEX CONCURRENTLY IF NOT EXISTS __due_index__ ON __table__ (__available_at__) WHERE (__pending__);
