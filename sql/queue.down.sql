-- session_lock: takes the ready-made table __title__ away, finished tasks included. It refuses while tasks are pending in it.

-- Asked before the lock is waited for, and once more under it: who was waited for may have put some in.
DO $function$
DECLARE
  v_query   text := $query$ SELECT EXISTS (SELECT FROM __table__ AS t WHERE __pending__) $query$;
  v_pending boolean;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN  -- else what has come is not seen
    RAISE EXCEPTION 'queue.down.sql needs READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
      USING ERRCODE = 'invalid_transaction_state';
  END IF;
  IF to_regclass(__table_text__) IS NOT NULL THEN
    EXECUTE v_query INTO v_pending;
    IF NOT v_pending THEN
      LOCK TABLE __table__ IN ACCESS EXCLUSIVE MODE;
      EXECUTE v_query INTO v_pending;
    END IF;
    IF v_pending THEN
      RAISE EXCEPTION 'tasks are pending in __title__: let them be done, or delete them';
    END IF;
    DROP TABLE __table__;
  END IF;
END
$function$;

DROP FUNCTION IF EXISTS session_lock.enqueue_keys__set__(double precision[], timestamptz[]);
DROP FUNCTION IF EXISTS session_lock.enqueue__set__(jsonb[], smallint[], double precision[], timestamptz[], text[], text[]);
