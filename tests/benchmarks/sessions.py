"""What `get_work` costs with many live sessions, against one.

    python -m tests.benchmarks.sessions [rounds]

One connection claims and gives back, while the other sessions of the mapping are rows in the database: what is measured is what
they add to a call. Three cases: plenty of tasks (more than all could take together), small sessions that claim ahead of plenty (which
has to be known), and few (each look works out the share of what there is). Rounds are interleaved; read the ratios, and the spread beside them.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import asyncpg

from session_lock import PostgresDatabase
from session_lock.database import Handback
from session_lock.embedded import temp_postgres
from session_lock.session import Lease
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

SESSIONS = (1, 8, 48, 64, 500)
CALLS = 40


@dataclass(frozen=True, slots=True)
class Case:
    tasks: int
    capacity: int = 1100
    """That of the default settings, for a batch tasker."""
    limit: int = 100
    at_once: int = 100


CASES = {"plenty": Case(600_000), "ahead": Case(600_000, capacity=20, limit=10, at_once=1), "few": Case(500)}


async def measure(database: PostgresDatabase[Any], lease: Lease, case: Case) -> float:
    """Seconds of a call, the median."""
    seconds = []
    for _ in range(CALLS):
        before = time.perf_counter()  # noqa: TID251 (a benchmark)
        work = await database.get_work(lease, limit=case.limit, at_once=case.at_once)
        seconds.append(time.perf_counter() - before)  # noqa: TID251
        await database.release_tasks(
            lease, [Handback(task.claim, give_back_attempt=True) for task in work.tasks]
        )
    return statistics.median(seconds)


async def run(dsn: str, rounds: int) -> None:
    admin = await asyncpg.connect(dsn)
    print(f"PostgreSQL {await admin.fetchval('SHOW server_version')}, {rounds} rounds of {CALLS} calls")
    await admin.execute(EMAIL_TABLE)
    await apply_mapping(admin, EMAILS)
    for name, case in CASES.items():
        await admin.execute("TRUNCATE public.email")
        await add_emails(admin, case.tasks)
        await admin.execute("VACUUM ANALYZE public.email")
        figures: dict[int, list[float]] = {sessions: [] for sessions in SESSIONS}
        for _ in range(rounds):
            for sessions, found in figures.items():
                await admin.execute("DELETE FROM session_lock.session")
                await admin.execute("VACUUM session_lock.session")
                async with PostgresDatabase(dsn, EMAILS, listen=False) as database:
                    leases = [
                        await database.start_session(
                            capacity=case.capacity, ttl=3600, label="", app_version=""
                        )
                        for _ in range(sessions)
                    ]
                    found.append(await measure(database, leases[0], case))
        print(
            f"\n{name} ({case.tasks} tasks, {case.limit} a call): milliseconds of a call, median (least to most), and of one session"
        )
        for sessions, found in figures.items():
            ratios = [each / one for each, one in zip(found, figures[1], strict=True)]
            print(
                f"{sessions:4} sessions {1000 * statistics.median(found):7.2f} "
                f"({1000 * min(found):.2f} to {1000 * max(found):.2f})  {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
    await admin.close()


if __name__ == "__main__":
    with temp_postgres() as server:
        asyncio.run(run(server.dsn, int(sys.argv[1]) if len(sys.argv) > 1 else 5))
