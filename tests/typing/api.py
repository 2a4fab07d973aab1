"""Never run: what a type checker infers of the API as users write it (`nox -s types`)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
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
    Discard,
    Health,
    PostgresDatabase,
    Release,
    Runner,
    RunnerGroup,
    Settings,
    Task,
    TaskKey,
    TaskTable,
    Why,
    each,
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


async def current() -> PostgresDatabase[Email]:
    return typed


assert_type(Runner(typed, send), Runner[Email])
assert_type(Runner(typed, each(send_one), Settings(concurrency=50)), Runner[Email])
assert_type(Runner(current, send, settings=Settings(poll_interval=5)), Runner[Email])


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
    group = RunnerGroup(runner, Runner(MemoryDatabase[Email]({}), send), concurrency=2, on_failure=print)

    async def find() -> MemoryDatabase[Email]:
        return MemoryDatabase({})

    group.add(Runner(find, send))
    await group.remove(runner)
    await group.run()


@asynccontextmanager
async def make() -> AsyncIterator[Runner[Email]]:
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
