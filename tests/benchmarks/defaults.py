"""How near the defaults of `Settings` come to the best of some others, for taskers that take a millisecond, a tenth of a second and ten seconds.

    python -m tests.benchmarks.defaults [rounds] [beginnings of columns ..]

One setting at a time is another one. What counts is the throughput beside the ideal, in which all slots of all sessions are busy until the tasks
run out. The tasks of the last column are no more than there are slots in two sessions: there whoever holds some that it has not begun
makes all wait. A tasker sleeps, so it is the library alone that takes the processor; cells of ten seconds are measured beside each other.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from statistics import median
from typing import Any, NamedTuple

import asyncpg

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.embedded import temp_postgres
from tests.conftest import fresh_database
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

OTHERS: dict[str, Mapping[str, Any]] = {
    "the defaults": {},
    "prefetch=0": {"prefetch": 0},
    "prefetch=2": {"prefetch": 2},
    "prefetch=10": {"prefetch": 10},
    "prefetch=100": {"prefetch": 100},
    "prefetch=400": {"prefetch": 400},
    "prefetch_time=0": {"prefetch_time": 0},
    "prefetch_time=inf": {"prefetch_time": math.inf},
    "poll_interval=0.1": {"poll_interval": 0.1},
    "poll_interval=5": {"poll_interval": 5.0},
}
CONCURRENCY = Settings().concurrency


class Kind(NamedTuple):
    name: str
    seconds: float
    tasks: int
    sessions: int


KINDS = [
    Kind("1 ms", 0.001, 5000, 1),
    Kind("100 ms", 0.1, 600, 1),
    Kind("10 s", 10.0, 40, 1),
    Kind("1 ms, two sessions", 0.001, 5000, 2),
    Kind("100 ms, two sessions", 0.1, 1000, 2),
    Kind("10 s, two sessions, 20 tasks", 10.0, 2 * CONCURRENCY, 2),
]


async def measure(dsn: str, kind: Kind, settings: Settings) -> float:
    """The throughput, where 1 is all slots busy all of the time; the start of the sessions is not counted."""
    clock = asyncio.get_running_loop().time
    ends: list[float] = []
    begins: list[float] = []
    done = asyncio.Event()

    async def tasker(_: object) -> None:
        begins.append(clock())
        await asyncio.sleep(kind.seconds)
        ends.append(clock())
        if len(ends) == kind.tasks:
            done.set()

    admin = await asyncpg.connect(dsn)
    async with AsyncExitStack() as stack:
        for _ in range(kind.sessions):
            database = await stack.enter_async_context(PostgresDatabase(dsn, EMAILS))
            await stack.enter_async_context(Runner(database, each(tasker), settings, idle_spans=False))
        while await admin.fetchval("SELECT count(*) FROM session_lock.session") < kind.sessions:
            await asyncio.sleep(0.01)
        await add_emails(admin, kind.tasks)
        await admin.execute("SELECT session_lock.wake('email')")
        await done.wait()
    await admin.close()
    ideal = kind.seconds * math.ceil(kind.tasks / (kind.sessions * settings.concurrency))
    return ideal / (max(ends) - min(begins))


async def measure_afresh(dsn: str, kind: Kind, settings: Settings) -> float:
    async with fresh_database(dsn, "template1") as fresh:
        admin = await asyncpg.connect(fresh.admin_dsn)
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS)
        await admin.close()
        return await measure(fresh.admin_dsn, kind, settings)


BESIDE_THE_BEST = "the defaults beside the best"


async def main(rounds: int, kinds: Sequence[Kind]) -> None:
    figures: dict[tuple[str, str], list[float]] = {}
    with temp_postgres() as server:
        connection = await asyncpg.connect(server.dsn)
        version = (await connection.fetchval("SHOW server_version")).split()[0]
        await connection.close()
        for kind in [*kinds] * rounds:
            cells = [
                measure_afresh(server.dsn, kind, Settings(start_jitter=0, **other))
                for other in OTHERS.values()
            ]
            at_once = kind.seconds >= 1
            found = await asyncio.gather(*cells) if at_once else [await cell for cell in cells]
            for name, figure in zip(OTHERS, found, strict=True):
                figures.setdefault((kind.name, name), []).append(figure)
    print(
        f"On {datetime.now(UTC):%Y-%m-%d}, PostgreSQL {version}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"medians of {rounds}:\n"
    )
    print(f"| | {' | '.join(kind.name for kind in kinds)} |\n|{' --- |' * (len(kinds) + 1)}")
    for name in OTHERS:
        cells_ = [figures[kind.name, name] for kind in kinds]
        print(f"| {name} | {' | '.join(f'{median(c):.2f} ({min(c):.2f} to {max(c):.2f})' for c in cells_)} |")
    best = [
        median(figures[kind.name, "the defaults"]) / max(median(figures[kind.name, name]) for name in OTHERS)
        for kind in kinds
    ]
    print(f"| {BESIDE_THE_BEST} | {' | '.join(f'{ratio:.2f}' for ratio in best)} |")


if __name__ == "__main__":
    given, *words = sys.argv[1:] or ["5"]
    chosen = [kind for kind in KINDS if not words or kind.name.startswith(tuple(words))]
    asyncio.run(main(int(given), chosen))
