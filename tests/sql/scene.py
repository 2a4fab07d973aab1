"""The scene of the crossings: one small world that is set back in a moment, its audit, and where calls can be stopped.

There are ten tasks and five sessions:

    task        1      2      3       4    5     6        7          8     9      10
    held by     first  first  second  -    dead  -        -          gone  swept  99
                                                 parked   finished

`first` has 30 seconds to live, `second` 300; `dead` has ended, `gone` has expired and nobody has ended it, `swept` had no task
any more when somebody looked, and there is no session 99. Task 7 was finished by `first`, token 1. `second` is to cancel task 4,
which it does not hold any more. Triggers write down each change of a task's or a session's row. The same triggers are gates: a
call whose backend stands in `public.gate` waits there for an advisory lock, before or after what it writes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from tests.sql.schedule import Actor, Lab

FIRST, SECOND, DEAD, GONE, SWEPT = 1, 2, 3, 4, 5
NONCES = {session: UUID(int=session) for session in (FIRST, SECOND)}
GATES = (
    """
CREATE TABLE public.audit (
  seq bigint GENERATED ALWAYS AS IDENTITY, pid integer, who text, about text, was jsonb, became jsonb, over boolean, at timestamptz
);
CREATE TABLE public.gate (pid integer, point text, lock bigint);
CREATE TABLE public.effect (key bigint, pid integer);
GRANT ALL ON public.effect TO app;

CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET timezone = 'UTC' AS $$
BEGIN
  INSERT INTO public.audit (pid, who, about, was, became, over, at)
  VALUES (pg_backend_pid(), session_user, TG_TABLE_NAME, to_jsonb(old), to_jsonb(new),
          TG_TABLE_NAME = 'email' AND NOT EXISTS (
            SELECT FROM session_lock.session AS s WHERE s.id = (to_jsonb(old) ->> 'session_id')::bigint AND s.ended_at IS NULL),
          session_lock.clock());
  RETURN NULL;
END $$;
CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(g.lock) FROM public.gate AS g
    WHERE g.pid = pg_backend_pid() AND g.point = lower(TG_WHEN) || ' a write to ' || TG_TABLE_NAME;
  RETURN NULL;
END $$;
"""
    + "".join(
        f"CREATE TRIGGER gate_{when} {when} INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION public.gate();\n"
        for table in ("public.email", "session_lock.session", "session_lock.failure")
        for when in ("BEFORE", "AFTER")
    )
    + "".join(
        f"CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION public.note();\n"
        for table in ("public.email", "session_lock.session")
    )
)

# The triggers are off for this. The tokens of held tasks tell them from each other: 10 times the key.
SET_BACK = f"""
SET session_replication_role = replica;
DELETE FROM public.email; DELETE FROM session_lock.session; DELETE FROM session_lock.failure; DELETE FROM session_lock.pause;
DELETE FROM public.audit; DELETE FROM public.gate; DELETE FROM public.effect;
UPDATE public.test_clock SET ahead = 0;
SELECT session_lock.adopt();
INSERT INTO session_lock.session (id, nonce, name, capacity, started_at, expires_at, ended_at) OVERRIDING SYSTEM VALUE
SELECT s.id, lpad(to_hex(s.id), 32, '0')::uuid, 'email', 100, now() - interval '1 h', now() + s.lease,
       CASE WHEN s.id IN ({DEAD}, {SWEPT}) THEN now() - interval '1 s' END
  FROM (VALUES ({FIRST}, interval '30 s'), ({SECOND}, '300 s'), ({DEAD}, '10 s'), ({GONE}, '-1 s'), ({SWEPT}, '10 s')) AS s (id, lease);
UPDATE session_lock.session SET swept_at = ended_at WHERE id = {SWEPT};
UPDATE session_lock.session SET cancel_keys = '{{4}}' WHERE id = {SECOND};
INSERT INTO public.email (id, address, session_id, claim_token, attempts, available_at, sent_at) OVERRIDING SYSTEM VALUE
SELECT t.id, 'a', t.session, t.token, coalesce(sign(t.token), 0), now() - interval '1 h' + make_interval(secs => t.id), NULL
  FROM (VALUES (1, {FIRST}, 10), (2, {FIRST}, 20), (3, {SECOND}, 30), (4, NULL, NULL), (5, {DEAD}, 50), (6, NULL, 60), (7, NULL, 1),
               (8, {GONE}, 80), (9, {SWEPT}, 90), (10, 99, 100)) AS t (id, session, token);
UPDATE public.email SET available_at = 'infinity' WHERE id = 6;
UPDATE public.email SET sent_at = now() WHERE id = 7;
SET session_replication_role = origin;
"""


@dataclass
class Scene:
    lab: Lab
    holders: list[asyncpg.Connection]
    """They hold the locks at which calls are stopped, one for each call. `lab.admin` only looks, and moves the clock."""

    apps: list[asyncpg.Connection]
    """As the role of a service, one for each call of a crossing."""

    people: list[asyncpg.Connection]
    """As the superuser, likewise."""

    async def set_back(self) -> None:
        await self.lab.admin.execute(SET_BACK)

    def actor(self, slot: int, session: int) -> Actor:
        return Actor(self.apps[slot], self.lab.functions, session, NONCES[session])

    async def audit(self) -> list[Change]:
        rows = await self.lab.admin.fetch("SELECT * FROM public.audit ORDER BY seq")
        return [
            Change(
                row["pid"], row["who"] == "app", row["about"], _fields(row["was"]), _fields(row["became"]), row["over"], row["at"]
            )
            for row in rows
        ]  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One change of one row, as its trigger saw it."""

    pid: int
    by_service: bool
    """By our functions, and not by people's own statements."""

    about: str
    was: dict[str, Any]
    became: dict[str, Any]
    """Empty if there was none before, or is none after."""

    over: bool
    """Of a task: no session that is not ended has held it."""

    at: Any


def _fields(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}


@asynccontextmanager
async def open_scene(lab: Lab, dsn: str, slots: int = 3) -> AsyncIterator[Scene]:
    """On a fresh lab; `dsn` is its superuser's. A deadlock is a fault here, so it is told at once; plans are made once, which is a third less to do."""
    database = await lab.admin.fetchval("SELECT quote_ident(current_database())")
    await lab.own_clock()
    await lab.admin.execute(GATES)
    for setting in ("deadlock_timeout = '50ms'", "plan_cache_mode = force_generic_plan"):
        await lab.admin.execute(f"ALTER DATABASE {database} SET {setting}")
    await lab.admin.execute("ALTER SEQUENCE session_lock.session_id_seq RESTART 100")
    opened = [await asyncpg.connect(dsn) for _ in range(2 * slots)]
    lab.opened += opened
    yield Scene(lab, opened[:slots], [await lab.connect() for _ in range(slots)], opened[slots:])
