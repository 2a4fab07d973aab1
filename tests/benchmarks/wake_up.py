"""How long from before the enqueue of a task (INSERT, wake-up and COMMIT included) to the start of its tasker, on an idle system.

    python -m tests.benchmarks.wake_up [samples]

One process, one Runner, loopback; one task at a time, at random gaps. The poll interval is far longer than a sample, so what is
measured is the wake-up. The figures depend on the machine, and on what else it does: run it several times.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.catalog import read_shape
from session_lock.embedded import temp_postgres
from session_lock.schema import render
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

TARGET = {"p50": 3.0, "p99": 6.0}
"""Milliseconds."""

SAMPLES = 1000
WARM_UP = 50

INSERT = "INSERT INTO public.email (address) VALUES ('a@example.org')"

Enqueue = Callable[[Any], Awaitable[object]]


async def by_call(connection: Any) -> None:
    """Two statements in a transaction, in one round trip each."""
    async with connection.transaction():
        await connection.execute(INSERT)
        await connection.execute("SELECT session_lock.wake('email')")


async def in_one_statement(connection: Any) -> None:
    await connection.execute(
        f"WITH task AS ({INSERT} RETURNING 1) SELECT session_lock.wake('email') FROM task"
    )


async def by_trigger(connection: Any) -> None:
    await connection.execute(INSERT)


async def measure(dsn: str, enqueue: Enqueue, samples: int) -> list[float]:
    """Milliseconds, one for each sample."""
    clock = asyncio.get_running_loop().time
    started: asyncio.Queue[float] = asyncio.Queue()

    async def tasker(_task: Any) -> None:
        started.put_nowait(clock())

    connection = await asyncpg.connect(dsn)
    settings = Settings(poll_interval=60, start_jitter=0)
    taken = []
    async with (
        PostgresDatabase(dsn, EMAILS) as database,
        Runner(database, each(tasker), settings, idle_spans=False),
    ):
        await asyncio.sleep(1)  # the listener has connected
        for _ in range(WARM_UP + samples):
            await asyncio.sleep(random.uniform(0.02, 0.04))
            before = clock()
            await enqueue(connection)
            taken.append((await started.get() - before) * 1000)
    await connection.close()
    return taken[WARM_UP:]


@asynccontextmanager
async def prepared(dsn: str, *, trigger: bool) -> AsyncIterator[None]:
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP TABLE IF EXISTS public.email")
    await connection.execute(EMAIL_TABLE)
    await apply_mapping(connection, EMAILS)
    if trigger:
        shape = await read_shape(connection, EMAILS)
        await connection.execute(render("tasks.trigger.sql", EMAILS, shape))
    yield
    await connection.close()


@contextmanager
def server() -> Iterator[str]:
    with temp_postgres() as started:
        yield started.dsn


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def run(dsn: str, samples: int) -> None:
    targets = ", ".join(f"{name} {most:g} ms" for name, most in TARGET.items())
    print(f"idle to start of tasker, enqueue included; {samples} samples; target: {targets}")
    for title, enqueue, trigger in (
        ("wake() in the transaction", by_call, False),
        ("wake() in the statement", in_one_statement, False),
        ("the trigger", by_trigger, True),
    ):
        async with prepared(dsn, trigger=trigger):
            taken = await measure(dsn, enqueue, samples)
        figures = {
            "min": min(taken),
            "p50": percentile(taken, 0.5),
            "p90": percentile(taken, 0.9),
            "p99": percentile(taken, 0.99),
            "max": max(taken),
        }
        print(f"{title:26}" + "  ".join(f"{name} {value:6.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    with server() as dsn:
        asyncio.run(run(dsn, int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES))
