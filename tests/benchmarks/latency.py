"""Clients that wait for one task at a time, and are measured exactly as the peers are: by what their adapters share."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

import asyncpg

from session_lock import PostgresDatabase, Runner, Settings, Task, each
from tests.benchmarks.client import Client
from tests.benchmarks.ground import MAILS
from tests.benchmarks.loops import PLAIN
from tests.benchmarks.peers.adapters.protocol import Adapter, latency, ran


async def waiting_runner(client: Client) -> None:
    await _wait(client, _WaitingRunner(client.dsn, {}))


async def waiting_loop(client: Client) -> None:
    await _wait(client, _WaitingLoop(client.dsn, {}))


async def _wait(client: Client, adapter: _Waiting) -> None:
    await adapter.open()
    await client.begin()
    client.told["milliseconds"] = await latency(adapter, client.options["samples"])


class _Waiting(Adapter):
    wake: str
    """What wakes it up, in the statement that inserts the task."""

    async def open(self) -> None:
        self.connection = await asyncpg.connect(self.dsn)
        self.insert = await self.connection.prepare(
            "WITH task AS (INSERT INTO public.email (address) VALUES ('somebody@example.org') RETURNING 1)"
            f" SELECT {self.wake} FROM task"
        )

    async def enqueue_one(self) -> None:
        await self.insert.fetch()

    async def prepare(self) -> None: ...
    async def enqueue(self, tasks: int) -> None: ...
    async def unfinished(self) -> bool: ...

    @abstractmethod
    async def work(self) -> None: ...


class _WaitingRunner(_Waiting):
    wake = "session_lock.wake('email')"

    async def work(self) -> None:
        async def tasker(_: Task[Any]) -> None:
            ran()

        async with PostgresDatabase(self.dsn, MAILS) as database:
            await Runner(database, each(tasker), Settings(start_jitter=0), idle_spans=False).run()


class _WaitingLoop(_Waiting):
    """The floor: it hears of a task, claims it, and finishes it with its next look."""

    wake = "pg_notify('bare', '')"

    async def work(self) -> None:
        heard = asyncio.Event()
        listening = await asyncpg.connect(self.dsn)
        await listening.add_listener("bare", lambda *_: heard.set())
        connection = await asyncpg.connect(self.dsn)
        statement = await connection.prepare(PLAIN)
        keys: list[int] = []
        while True:
            heard.clear()
            claimed = await statement.fetch(1, keys, 1)
            keys = [row["id"] for row in claimed]
            if keys:
                ran()
            else:
                await heard.wait()
