-- session_lock: takes away everything that sessions.up.sql and sessions.alwaysup.sql made. The task tables are not
-- touched: run tasks.down.sql of each mapping first. What is still in the schema is refused, not dropped with it.

-- Asked before the lock is waited for, and once more under it: a mapping may have been installed meanwhile.
DO $function$
DECLARE
  v_query    text := $query$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_proc AS own JOIN pg_catalog.pg_proc AS p ON p.pronamespace = own.pronamespace
                    WHERE own.oid = to_regproc($name$session_lock.clock$name$) AND pg_catalog.starts_with(p.proname, 'get_work_'))
    $query$;
  v_mappings boolean;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN  -- else what has come is not seen
    RAISE EXCEPTION 'sessions.down.sql needs READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
      USING ERRCODE = 'invalid_transaction_state';
  END IF;
  EXECUTE v_query INTO v_mappings;
  IF NOT v_mappings AND to_regclass($name$session_lock.session$name$) IS NOT NULL THEN
    LOCK TABLE session_lock.session, session_lock.failure, session_lock.pause, session_lock.started, session_lock.origin IN ACCESS EXCLUSIVE MODE;
    EXECUTE v_query INTO v_mappings;
  END IF;
  IF v_mappings THEN
    RAISE EXCEPTION 'mappings are still installed: run the tasks.down.sql of each of them first';
  END IF;
  DROP FUNCTION IF EXISTS session_lock.around_task(text, text, bigint, timestamptz);
  DROP FUNCTION IF EXISTS session_lock.is_suspect(text, text);
  DROP FUNCTION IF EXISTS session_lock.note_expired(text, text[], integer[], bigint[], timestamptz);
  DROP FUNCTION IF EXISTS session_lock.trim_failures(text, text[]);
  DROP FUNCTION IF EXISTS session_lock.limit_transaction(interval);
  DROP FUNCTION IF EXISTS session_lock.sharing_with(bigint[], integer[], text);
  DROP FUNCTION IF EXISTS session_lock.may_take(numeric[], text);
  DROP FUNCTION IF EXISTS session_lock.version_numbers(text);
  DROP FUNCTION IF EXISTS session_lock.wake_on_insert();
  DROP FUNCTION IF EXISTS session_lock.wake(text, boolean);
  DROP FUNCTION IF EXISTS session_lock.forget_cancelled(bigint, text[]);
  DROP FUNCTION IF EXISTS session_lock.ask_for_tasks(bigint[], integer[], bigint, bigint[], bigint[], timestamptz);
  DROP FUNCTION IF EXISTS session_lock.drain_session(text, bigint);
  DROP FUNCTION IF EXISTS session_lock.resume_mapping(text);
  DROP FUNCTION IF EXISTS session_lock.pause_mapping(text);
  DROP FUNCTION IF EXISTS session_lock.tell_all(text);
  DROP FUNCTION IF EXISTS session_lock.tell(bigint[]);
  DROP FUNCTION IF EXISTS session_lock.asked_lately(bigint[], timestamptz);
  DROP FUNCTION IF EXISTS session_lock.share(bigint, bigint[], integer[], bigint);
  DROP FUNCTION IF EXISTS session_lock.shares(bigint[], integer[], bigint);
  DROP FUNCTION IF EXISTS session_lock.seen_idle(bigint);
  DROP FUNCTION IF EXISTS session_lock.note_look(bigint, boolean, bigint, timestamptz);
  DROP FUNCTION IF EXISTS session_lock.sweep_sessions(bigint[], bigint[], timestamptz);
  DROP FUNCTION IF EXISTS session_lock.sessions_of(text, timestamptz);
  DROP FUNCTION IF EXISTS session_lock.hold_session(bigint, uuid);
  DROP FUNCTION IF EXISTS session_lock.bump_session(bigint, uuid, double precision, boolean, integer);
  DROP FUNCTION IF EXISTS session_lock.start_session(text, text, integer, double precision, text, text, text);
  DROP FUNCTION IF EXISTS session_lock.adopt();
  DROP FUNCTION IF EXISTS session_lock.whereabouts();
  DROP FUNCTION IF EXISTS session_lock.clock();
  DROP FUNCTION IF EXISTS session_lock.schema_version();
  DROP TABLE IF EXISTS session_lock.origin;
  DROP TABLE IF EXISTS session_lock.started;
  DROP TABLE IF EXISTS session_lock.pause;
  DROP TABLE IF EXISTS session_lock.failure;
  DROP TABLE IF EXISTS session_lock.session;
  DROP SCHEMA IF EXISTS session_lock;
END
$function$;
