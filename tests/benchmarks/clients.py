"""Clients that are measured, each a process: `python -m tests.benchmarks.clients JSON`.

It says "ready", begins with the first line of its stdin, goes on until that ends, and tells what it has used.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from session_lock import Batch, PostgresDatabase, Runner, Settings, Task, each
from session_lock.catalog import read_shape
from session_lock.table import function_set
from tests.benchmarks.ground import MAILS

try:
    import uvloop
except ImportError:  # measured with what is there
    uvloop = None

PLAIN = """
WITH finished AS (
  UPDATE public.email SET session_id = NULL, sent_at = clock_timestamp() WHERE id = ANY ($2::bigint[])
), free AS (
  SELECT id FROM public.email WHERE sent_at IS NULL AND session_id IS NULL ORDER BY available_at, id LIMIT $3
     FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE public.email AS t SET session_id = $1 FROM free WHERE t.id = free.id RETURNING t.id, t.address
"""
"""The floor of claims in columns: no lease, no token, no attempts, no share, no way back from the dead."""

GET_WORK = """
SELECT * FROM session_lock.get_work_{functions}($1::bigint, $2::uuid, $3::integer, $4::bigint[], $5::text, false,
                                                $6::integer, $7::bigint[], $8::bigint[])
"""


class Client:
    """One that works until it is told to stop."""

    def __init__(self, dsn: str, *, batch: int = 1, connections: int = 1, **options: Any) -> None:
        self.dsn, self.batch, self.connections, self.options = dsn, batch, connections, options
        self.stopped = False
        self.seconds: list[float] = []  # of each call

    async def begin(self) -> None:
        """All is prepared: wait for the word."""
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        await asyncio.to_thread(sys.stdin.read)
        self.stopped = True

    async def loops(
        self, one: Callable[[asyncpg.Connection, int], Awaitable[Callable[[], Awaitable[Any]]]]
    ) -> None:
        """On each connection the call again and again."""
        connections = [await asyncpg.connect(self.dsn) for _ in range(self.connections)]
        calls = [await one(connection, number) for number, connection in enumerate(connections, 1)]
        await self.begin()
        await asyncio.gather(*map(self._again, calls))
        for connection in connections:
            await connection.close()

    async def _again(self, call: Callable[[], Awaitable[Any]]) -> None:
        clock = time.perf_counter  # noqa: TID251 (a benchmark)
        while not self.stopped:
            before = clock()
            await call()
            self.seconds.append(clock() - before)

    async def select(self) -> None:
        async def prepared(connection: asyncpg.Connection, _: int) -> Callable[[], Awaitable[Any]]:
            statement = await connection.prepare("SELECT $1::integer")
            return lambda: statement.fetchval(1)

        await self.loops(prepared)

    async def update(self) -> None:
        async def prepared(connection: asyncpg.Connection, number: int) -> Callable[[], Awaitable[Any]]:
            statement = await connection.prepare("UPDATE public.email SET body = $2 WHERE id = $1")
            return lambda: statement.fetch(number, "x")

        await self.loops(prepared)

    async def plain(self) -> None:
        async def prepared(connection: asyncpg.Connection, number: int) -> Callable[[], Awaitable[Any]]:
            statement = await connection.prepare(PLAIN)
            keys: list[int] = []

            async def call() -> None:
                nonlocal keys
                keys = [row["id"] for row in await statement.fetch(number, keys, self.batch)]

            return call

        await self.loops(prepared)

    async def functions(self) -> None:
        """The library's own SQL in a bare loop, each connection with a session of its own."""
        database = PostgresDatabase(self.dsn, MAILS, listen=False)

        async def prepared(connection: asyncpg.Connection, _: int) -> Callable[[], Awaitable[Any]]:
            functions = function_set(MAILS, await read_shape(connection, MAILS))
            lease = await database.start_session(capacity=2 * self.batch, ttl=600, label="", app_version="")
            statement = await connection.prepare(GET_WORK.format(functions=functions))
            keys: list[int] = []
            tokens: list[int] = []
            position: str | None = None

            async def call() -> None:
                nonlocal keys, tokens, position
                rows = await statement.fetch(
                    lease.id, lease.nonce, self.batch, [], position, self.batch, keys, tokens
                )
                tasks = [row for row in rows if row["kind"] == "task"]
                keys, tokens = [row["task_key"] for row in tasks], [row["task_token"] for row in tasks]
                position = tasks[0]["task_position"] if len(tasks) == self.batch else None

            return call

        async with database:
            await self.loops(prepared)

    async def runner(self) -> None:
        """A whole Runner (or several) with a tasker for batches."""
        nap = self.options.get("nap", 0.0)

        async def tasker(batch: Batch[Any]) -> Any:
            if nap:
                await asyncio.sleep(nap)
            return batch

        await self._run(tasker, batch_size=self.batch)

    async def each(self) -> None:
        nap = self.options.get("nap", 0.0)

        async def tasker(_: Task[Any]) -> None:
            if nap:
                await asyncio.sleep(nap)

        await self._run(each(tasker))

    async def _run(self, tasker: Any, **settings: Any) -> None:
        given = {"start_jitter": 0, **settings, **self.options.get("settings", {})}
        database = PostgresDatabase(self.dsn, MAILS, listen=False)
        runners = [Runner(database, tasker, Settings(**given)) for _ in range(self.connections)]
        await self.begin()
        running = [asyncio.create_task(runner.run()) for runner in runners]
        while not self.stopped:
            await asyncio.sleep(0.01)
        for runner in runners:
            runner.stop()
        await asyncio.gather(*running)
        await database.close()


async def main(kind: str, **options: Any) -> None:
    client = Client(**options)
    await getattr(client, kind)()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"peak": used.ru_maxrss * 1024, "seconds": sorted(client.seconds)}))


if __name__ == "__main__":
    (asyncio.run if uvloop is None else uvloop.run)(main(**json.loads(sys.argv[1])))
