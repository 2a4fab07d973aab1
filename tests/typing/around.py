"""Never run: what a type checker infers of what stands around the Runner (`nox -s types`)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import asyncpg
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from session_lock import (
    Due,
    Duties,
    Duty,
    Enqueued,
    NewTask,
    PostgresDatabase,
    PostgresDuties,
    Runner,
    RunnerGroup,
    Schedule,
    Settings,
    Task,
    TaskKey,
    TaskTable,
    cron,
    each,
    enqueue,
    enqueue_many,
    enqueue_many_sync,
    enqueue_sync,
    every,
    queue,
)
from session_lock.contrib import aiohttp, asgi
from session_lock.contrib.django import InstallTaskTable, fresh_connections
from session_lock.contrib.lifespan import with_lifespan
from session_lock.contrib.status import StatusPage, status_app
from session_lock.embedded import Server, temp_postgres
from session_lock.migrations import Difference, check, install
from session_lock.overview import Overview, overview
from session_lock.testing import (
    Closed,
    Fault,
    FaultyDatabase,
    Instance,
    MemoryDatabase,
    MemoryDuties,
    MemoryFailure,
    MemoryTask,
    run_until_idle,
    run_virtual,
)

# A table that the library ships ---------------------------------------------------------------------------

jobs = queue("jobs")
assert_type(jobs, TaskTable)
database = PostgresDatabase("postgresql:///app", jobs)
assert_type(database, PostgresDatabase[dict[str, Any]])


async def order(connection: asyncpg.Connection[Any]) -> None:
    assert_type(await enqueue(connection, jobs, {"order": 1}, priority=5, after=60), Enqueued)
    many = [NewTask({"order": 2}, dedup_key="2"), NewTask({"order": 3}, available_at=datetime.now(UTC))]
    assert_type(await enqueue_many(connection, jobs, many), list[Enqueued])
    assert_type((await enqueue_many(connection, jobs, ({"order": n} for n in range(9))))[0].duplicate, bool)


def order_here(connection: Any) -> None:
    assert_type(enqueue_sync(connection, jobs, {"order": 1}).key, int)
    assert_type(enqueue_many_sync(connection, jobs, [{"order": 2}]), list[Enqueued])


# Duties ---------------------------------------------------------------------------------------------------

nightly = cron("30 3 * * *", tz="Europe/Berlin")
assert_type(nightly, Schedule)
assert_type(every(timedelta(minutes=5)), Schedule)


async def report(task: Task[Due]) -> None:
    assert_type(task.data, Due)
    assert_type(task.data.due_at, datetime)


def clean(task: Task[Due]) -> None:
    print(task.data.late)


duties = Duties(
    "postgresql:///app", Duty("report", nightly, report, missed="all"), Duty("clean", every("5m"), clean)
)
assert_type(duties, Duties)
as_runner: Runner[Due] = duties
Duties(PostgresDuties("postgresql:///app"), Duty("report", nightly, report), settings=Settings(concurrency=2))
RunnerGroup(duties, Runner(database, lambda batch: asyncio.sleep(0, batch)))

# Tests ----------------------------------------------------------------------------------------------------


async def send(task: Task[str]) -> None:
    print(task.data.upper())


async def under_test() -> None:
    memory = MemoryDatabase({1: "ann@example.org", 2: "bob@example.org"})
    assert_type(memory, MemoryDatabase[str])
    assert_type(await run_until_idle(memory, each(send)), int)
    assert_type(memory[1], MemoryTask[str])
    assert_type(memory[1].closed, Closed | None)
    assert_type(memory.finished, list[TaskKey])
    assert_type(memory.failures, dict[TaskKey, list[MemoryFailure]])
    faulty = FaultyDatabase(memory)
    assert_type(faulty, FaultyDatabase[str])
    assert_type(faulty.lose_reply("finish_tasks"), Fault)
    async with Instance(lambda: memory, lambda own: Runner(own, each(send)), faulty.finishes) as instance:
        assert_type(instance, Instance[str])
    async with Duties(MemoryDuties(), Duty("clean", every("5m"), clean)):
        await asyncio.sleep(3600)


async def answer() -> int:
    return 42


assert_type(run_virtual(answer()), int)
with temp_postgres(work_mem="8MB") as server:
    assert_type(server, Server)
    assert_type(server.dsn, str)

# Who looks after it ---------------------------------------------------------------------------------------


async def look(connection: asyncpg.Connection[Any]) -> None:
    assert_type(await install(connection, jobs, grant_to="app"), list[str])
    assert_type(await check(connection, jobs, role="app"), list[Difference])
    assert_type(await overview(connection, jobs), Overview)


# Beside a framework ---------------------------------------------------------------------------------------


@asynccontextmanager
async def running() -> AsyncGenerator[None, None]:
    async with duties:
        yield


async def may_look(request: HTTPConnection) -> bool:
    return request.client is not None


def serve(app: Starlette) -> None:
    app.mount("/health", asgi.probes(duties))
    app.mount("/health", asgi.probes(lambda: None))
    page = status_app({"jobs": jobs}, "postgresql:///app", authorize=may_look, show=["payload"])
    assert_type(page, StatusPage)
    app.mount("/tasks", page)
    with_lifespan(app, running)
    assert_type(aiohttp.probes(duties), Sequence[web.RouteDef])


@fresh_connections
def in_django(task: Task[Due]) -> None:
    print(task.key)


assert_type(in_django, Callable[[Task[Due]], None])
InstallTaskTable(jobs, grant_to="app")
entered: AbstractAsyncContextManager[Duties] = duties
