"""`python -m tests.chaos.soak [MINUTES]`: play it, print what was seen minute by minute, judge it, and write docs/reference/soak.md.

Exits with 1 if a bound broke.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from session_lock.embedded import temp_postgres
from tests.chaos.forks import Forks, forks
from tests.chaos.report import ROOT, versions
from tests.chaos.soak.judging import Sample, judge, table
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

PAGE = ROOT / "docs" / "reference" / "soak.md"

HEAD = """\
# A soak of {minutes:g} minutes

Written by `uv run nox -s soak` on {date} ({versions}; seed {seed}); do not edit. {per_second} tasks a second arrive, and each finished row is deleted after {kept} s. \
Two instances work (the second one in finishing transactions, so that multixacts are made), a third one comes and is killed or stopped every few seconds. \
An old snapshot is held open for the middle third, and autovacuum is as shipped. The looks are those of the first instance, which stays.
"""

SEED = 1

PER_SECOND = 150
"""Tasks that arrive."""

KEPT = 60
"""Seconds after which a finished row is deleted: as many rows as these are there at any time."""

AUTOVACUUM = {"autovacuum": "on", "autovacuum_naptime": "1min"}
"""As PostgreSQL ships it, whatever the launcher's own settings are."""


@dataclass(frozen=True)
class Plan:
    """When what happens, in seconds: a quiet part to compare with, one beside an old snapshot, one to get over it."""

    seconds: float

    @property
    def snapshot(self) -> tuple[float, float]:
        return 0.3 * self.seconds, 0.6 * self.seconds

    def part(self, at: float) -> str:
        begin, end = self.snapshot
        return "before" if at < begin else "beside" if at < end else "after"


async def feed(dsn: str) -> None:
    """Tasks arrive, and finished ones are deleted."""
    connection = await asyncpg.connect(dsn)
    while True:
        await connection.execute(
            "INSERT INTO public.email (address) SELECT 'somebody' FROM generate_series(1, $1)",
            PER_SECOND // 5,
        )
        await connection.execute(
            "DELETE FROM public.email WHERE sent_at < clock_timestamp() - make_interval(secs => $1)",
            float(KEPT),
        )
        await asyncio.sleep(0.2)


async def churn(processes: Forks, dsn: str) -> None:
    """Every few seconds an instance is killed, or told to stop, and another one comes."""
    rng = random.Random(SEED)
    while True:
        pid = await processes.start(dsn=dsn, transactions=rng.random() < 0.5, told=None)
        await asyncio.sleep(rng.uniform(1, 6))
        if rng.random() < 0.5:
            await processes.kill(pid)
        else:
            os.kill(pid, signal.SIGTERM)
            while not await processes.has_ended(pid):
                await asyncio.sleep(0.05)


async def hold_a_snapshot(dsn: str, plan: Plan) -> None:
    begin, end = plan.snapshot
    await asyncio.sleep(begin)
    connection = await asyncpg.connect(dsn)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.fetchval("SELECT count(*) FROM public.email")
        await asyncio.sleep(end - begin)
    await connection.close()


SEEN = """
SELECT pg_relation_size('public.email') AS heap, pg_indexes_size('public.email') AS indexes,
       s.n_dead_tup AS dead, s.autovacuum_count AS vacuums,
       age(c.relfrozenxid) AS xid_age, mxid_age(c.relminmxid) AS mxid_age,
       (SELECT next_multixact_id::text::bigint FROM pg_control_checkpoint()) AS multixacts,
       (SELECT count(*) FROM public.email WHERE sent_at IS NULL) AS pending,
       (SELECT max(id) FROM public.email) AS tasks,
       (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'session_lock.session'::regclass) AS dead_sessions
  FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
 WHERE s.relid = 'public.email'::regclass
"""


async def look(admin: asyncpg.Connection, told: Path, plan: Plan) -> list[Sample]:
    """A sample each 30th of it."""
    samples: list[Sample] = []
    begin = time.perf_counter()  # noqa: TID251
    with told.open() as file:
        while (at := time.perf_counter() - begin) < plan.seconds:  # noqa: TID251
            await asyncio.sleep(plan.seconds / 30)
            await admin.execute("CHECKPOINT")  # which writes down how many multixacts there were
            lines = [json.loads(line) for line in file]
            looks = [seconds for line in lines for seconds in line["looks"]]
            row: Any = await admin.fetchrow(SEEN)
            sample = Sample(at=at, part=plan.part(at), looks=looks, resident=lines[-1]["resident"], **row)
            print(sample, flush=True)
            samples.append(sample)
    return samples


async def play(plan: Plan, dsn: str, folder: Path) -> list[Sample]:
    admin = await asyncpg.connect(dsn)
    await admin.execute(EMAIL_TABLE)
    await admin.execute("CREATE TABLE public.effect (task bigint PRIMARY KEY)")
    await apply_mapping(admin, EMAILS)
    told = folder / "told"
    async with forks("tests.chaos.soak.instance") as processes:
        await processes.start(dsn=dsn, transactions=False, told=str(told))
        await processes.start(dsn=dsn, transactions=True, told=None)
        while not told.exists():
            await asyncio.sleep(0.05)
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(each)
                for each in (feed(dsn), churn(processes, dsn), hold_a_snapshot(dsn, plan))
            ]
            samples = await look(admin, told, plan)
            for other in others:
                other.cancel()
    twice = await admin.fetchval("SELECT count(*) - count(DISTINCT task) FROM public.effect")
    assert twice == 0
    await admin.close()
    return samples


def main(arguments: Sequence[str]) -> int:
    plan = Plan(60 * float(arguments[0] if arguments else 30))
    with temp_postgres(**AUTOVACUUM) as server, tempfile.TemporaryDirectory() as folder:
        samples = asyncio.run(play(plan, server.dsn, Path(folder)))
    wrong = judge(samples)
    head = HEAD.format(
        minutes=plan.seconds / 60, date=f"{datetime.now(UTC):%Y-%m-%d}", versions=", ".join(versions()),
        seed=SEED, per_second=PER_SECOND, kept=KEPT,
    )  # fmt: skip
    verdict = (
        "".join(f"Broken: {each}.\n" for each in wrong) or "All bounds of tests/chaos/soak/judging.py held.\n"
    )
    PAGE.write_text(text := f"{head}\n{table(samples)}\n\n{verdict}")
    print(f"\n{text}")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
