"""Clients without a Runner: the floors, the library's SQL in a bare loop, and who enqueues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from session_lock import PostgresDatabase, enqueue, enqueue_many
from session_lock.catalog import read_shape
from session_lock.objects import function_set
from tests.benchmarks.client import Client, clock
from tests.benchmarks.ground import JOBS, MAILS

INSERT = (
    "INSERT INTO public.email (address) SELECT 'somebody@example.org' FROM generate_series(1, $1::integer)"
)

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
SELECT * FROM session_lock.get_work_{functions}($1::bigint, $2::uuid, $3::integer, $4::bigint[], $5::text, NULL, false,
                                                $6::integer, $7::bigint[], $8::bigint[])
"""

Call = Callable[[], Awaitable[int]]
"""Of a loop; returns how many tasks (or statements) it has done."""

Prepare = Callable[[asyncpg.Connection, int], Awaitable[Call]]


async def loops(client: Client, prepare: Prepare) -> None:
    """On each connection the call again and again."""
    connections = [await asyncpg.connect(client.dsn) for _ in range(client.connections)]
    calls = [await prepare(connection, number) for number, connection in enumerate(connections, 1)]
    await client.begin()

    async def again(call: Call) -> None:
        while not client.stopped.is_set():
            client.done += await call()

    await asyncio.gather(*map(again, calls))
    for connection in connections:
        await connection.close()


# Floors --------------------------------------------------------------------------------------------


async def select(client: Client) -> None:
    async def prepare(connection: asyncpg.Connection, _: int) -> Call:
        statement = await connection.prepare("SELECT 1")
        return lambda: statement.fetchval()

    await loops(client, prepare)


async def update(client: Client) -> None:
    async def prepare(connection: asyncpg.Connection, number: int) -> Call:
        statement = await connection.prepare("UPDATE public.email SET body = 'x' WHERE id = $1 RETURNING 1")
        return lambda: statement.fetchval(number)

    await loops(client, prepare)


async def plain(client: Client) -> None:
    async def prepare(connection: asyncpg.Connection, number: int) -> Call:
        statement = await connection.prepare(PLAIN)
        keys: list[int] = []

        async def call() -> int:
            nonlocal keys
            try:
                keys = [row["id"] for row in await statement.fetch(number, keys, client.batch)]
            except asyncpg.DeadlockDetectedError:  # two of them finish what the other one has just looked at
                client.asks_again()
                return 0
            return len(keys)

        return call

    await loops(client, prepare)


async def functions(client: Client) -> None:
    """The library's own SQL in a bare loop, each connection with a session of its own."""
    async with PostgresDatabase(client.dsn, MAILS, listen=False) as database:

        async def prepare(connection: asyncpg.Connection, _: int) -> Call:
            functions = function_set(MAILS, await read_shape(connection, MAILS))
            lease = await database.start_session(capacity=2 * client.batch, ttl=600, label="", app_version="")
            statement = await connection.prepare(GET_WORK.format(functions=functions))
            keys: list[int] = []
            tokens: list[int] = []
            position: str | None = None

            async def call() -> int:
                nonlocal keys, tokens, position
                try:
                    rows = await statement.fetch(
                        lease.id, lease.nonce, client.batch, keys, position, client.batch, keys, tokens
                    )
                except asyncpg.LockNotAvailableError:
                    client.asks_again()
                    return 0
                tasks = [row for row in rows if row["kind"] == "task"]
                keys, tokens = [row["task_key"] for row in tasks], [row["task_token"] for row in tasks]
                if len(tasks) == client.batch:
                    position = tasks[-1]["task_position"] or tasks[0]["task_position"]
                else:
                    position = None
                return len(keys)

            return call

        await loops(client, prepare)


# Enqueueing ----------------------------------------------------------------------------------------


async def insert(client: Client) -> None:
    async def prepare(connection: asyncpg.Connection, _: int) -> Call:
        statement = await connection.prepare(INSERT)

        async def call() -> int:
            await statement.fetch(client.batch)
            return client.batch

        return call

    await loops(client, prepare)


async def enqueueing(client: Client) -> None:
    async def prepare(connection: asyncpg.Connection, _: int) -> Call:
        async def call() -> int:
            if client.batch == 1:
                await enqueue(connection, JOBS, {"to": "somebody@example.org"})
            else:
                await enqueue_many(connection, JOBS, [{"to": "somebody@example.org"}] * client.batch)
            return client.batch

        return call

    await loops(client, prepare)


async def feeder(client: Client) -> None:
    """Inserts so many tasks a second, wakes who waits for them, and catches up if it is late."""
    connection = await asyncpg.connect(client.dsn)
    per_second = client.options["offered"]
    statement = await connection.prepare(
        f"WITH task AS ({INSERT} RETURNING 1) SELECT session_lock.wake('email', true) FROM task LIMIT 1"
    )
    await client.begin()
    begun = clock()
    while not client.stopped.is_set():
        due = int((clock() - begun) * per_second) - client.done
        if due > 0:
            await statement.fetch(due)
            client.done += due
        await asyncio.sleep(0.05)
    await connection.close()
