-- session_lock: takes away the duties: what is planned, and which runs there have been. Nothing in there is a user's own.

DO $function$
BEGIN
  IF to_regclass($name$session_lock.duty_run$name$) IS NOT NULL THEN
    LOCK TABLE session_lock.duty_run, session_lock.duty_declaration, session_lock.duty IN ACCESS EXCLUSIVE MODE;
  END IF;
  DROP FUNCTION IF EXISTS session_lock.plan_duties(bigint, uuid, bigint, text[], text[], timestamptz[], boolean[], text[], timestamptz[]);
  DROP FUNCTION IF EXISTS session_lock.forget_duties(timestamptz);
  DROP FUNCTION IF EXISTS session_lock.sharing_duty(bigint[], integer[], text);
  DROP TABLE IF EXISTS session_lock.duty_run;
  DROP TABLE IF EXISTS session_lock.duty_declaration;
  DROP TABLE IF EXISTS session_lock.duty;
END
$function$;
