-- session_lock: wakes the Runners of __title__ at every statement that inserts into its table, COPY included, whoever
-- inserts. On request only: without it call session_lock.wake in the inserting transaction, or wait for the next poll.
-- The second argument is p_quiet of that function. `session-lock sql trigger --down` prints the way back.

DO $function$
BEGIN
  LOCK TABLE __table__ IN SHARE ROW EXCLUSIVE MODE;
  CREATE OR REPLACE TRIGGER __wake_trigger__
    AFTER INSERT ON __table__
    FOR EACH STATEMENT EXECUTE FUNCTION session_lock.wake_on_insert(__name__, __quiet__);
END
$function$;
