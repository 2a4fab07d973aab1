-- session_lock: the one index of a mapping: the tasks that are pending, in the order in which they are claimed.
-- Run it outside a transaction, after the columns are there: it does not block writers, and takes its time.

CREATE INDEX CONCURRENTLY IF NOT EXISTS __index__ ON __table__ (__order_index__) WHERE (__pending__);
