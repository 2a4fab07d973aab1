-- session_lock: who may put tasks into the ready-made table __title__. INSERT is for COPY: many tasks at once.

GRANT USAGE ON SCHEMA session_lock TO __role__;
GRANT EXECUTE ON FUNCTION
  session_lock.wake(text, boolean),
  session_lock.enqueue__set__(jsonb[], smallint[], double precision[], timestamptz[], text[], text[]),
  session_lock.enqueue_keys__set__(double precision[], timestamptz[])
TO __role__;
GRANT USAGE ON SCHEMA __table_schema__ TO __role__;
GRANT INSERT (id, payload, priority, __available_at__, traceparent, created_at) ON __table__ TO __role__;
