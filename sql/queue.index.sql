-- session_lock: the indexes of __title__ while it is new, and nobody would wait for them: of what is pending in the order of the
-- claims, and of when it falls due. On a table that is in use `session-lock sql index` and `sql due` build them concurrently.

DO $function$
BEGIN
  IF to_regclass('__index_literal__') IS NULL THEN
    CREATE INDEX IF NOT EXISTS __index__ ON __table__ (__order_index__) WHERE (__pending__);
  END IF;
  IF to_regclass('__due_index_literal__') IS NULL THEN
    CREATE INDEX IF NOT EXISTS __due_index__ ON __table__ (__available_at__) WHERE (__pending__);
  END IF;
END
$function$;
