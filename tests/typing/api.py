"""Never run: what a type checker infers of the API as users write it (`nox -s types`)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

import asyncpg
from aiohttp import web
from fastapi import APIRouter, FastAPI
from litestar import Litestar
from starlette.applications import Starlette

from session_lock import (
    Batch,
    Cancellation,
    ClaimColumns,
    Database,
    DatabaseError,
    DatabaseFinder,
    Discard,
    Finding,
    GroupHealth,
    Health,
    Limit,
    PostgresDatabase,
    Rate,
    Release,
    Retry,
    RowRefusedError,
    Runner,
    RunnerGroup,
    SchemaError,
    SessionLockError,
    SessionLost,
    SessionShare,
    Settings,
    SettingsError,
    Task,
    Tasker,
    TaskKey,
    TaskLost,
    TaskTable,
    Why,
    each,
    shares,
)
from session_lock.contrib import aiohttp, fastapi, litestar, starlette
from session_lock.testing import Faults, MemoryDatabase, assert_each_once


@dataclass
class Email:
    id: int
    address: str


table = TaskTable(
    "public.email", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=("id", "address")
)
read = TaskTable.from_model(
    object, pending=object(), finish={"sent_at": object()}, columns=["address"], name="mail"
)
assert_type(read, TaskTable)
renamed = TaskTable(
    "email",
    key="id",
    pending="sent_at IS NULL",
    finish="sent_at = now()",
    claim_columns={"session_id": "sender"},
    limits=[Limit(1, by="address", ordered=True), Rate(100, per=60)],
    order_by=["address DESC"],
    fair_by="address",
)
assert_type(renamed.claim_columns, ClaimColumns)
assert_type(renamed.claim_columns.session_id, str)
TaskTable("email", "id", "true", "id = 0", claim_columns=ClaimColumns(session_id="sender"))
typed = PostgresDatabase("postgresql:///app", table, decode=Email)
assert_type(typed, PostgresDatabase[Email])


class Row(TypedDict):
    id: int
    address: str


def address_of(**columns: Any) -> str:
    return str(columns["address"])


assert_type(PostgresDatabase("postgresql:///app", table, decode=Row), PostgresDatabase[Row])
assert_type(PostgresDatabase("postgresql:///app", table, decode=address_of), PostgresDatabase[str])
plain = PostgresDatabase("postgresql:///app", table)  # needs no annotation
assert_type(plain, PostgresDatabase[dict[str, Any]])


async def send(batch: Batch[Email]) -> Iterable[Task[Email]]:
    first = batch[0]
    assert_type(first, Task[Email])
    assert_type(first.data.address, str)
    assert_type(first.key, TaskKey)
    assert_type(first.attempt, int)
    assert_type(first.lease_left(), float)
    batch.finish(first)
    batch.release(first, after=1.5)
    batch.discard(first, "no such address")
    async with batch.transaction() as connection:
        await connection.execute("SELECT 1")
    own: asyncpg.Connection[Any] = await asyncpg.connect()
    async with own.transaction():
        await first.finish_in(own)
    await asyncio.to_thread(batch.finish_in_sync, own, first)
    return [task for task in batch if task.data.id]


async def send_one(task: Task[Email]) -> Release | Discard | None:
    if task.data.address.endswith("example.org"):
        return Discard("nobody lives there")
    return Release(after=60) if task.attempt < 3 else None


def send_here(batch: Batch[Email]) -> list[Task[Email]]:  # called in a thread
    return [*batch]


async def current() -> PostgresDatabase[Email]:
    return typed


anywhere: Database[Email] = typed
finder: DatabaseFinder[Email] = current
tasker: Tasker[Email] = send
one_by_one: Tasker[Email] = each(send_one)
patient = Retry(max_attempts=3, on={TimeoutError: Retry(delay=60), ValueError: Retry(max_attempts=1)})


assert_type(Runner(typed, send), Runner[Email])
assert_type(Runner(typed, each(send_one), Settings(concurrency=50)), Runner[Email])
assert_type(Runner(current, send, settings=Settings(poll_interval=5, retry=patient)), Runner[Email])
assert_type(Runner(finder, tasker), Runner[Email])
assert_type(Runner(anywhere, one_by_one), Runner[Email])
assert_type(Runner(typed, send_here, on_failure=print), Runner[Email])


async def under_faults() -> None:
    faults = Faults(lambda: typed)
    assert_type(faults, Faults[Email])
    assert_type(Faults(MemoryDatabase[Email]({})), Faults[Email])
    async with faults.instance(lambda database: Runner(database, send)) as first:
        first.lose_reply("finish_tasks")
        first.before("finish", first.expire)
        await faults.until_finished([1])
    assert_each_once([1], faults.finished)


async def main() -> None:
    assert_type(await typed.why(4711), Why)
    async with Runner(typed, send) as runner:
        assert_type(runner, Runner[Email])
        assert_type(runner.failed, BaseException | None)
    assert_type(runner.health(), Health)
    assert_type(runner.health().lease_margin, float | None)
    assert_type(await typed.doctor(), Sequence[Finding])
    assert_type(await typed.shares(), Sequence[SessionShare])
    assert_type(await shares(typed), Sequence[SessionShare])
    assert_type(await typed.retry(1, "two"), Sequence[TaskKey])
    assert_type(await typed.cancel(4711), Cancellation)
    assert_type((await typed.pause(), await typed.resume(), await typed.drain(17)), tuple[bool, bool, bool])
    group = RunnerGroup(runner, Runner(MemoryDatabase[Email]({}), send), concurrency=2, on_failure=print)

    async def find() -> MemoryDatabase[Email]:
        return MemoryDatabase({})

    group.add(Runner(find, send))
    assert_type(group.health(), GroupHealth)
    assert_type(group.health().runners, Sequence[Health])
    try:
        await group.run()
    except DatabaseError as error:
        assert_type(error.retryable, bool)
    except (SchemaError, SettingsError, SessionLost, TaskLost) as error:
        known: SessionLockError = error
        print(known)
    assert issubclass(RowRefusedError, DatabaseError)
    await group.remove(runner)
    await group.run()


@asynccontextmanager
async def make() -> AsyncGenerator[Runner[Email], None]:
    async with typed:
        yield Runner(typed, send)


def serve() -> None:
    started = starlette.lifespan(make)
    assert_type(started, Callable[[Starlette], AbstractAsyncContextManager[None]])
    Starlette(lifespan=started)
    FastAPI(lifespan=fastapi.lifespan(make)).include_router(APIRouter())
    Litestar(lifespan=[litestar.lifespan(lambda: Runner(typed, send))])
    app = web.Application()
    app.cleanup_ctx.append(aiohttp.lifespan(RunnerGroup()))
    assert_type(app[aiohttp.RUNNER], Runner[Any] | RunnerGroup)
