"""Bells that several processes ring by schedules: once at each due time, while one of the processes is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil, floor
from typing import Any, ClassVar

from session_lock import PostgresDatabase, Settings, Task, TaskTable
from session_lock.block import RunningBlock
from session_lock.cli.demo.access import Connection
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.director import Say, play
from session_lock.cli.demo.part import Backstage
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import log_run
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, recount
from session_lock.cli.demo.watch import Watch
from session_lock.duties import Due, Duties, Duty, PostgresDuties, duty_table, every

BELLS: Mapping[str, int] = {"treble": 1, "tenor": 2, "bourdon": 3}
"""By name: seconds from one due time to the next, which is at the multiples of it since 1970."""

RINGS_FOR = 0.5
"""Seconds: long enough to be killed in."""

RUNS_LEFT = f"SELECT count(*) FROM {SCHEMA}.duty_run WHERE finished_at IS NULL AND due_at <= $1"


class Cron(Scenario):
    about = "duties by the second in several processes: each due time once, while one of them is killed"
    options: ClassVar[frozenset[str]] = frozenset({"seconds", "no-kill"})

    def __init__(self, wish: Wish) -> None:
        seconds = wish.seconds or 10.0
        rings = int(sum(seconds / interval for interval in BELLS.values()))
        self.plan: Plan = Plan(wish.runners, max(rings, 1), seconds, kill=wish.kill, freeze=False)

    def opening(self) -> str:
        bells = ", ".join(f"{name} (every {interval} s)" for name, interval in BELLS.items())
        return f"{len(BELLS)} bells, {bells}: {self.plan.runners} processes ring them, for about {self.plan.seconds:.0f} seconds."

    table: ClassVar[TaskTable] = duty_table(SCHEMA)

    # Nothing here keeps a bell from being rung twice.
    tables = f"""
    CREATE TABLE {SCHEMA}.ring (
      bell   text NOT NULL,
      due_at timestamptz NOT NULL,
      at     timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    """

    grants = f"GRANT INSERT ON {SCHEMA}.ring TO {{role}};"

    async def fill(self, connection: Connection) -> None:
        """What is due is planned by the processes."""

    @classmethod
    def database(cls, backstage: Backstage) -> PostgresDatabase[Any]:
        return PostgresDuties(backstage.dsn, pool=backstage.pool, schema=SCHEMA)

    @classmethod
    def runner(cls, database: PostgresDatabase[Any], backstage: Backstage) -> RunningBlock:
        assert isinstance(database, PostgresDuties)
        duties = [
            Duty(name, every(interval), partial(ring, backstage), missed="all")
            for name, interval in BELLS.items()
        ]
        return Duties(database, *duties, settings=Settings(**cls.base_settings), name=backstage.part.name)

    until: datetime
    """Of what was due until then, no run is left."""

    async def play(self, stage: Stage, cast: Cast, watch: Watch, say: Say) -> None:
        async def no_run_is_left() -> None:
            self.until = await stage.clock()
            while await stage.pool.fetchval(RUNS_LEFT, self.until):
                cast.check()
                await asyncio.sleep(0.05)

        await play(self.plan, stage, cast, watch, say, then=no_run_is_left)

    async def judge(self, stage: Stage, cast: Cast) -> CronVerdict:
        rows = await stage.pool.fetch(f"SELECT bell, due_at, at FROM {SCHEMA}.ring")
        rung = Counter((row["bell"], row["due_at"]) for row in rows)
        due = due_times(min((row["due_at"] for row in rows), default=self.until), self.until)
        late = [row["at"] - row["due_at"] for row in rows]
        return CronVerdict(
            await recount(stage, self.table, cast),
            due_times=len(due),
            rung=rung.total(),
            missed=len(due - rung.keys()),
            too_often=rung.total() - len(rung),
            at_other_times=sum(at.timestamp() % BELLS[bell] != 0 for bell, at in rung.elements()),
            too_soon=sum(each < timedelta() for each in late),
            latest_seconds=round(max(late, default=timedelta()).total_seconds(), 2),
        )


def due_times(first: datetime, last: datetime) -> set[tuple[str, datetime]]:
    """Those of all bells, worked out without the library."""
    seconds = range(ceil(first.timestamp()), floor(last.timestamp()) + 1)
    return {
        (bell, datetime.fromtimestamp(second, UTC))
        for bell, interval in BELLS.items()
        for second in seconds
        if second % interval == 0
    }


async def ring(backstage: Backstage, task: Task[Due]) -> None:
    await log_run(backstage.pool, task)
    async with task.transaction() as connection:
        await connection.execute(
            f"INSERT INTO {SCHEMA}.ring (bell, due_at) VALUES ($1, $2)", task.data.name, task.data.due_at
        )
        await asyncio.sleep(RINGS_FOR)


@dataclass(frozen=True, slots=True)
class CronVerdict(Verdict):
    scenario: ClassVar[str] = "cron"
    due_times: int
    """Of all bells, from the first ring to the end."""

    rung: int
    missed: int
    too_often: int
    at_other_times: int
    too_soon: int
    latest_seconds: float
    """From a due time until the bell was rung, at most: a lease where its process was killed."""

    @property
    def good(self) -> bool:
        wrong = self.missed + self.too_often + self.at_other_times + self.too_soon
        return self.due_times > 0 and self.course.finished_twice == 0 and wrong == 0

    def sentences(self) -> list[str]:
        result = (
            f"{len(BELLS)} bells were rung {self.rung} times, and {self.due_times} times were due: {self.missed or 'none'} missed, "
            f"{self.too_often or 'none'} rung twice, {self.at_other_times + self.too_soon or 'none'} at another time, the latest "
            f"{self.latest_seconds:.1f} s late: {as_it_should_be(self.good)}."
        )
        return [result, *self.course.sentences(lease_ttl=Cron.base_settings["lease_ttl"])]
