-- session_lock: the locks of all that the files after this one take away, those of a mapping and then sessions.down.sql. Within a
-- transaction they would have one after the other, and keep the task table from everybody while the sessions' tables are waited
-- for: here they are had together, or not at all. Those of duties are there if they are the mapping. Outside of one it does nothing
-- that lasts.

DO $function$
BEGIN
  IF to_regclass(__table_text__) IS NOT NULL AND to_regclass($name$session_lock.session$name$) IS NOT NULL
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc AS own JOIN pg_catalog.pg_proc AS p ON p.pronamespace = own.pronamespace
                      WHERE own.oid = to_regproc($name$session_lock.clock$name$) AND pg_catalog.starts_with(p.proname, 'finish_tasks_')
                        AND NOT (position($name$UPDATE __table__ AS t$name$ IN p.prosrc) > 0 AND position($name$'__title__'::text$name$ IN p.prosrc) > 0)) THEN
    LOCK TABLE __table__, session_lock.session, session_lock.failure, session_lock.pause, session_lock.started, session_lock.origin, session_lock.duty_declaration, session_lock.duty IN ACCESS EXCLUSIVE MODE;
  END IF;
END
$function$;
