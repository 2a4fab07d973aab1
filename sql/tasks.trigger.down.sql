-- session_lock: takes the trigger away that wakes the Runners of __title__.

DO $function$
BEGIN
  LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
  DROP TRIGGER IF EXISTS __wake_trigger__ ON __table__;
END
$function$;
