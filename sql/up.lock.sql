-- session_lock: the locks of what the files after this one change, where sessions.up.sql has something to add to tables that are
-- there, and then tasks.up.sql its columns. Within a transaction they would have one after the other, and keep all keepalives waiting
-- while the task table is waited for: here they are had together, or not at all. Outside of one it does nothing that lasts.

DO $function$
BEGIN
  IF to_regclass($name$session_lock.session$name$) IS NOT NULL
     AND 4 > (SELECT count(*)
                FROM pg_catalog.pg_attribute AS a
               WHERE a.attrelid = to_regclass('__table_literal__') AND NOT a.attisdropped
                 AND a.attname IN ('__session_id_literal__', '__claim_token_literal__', '__attempts_literal__', '__available_at_literal__'))
     AND (2 > (SELECT count(*)
                 FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = to_regclass($name$session_lock.session$name$) AND a.attname IN ('beat_at', 'idle_from') AND NOT a.attisdropped)
          OR to_regclass($name$session_lock.session_unswept$name$) IS NULL
          OR to_regclass($name$session_lock.failure_of_task$name$) IS NULL
          OR to_regclass($name$session_lock.started_name_value_at$name$) IS NULL) THEN
    LOCK TABLE __table__, session_lock.session, session_lock.failure, session_lock.started IN ACCESS EXCLUSIVE MODE;
  END IF;
END
$function$;
