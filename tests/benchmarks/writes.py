"""What a task writes, and what room in the pages of its table gives: `python -m tests.benchmarks.writes [repetitions]`.

It prints what docs/how-to/tuning.md holds. Bytes and HOT updates hardly depend on what else the machine does; tasks a second do, so read those as
ratios. Commits are durable, and autovacuum is off, so that nothing but the calls writes.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import NamedTuple, TypeAlias

import asyncpg

from session_lock import PostgresDatabase
from session_lock.database import Claim
from session_lock.embedded import temp_postgres
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

BATCHES = (10, 100, 1000)
FILLFACTORS = (100, 70, 50)
TASKS = 20_000
HEAD = (
    "tasks a call", "fillfactor", "claims that are HOT", "WAL bytes a task", "right after a checkpoint",
    "table bytes a task, before and after", "tasks a second",
)  # fmt: skip

DURABLE = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB", "autovacuum": "off"}


class Writes(NamedTuple):
    """What it took to claim and finish all tasks, for each of them."""

    hot: float
    wal: float
    before: float
    after: float
    rate: float


async def writes(dsn: str, batch: int, fillfactor: int, *, checkpoint: bool) -> Writes:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "DROP TABLE IF EXISTS public.email; DROP SCHEMA IF EXISTS session_lock CASCADE;"
        f"{EMAIL_TABLE} WITH (fillfactor = {fillfactor})"
    )
    await apply_mapping(connection, EMAILS)
    await connection.execute(
        "INSERT INTO public.email (address, body)"
        f" SELECT 'a@example.org', repeat('x', 100) FROM generate_series(1, {TASKS})"
    )
    await connection.execute("VACUUM ANALYZE public.email")
    if checkpoint:  # after which each page that is written goes to the WAL as a whole, once
        await connection.execute("CHECKPOINT")
    size = "SELECT pg_table_size('public.email')"
    before, start = await connection.fetchval(size), await connection.fetchval("SELECT pg_current_wal_lsn()")
    seconds = await drain(dsn, batch)
    wal = await connection.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", start)
    after = await connection.fetchval(size)
    updates = hot = 0
    while updates < 2 * TASKS:  # the server adds them up in its own time
        await asyncio.sleep(0.1)
        updates, hot = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'public.email'::regclass"
        )
    await connection.close()
    return Writes(hot / TASKS, float(wal) / TASKS, before / TASKS, after / TASKS, TASKS / seconds)


async def drain(dsn: str, batch: int) -> float:
    """Seconds in which one session claims and finishes all; each call finishes what the one before it has claimed."""
    async with PostgresDatabase(dsn, EMAILS, listen=False) as database:
        lease = await database.start_session(capacity=1000, ttl=600, label="", app_version="")
        claims: list[Claim] = []
        position, done, begun = None, 0, perf_counter()
        while done < TASKS:
            work = await database.get_work(lease, limit=batch, finished=claims, position=position)
            position, claims = work.position, [task.claim for task in work.tasks]
            done += len(claims)
        await database.finish_tasks(lease, claims)
        return perf_counter() - begun


Found: TypeAlias = dict[tuple[int, int], tuple[list[Writes], list[Writes]]]
"""By tasks a call and fillfactor: long after a checkpoint, and right after one."""


async def measure(dsn: str, repetitions: int) -> Found:
    found: Found = {(batch, fillfactor): ([], []) for batch in BATCHES for fillfactor in FILLFACTORS}
    for _ in range(repetitions):  # outermost, so that a busy minute of the machine is not one case's alone
        for case, (plain, late) in found.items():
            plain.append(await writes(dsn, *case, checkpoint=False))
            late.append(await writes(dsn, *case, checkpoint=True))
    return found


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


async def main(dsn: str, repetitions: int) -> None:
    connection = await asyncpg.connect(dsn)
    version = (await connection.fetchval("SHOW server_version")).split()[0]
    await connection.close()
    found = await measure(dsn, repetitions)
    print(
        f"On {datetime.now(UTC):%Y-%m-%d}, PostgreSQL {version}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{TASKS:,} tasks, medians of {repetitions}:\n"
    )
    print(line(*HEAD))
    print(line(*("---" for _ in HEAD)))
    for case, (plain, late) in found.items():
        hot, wal, before, after, rate = (median(each) for each in zip(*plain, strict=True))
        rates = [one.rate for one in plain]
        print(
            line(
                *case, f"{hot:.0%}", f"{wal:.0f}", f"{median(one.wal for one in late):.0f}", f"{before:.0f}, {after:.0f}",
                f"{rate:.0f} ({min(rates):.0f} to {max(rates):.0f})",
            )
        )  # fmt: skip


if __name__ == "__main__":
    with temp_postgres(**DURABLE) as server:
        asyncio.run(main(server.dsn, int(sys.argv[1]) if len(sys.argv) > 1 else 5))
