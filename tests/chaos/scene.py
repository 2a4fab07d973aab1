"""What the tests of single faults share: the table, Runners in this process, and what they have done."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.connections import Connect
from tests.conftest import APP_ROLE
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

AT_NIGHT = os.environ.get("SESSION_LOCK_STORM") == "night"

WITHIN = 400.0 if AT_NIGHT else 40.0
"""Seconds: far more than any of this takes."""

QUICK = Settings(
    lease_ttl=3, keepalive_interval=0.4, call_timeout=0.8, cancel_grace=0.3, guard=0.3, poll_interval=0.1,
    patience=0.1, start_jitter=0, drain_timeout=2, shutdown_timeout=1, concurrency=4,
)  # fmt: skip

AUDIT = """
CREATE TABLE public.finish (email bigint NOT NULL, session bigint);
CREATE FUNCTION public.note_finish() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO public.finish VALUES (new.id, old.session_id); RETURN NULL; END';
CREATE TABLE public.effect (email bigint NOT NULL);
GRANT INSERT ON public.effect TO app;
CREATE TRIGGER note_finish AFTER UPDATE ON public.email FOR EACH ROW
  WHEN ((old.sent_at IS NULL) <> (new.sent_at IS NULL)) EXECUTE FUNCTION public.note_finish();
"""

Tasker = Callable[[Any], Awaitable[Any]]


class Scene:
    def __init__(self, dsn: str, admin: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.admin = admin
        self.runs = Counter[int]()
        self.cancelled = Counter[int]()
        self.seconds = 0.0
        """That a task takes."""

    async def send(self, task: Any) -> None:
        self.runs[task.key] += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled[task.key] += 1
            raise

    async def write(self, task: Any) -> None:
        """Send, with an effect in the finishing transaction."""
        await self.send(task)
        async with task.transaction() as connection:
            await connection.execute("INSERT INTO public.effect VALUES ($1)", task.key)

    async def add(self, count: int) -> list[int]:
        return await add_emails(self.admin, count)

    @asynccontextmanager
    async def running(
        self,
        connect: Connect | None = None,
        tasker: Tasker | None = None,
        *,
        batches: Any = None,
        pool: Any = None,
        **changes: Any,
    ) -> AsyncIterator[Runner[Any]]:
        """A Runner with a database of its own, that polls; `batches` is a tasker of whole batches."""
        async with (
            PostgresDatabase(connect or self.dsn, EMAILS, listen=False, pool=pool) as emails,
            Runner(emails, batches or each(tasker or self.send), replace(QUICK, **changes)) as runner,
        ):
            yield runner

    async def ask(self, question: str, *arguments: Any) -> Any:
        return await self.admin.fetchval(f"SELECT {question}", *arguments)

    async def until(self, condition: str) -> None:
        try:
            async with asyncio.timeout(WITHIN):
                while not await self.ask(condition):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            for table in ("email", "session_lock.session", "session_lock.failure", "pg_stat_activity"):
                print(*await self.admin.fetch(f"SELECT * FROM {table} LIMIT 30"), sep="\n")
            raise

    async def until_finished(self) -> None:
        """All tasks that there are; each of them once, for good."""
        await self.until("NOT EXISTS (SELECT FROM email WHERE sent_at IS NULL)")
        wrong = await self.admin.fetch(
            "SELECT e.id, count(f) FROM email AS e LEFT JOIN finish AS f ON f.email = e.id GROUP BY 1 HAVING count(f) <> 1"
        )
        assert wrong == []

    async def until_written(self) -> None:
        await self.until_finished()
        assert await self.ask("count(DISTINCT email) FROM effect") == await self.ask("count(*) FROM email")
        assert await self.ask("count(*) FROM effect") == await self.ask("count(*) FROM email")

    async def set_clock(self, what: str) -> None:
        """The clock of leases, which is `clock_timestamp()` else."""
        await self.admin.execute(
            f"CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT {what} $$"
        )

    async def set_for_role(self, name: str, value: str | None) -> None:
        """A parameter, for connections of the role `app` from here on; None: as it was."""
        database = await self.ask("current_database()")
        what = "RESET" if value is None else "SET"
        await self.admin.execute(
            f"ALTER ROLE {APP_ROLE} IN DATABASE {database} {what} {name}" + (f" = '{value}'" if value else "")
        )

    async def end_backends(self) -> int:
        """Of the role `app`."""
        return await self.ask(
            "count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()",
            APP_ROLE,
        )

    async def sessions(self) -> tuple[int, int]:
        """How many there were, and how many of them have not ended."""
        row = await self.admin.fetchrow(
            "SELECT count(*) AS started, count(*) FILTER (WHERE ended_at IS NULL) AS left FROM session_lock.session"
        )
        return row["started"], row["left"]


@asynccontextmanager
async def scene_in(admin_dsn: str, dsn: str) -> AsyncIterator[Scene]:
    """In an empty database that has the role `app`."""
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE + ";" + AUDIT)
        await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
        yield Scene(dsn, admin)
    finally:
        admin.terminate()
