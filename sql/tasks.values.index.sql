-- session_lock: of a mapping with limits or fair_by over a column: the tasks that are pending by the hash of that column,
-- so that those of one value are found whatever stands before them. Run it outside a transaction, after the columns are there.

CREATE INDEX CONCURRENTLY IF NOT EXISTS __values_index__ ON __table__ (__value_index__, __order_index__) WHERE (__pending__);
