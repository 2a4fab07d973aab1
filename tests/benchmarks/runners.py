"""Clients that are a Runner, or many of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from session_lock import Batch, PostgresDatabase, Runner, Settings, Task, each
from tests.benchmarks.client import Client, clock
from tests.benchmarks.ground import MAILS
from tests.benchmarks.loops import INSERT


async def runner(client: Client) -> None:
    """With a tasker for batches, which takes `nap` seconds."""
    nap = client.options.get("nap", 0.0)

    async def tasker(batch: Batch[Any]) -> Batch[Any]:
        if nap:
            await asyncio.sleep(nap)
        client.done += len(batch)
        return batch

    await _run(client, tasker, batch_size=client.batch)


async def one_by_one(client: Client) -> None:
    """With a coroutine for each task."""
    nap = client.options.get("nap", 0.0)
    tell = _least(client)

    async def tasker(_: Task[Any]) -> None:
        if nap:
            await asyncio.sleep(nap)
        if tell is not None:
            tell()
        client.done += 1

    await _run(client, each(tasker))


def _least(client: Client) -> Callable[[], None] | None:
    if "least" not in client.options:
        return None
    from tests.benchmarks import telemetry

    return telemetry.least(client.options["least"])


async def _run(client: Client, tasker: Any, **settings: Any) -> None:
    if "telemetry" in client.options:
        from tests.benchmarks import telemetry  # the others need not have it in memory

        telemetry.record(client.options["telemetry"])
    settings = {"start_jitter": 0, **settings, **client.options.get("settings", {})}
    listen = None if client.options.get("listen") else False
    async with PostgresDatabase(client.dsn, MAILS, listen=listen) as database:
        runners = [Runner(database, tasker, Settings(**settings)) for _ in range(client.connections)]
        await client.begin()
        running = [asyncio.create_task(runner.run()) for runner in runners]
        if client.options.get("refill"):
            running.append(asyncio.create_task(_refill(client)))
        await client.stopped.wait()
        for runner in runners:
            runner.stop()
        await asyncio.gather(*running)


async def _refill(client: Client) -> None:
    """Insert as many tasks as are done, so that the backlog stays as it is."""
    connection = await asyncpg.connect(client.dsn)
    statement = await connection.prepare(INSERT)
    part, inserted = client.options["refill"], 0
    while not client.stopped.is_set():
        if client.done - inserted >= part:
            await statement.fetch(part)
            inserted += part
        else:
            await asyncio.sleep(0.001)
    await connection.close()


async def idle(client: Client) -> None:
    """Sessions with nothing to do; those of a `PostgresDatabase` share its connections, as those of a process do."""

    async def tasker(batch: Batch[Any]) -> Batch[Any]:
        return batch

    async with AsyncExitStack() as stack:
        databases = [
            await stack.enter_async_context(PostgresDatabase(client.dsn, MAILS))
            for _ in range(client.connections)
        ]
        await client.begin()
        for database in databases:
            for _ in range(client.options["sessions"]):
                await stack.enter_async_context(Runner(database, tasker, idle_spans=False))
        await client.stopped.wait()


LEASE = 2.0
"""Seconds; that of the session that dies."""

DEAD = 1000
"""Tasks that it has."""

LONGEST = 60.0
"""Seconds after which nobody waits any more for a take-over."""


async def take_over(client: Client) -> None:
    """How long after the end of a lease the last of its tasks is finished, while a Runner is at work."""
    left: set[int] = set()
    all_are_seen = asyncio.Event()

    async def tasker(batch: Batch[Any]) -> Batch[Any]:
        left.difference_update(task.key for task in batch)
        if not left:
            all_are_seen.set()
        return batch

    async with PostgresDatabase(client.dsn, MAILS, listen=False) as database:
        await client.begin()
        lease = await database.start_session(capacity=DEAD, ttl=LEASE)
        keys = [task.claim.key for task in (await database.get_work(lease, limit=DEAD)).tasks]
        left.update(keys)
        begun = clock()
        async with Runner(database, tasker, Settings(start_jitter=0)):
            try:
                async with asyncio.timeout(LONGEST):
                    await all_are_seen.wait()
            except TimeoutError:
                client.told["seconds"] = clock() - begun
                return
        client.told["seconds"] = await _after_the_end(client.dsn, keys, lease.id)


async def _after_the_end(dsn: str, keys: list[int], session: int) -> float:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(
            "SELECT extract(epoch FROM max(t.sent_at) - (SELECT s.expires_at FROM session_lock.session AS s WHERE s.id = $2))"
            "::double precision FROM public.email AS t WHERE t.id = ANY ($1::bigint[])",
            keys,
            session,
        )
    finally:
        await connection.close()
