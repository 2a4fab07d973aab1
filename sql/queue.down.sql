-- session_lock: takes the ready-made table __title__ away, finished tasks included. It refuses while tasks are pending in it.

DO $function$
DECLARE
  v_pending boolean := false;
BEGIN
  IF to_regclass(__table_text__) IS NOT NULL THEN
    EXECUTE $query$ SELECT EXISTS (SELECT FROM __table__ AS t WHERE __pending__) $query$ INTO v_pending;
  END IF;
  IF v_pending THEN
    RAISE EXCEPTION 'tasks are pending in __title__: let them be done, or delete them';
  END IF;
END
$function$;

DROP FUNCTION IF EXISTS session_lock.enqueue_keys__set__(double precision[], timestamptz[]);
DROP FUNCTION IF EXISTS session_lock.enqueue__set__(jsonb[], smallint[], double precision[], timestamptz[], text[], text[]);
DO $function$
BEGIN
  IF to_regclass(__table_text__) IS NOT NULL THEN
    LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
    DROP TABLE __table__;
  END IF;
END
$function$;
