"""Tasks claimed and finished in a second: a mapping without limits beside one with each kind of them.

    python -m tests.benchmarks.limits [repetitions]

The database's part alone: sessions in one process, each on a connection of its own, claim up to 100 tasks in a call and
finish them in the next, without taskers. The limits are so wide that they hold nothing back, but for `ordered`, where a call
gets no more tasks than there are values. Each repetition goes round all the kinds, so that what else the machine does falls on all
of them; read the ratios, and the spread beside them.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from dataclasses import replace
from typing import Any

import asyncpg

from session_lock import Limit, PostgresDatabase, Rate
from session_lock.database import Claim, Outcome
from session_lock.embedded import temp_postgres
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

KINDS: dict[str, dict[str, Any]] = {
    "no limits": {},
    "Limit(1000)": {"limits": (Limit(1000),)},
    "Limit(100, by=)": {"limits": (Limit(100, by="address"),)},
    "Limit(1, by=, ordered=True)": {"limits": (Limit(1, by="address", ordered=True),), "order_by": ("id",)},
    "Rate(100000, per=1)": {"limits": (Rate(100_000, per=1),)},
    "Rate(100000, per=1, by=)": {"limits": (Rate(100_000, per=1, by="address"),)},
    "fair_by=": {"fair_by": "address"},
}

BACKLOGS = {
    "200 values in turn": "SELECT 'a' || g % 200 FROM generate_series(1, 20000) AS g",
    "100,000 of one value before them": """
        SELECT 'big' FROM generate_series(1, 100000)
        UNION ALL SELECT 'a' || g % 200 FROM generate_series(1, 20000) AS g""",
}

SESSIONS = (1, 4)
CALL = 100
TASKS = 4000
"""Of one measurement."""


async def work(dsn: str, table: Any, enough: int, done: list[int]) -> None:
    async with PostgresDatabase(dsn, table) as database:
        lease = await database.start_session(capacity=CALL, ttl=300, label="", app_version="")
        position: str | None = None
        held: list[Claim] = []
        while len(done) < enough:
            got = await database.get_work(
                lease,
                limit=CALL - len(held),
                held=[claim.key for claim in held],
                position=position,
                over_share=True,
            )
            position = got.position
            held += [task.claim for task in got.tasks]
            settled = await database.finish_tasks(lease, held)
            again = {each.key for each in settled if each.outcome is Outcome.LOCKED}  # by another's look
            done += [claim.key for claim in held if claim.key not in again]
            held = [claim for claim in held if claim.key in again]
        await database.end_session(lease, [])


async def measure(dsn: str, kind: str, backlog: str, sessions: int) -> float:
    table = replace(EMAILS, **KINDS[kind])
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP TABLE IF EXISTS public.email")
    await connection.execute(EMAIL_TABLE)
    await apply_mapping(connection, table)
    await connection.execute(f"INSERT INTO public.email (address) {BACKLOGS[backlog]}")
    await connection.execute("VACUUM ANALYZE public.email")
    await connection.close()
    done: list[int] = []
    clock = asyncio.get_running_loop().time
    before = clock()
    await asyncio.gather(*(work(dsn, table, TASKS, done) for _ in range(sessions)))
    assert len(set(done)) == len(done)
    return len(done) / (clock() - before)


async def run(dsn: str, repetitions: int) -> None:
    connection = await asyncpg.connect(dsn)
    print(f"PostgreSQL {await connection.fetchval('SHOW server_version')}, {repetitions} repetitions")
    await connection.close()
    for backlog in BACKLOGS:
        for sessions in SESSIONS:
            figures: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(repetitions):
                for kind, rates in figures.items():
                    rates.append(await measure(dsn, kind, backlog, sessions))
            print(
                f"\n{backlog}, {sessions} session(s): tasks a second, median (least to most), and of no limits"
            )
            for kind, rates in figures.items():
                ratios = [rate / plain for rate, plain in zip(rates, figures["no limits"], strict=True)]
                print(
                    f"{kind:28} {statistics.median(rates):7.0f} ({min(rates):.0f} to {max(rates):.0f})"
                    f"  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                )


if __name__ == "__main__":
    with temp_postgres() as server:
        asyncio.run(run(server.dsn, int(sys.argv[1]) if len(sys.argv) > 1 else 5))
