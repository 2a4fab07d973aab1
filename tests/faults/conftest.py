"""One stage, two databases: in memory in virtual time, and PostgreSQL in real time with a lease of seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.testing import Faults, MemoryDatabase, run_virtual
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

QUICK = Settings(
    lease_ttl=3, keepalive_interval=0.5, call_timeout=1, cancel_grace=0.2, guard=0.1,
    poll_interval=0.1, start_jitter=0, drain_timeout=1, shutdown_timeout=1, concurrency=1, batch_size=1,
)  # fmt: skip


class Stage:
    """Some tasks, and the effects that taskers have: outside (a list), or in the transaction that finishes the task."""

    def __init__(self, faults: Faults[Any]) -> None:
        self.faults = faults
        self.sent: list[int] = []

    async def outside(self, task: Any) -> None:
        """A tasker with the bug: what it does is done, whatever becomes of the finish."""
        self.sent.append(task.key)

    async def inside(self, task: Any) -> None:
        async with task.transaction() as connection:
            await self.write(connection, task.key)

    def instance(self, tasker: Callable[[Any], Awaitable[object]], settings: Settings = QUICK) -> Any:
        return self.faults.instance(lambda database: Runner(database, each(tasker), settings))

    async def write(self, connection: Any, key: int) -> None:
        raise NotImplementedError

    async def written(self) -> list[int]:
        raise NotImplementedError


class InMemory(Stage):
    def __init__(self, count: int) -> None:
        self.memory = MemoryDatabase(dict.fromkeys(range(1, count + 1), "a"))
        super().__init__(Faults(self.memory))
        self._written: list[int] = []

    async def write(self, connection: Any, key: int) -> None:
        connection.write(lambda: self._written.append(key))

    async def written(self) -> list[int]:
        return self._written


class InPostgres(Stage):
    def __init__(self, admin: asyncpg.Connection, dsn: str) -> None:
        super().__init__(Faults(lambda: PostgresDatabase(dsn, EMAILS)))
        self._admin = admin

    async def write(self, connection: Any, key: int) -> None:
        await connection.execute("INSERT INTO public.effect VALUES ($1)", key)

    async def written(self) -> list[int]:
        return [row["task"] for row in await self._admin.fetch("SELECT task FROM public.effect")]


Play = Callable[[Stage], Awaitable[None]]


@pytest.fixture(params=["memory", "postgres"])
def act(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`act(play, count)` runs the coroutine function on a stage with so many tasks."""
    if request.param == "memory":
        return lambda play, count=3: run_virtual(play(InMemory(count)))
    database: TestDatabase = request.getfixturevalue("database")

    async def in_postgres(play: Play, count: int) -> None:
        async with AsyncExitStack() as stack:
            admin = await asyncpg.connect(database.admin_dsn)
            stack.push_async_callback(admin.close)
            await admin.execute(EMAIL_TABLE + "; CREATE TABLE public.effect (task bigint)")
            await admin.execute(f"GRANT INSERT ON public.effect TO {APP_ROLE}")
            await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
            await add_emails(admin, count)
            await play(InPostgres(admin, database.app_dsn))

    return lambda play, count=3: asyncio.run(in_postgres(play, count))
