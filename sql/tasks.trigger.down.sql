-- session_lock: takes the trigger away that wakes the Runners of __title__.

DO $function$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = to_regclass(__table_text__) AND g.tgname = __wake_trigger_text__) THEN
    LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
    DROP TRIGGER IF EXISTS __wake_trigger__ ON __table__;
  END IF;
END
$function$;
