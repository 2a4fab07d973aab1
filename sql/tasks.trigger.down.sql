-- session_lock: takes the trigger away that wakes the Runners of __title__.

SET lock_timeout = '5s';

DROP TRIGGER IF EXISTS __wake_trigger__ ON __table__;

RESET lock_timeout;
