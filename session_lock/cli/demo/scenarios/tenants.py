"""The few tasks of a small tenant, behind the many of a big one: they do not wait for these."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from session_lock import Task, Tasker, TaskTable, each
from session_lock.cli.demo.access import Connection, Pool
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.director import Say
from session_lock.cli.demo.part import Backstage
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import QUICK, Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import Row, log_run
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, recount
from session_lock.cli.demo.watch import PATIENCE, Watch

SMALL = 100
BIG = 100_000
MOST_TIMES = 3.0
"""The time that the small tenant's tasks take alone."""

LATE_TIMES = 4.0
"""So long it is waited for them."""

ADD = f"INSERT INTO {SCHEMA}.job (tenant, lot) SELECT $1, $2 FROM generate_series(1, $3::integer)"

LEFT = f"SELECT count(*) FROM {SCHEMA}.job WHERE lot = $1 AND finished_at IS NULL"

# From when the lot $1 was there until the last of it was finished; NULL as long as some is not.
TOOK = f"""
SELECT CASE WHEN count(*) = $2 AND count(e.at) = count(*)
            THEN extract(epoch FROM max(e.at) - min(j.added_at))::double precision END
  FROM {SCHEMA}.job AS j LEFT JOIN {SCHEMA}.event AS e ON e.task = j.id AND e.what = 'finished'
 WHERE j.lot = $1
"""

# Tasks of the lot $1 that were finished while some of the lot $2 were not.
MEANWHILE = f"""
SELECT count(*) FROM {SCHEMA}.job AS j JOIN {SCHEMA}.event AS e ON e.task = j.id AND e.what = 'finished'
 WHERE j.lot = $1
   AND e.at BETWEEN (SELECT min(o.added_at) FROM {SCHEMA}.job AS o WHERE o.lot = $2)
                AND (SELECT max(n.at) FROM {SCHEMA}.job AS o JOIN {SCHEMA}.event AS n ON n.task = o.id WHERE o.lot = $2)
"""


class Tenants(Scenario):
    about: ClassVar[str] = (
        f"{SMALL} tasks of a small tenant behind {BIG:,} of a big one (--tasks), done in {MOST_TIMES:.0f} x the time they take alone"
    )
    options: ClassVar[frozenset[str]] = frozenset({"tasks", "seconds"})

    def __init__(self, wish: Wish) -> None:
        self.big: int = wish.tasks or BIG
        seconds = wish.seconds or 3.0
        self.plan: Plan = Plan(
            wish.runners, 2 * SMALL + self.big, seconds, kill=False, freeze=False, runs=SMALL
        )

    def opening(self) -> str:
        return (
            f"{SMALL} tasks of a small tenant, at first alone (in about {self.plan.seconds:.0f} seconds), then behind {self.big} of a "
            f"big one: {self.plan.runners} processes do them."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.job",
        key="id",
        pending="finished_at IS NULL",
        finish="finished_at = now()",
        fair_by="tenant",
        schema=SCHEMA,
    )

    tables = f"""
    CREATE TABLE {SCHEMA}.job (
      id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      tenant      text NOT NULL,
      lot         text NOT NULL,                     -- what was added at once
      added_at    timestamptz NOT NULL DEFAULT now(),
      finished_at timestamptz
    ) WITH (fillfactor = 50);
    CREATE INDEX job_of_lot ON {SCHEMA}.job (lot) WHERE lot <> 'big';
    """

    look_every: ClassVar[float] = 0.25

    async def fill(self, connection: Connection) -> None:
        """Nothing yet: when they come is what this is about."""

    base_settings = QUICK

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        pool, pause = backstage.pool, backstage.part.pause

        async def do(task: Task[Row]) -> None:
            await log_run(pool, task)
            await asyncio.sleep(pause)

        return each(do)

    async def play(self, stage: Stage, cast: Cast, watch: Watch, say: Say) -> None:
        for _ in range(self.plan.runners):
            await cast.start()
        await watch.until(lambda now: len(now.sessions) >= self.plan.runners, cast.check)

        await self._add_small(stage.pool, "alone", cast, say, within=PATIENCE)
        alone = await stage.pool.fetchval(TOOK, "alone", SMALL) or PATIENCE
        await stage.pool.execute(ADD, "big", "big", self.big)
        say(f"{self.big} tasks of the big tenant are added")
        begun = watch.now.finished + SMALL // 4
        await watch.until(lambda now: now.finished >= min(begun, self.plan.tasks), cast.check)
        await self._add_small(stage.pool, "behind", cast, say, within=LATE_TIMES * alone)
        await cast.stop()

    async def _add_small(self, pool: Pool, lot: str, cast: Cast, say: Say, *, within: float) -> None:
        await pool.execute(ADD, "small", lot, SMALL)
        say(f"{SMALL} tasks of the small tenant are added")
        deadline = asyncio.get_running_loop().time() + within
        while left := await pool.fetchval(LEFT, lot):
            cast.check()
            if asyncio.get_running_loop().time() > deadline:
                say(f"after {within:.0f} s {left} are left: that is too long")
                return
            await asyncio.sleep(0.05)
        say("they are done")

    async def judge(self, stage: Stage, cast: Cast) -> TenantsVerdict:
        alone, behind = [await stage.pool.fetchval(TOOK, lot, SMALL) for lot in ("alone", "behind")]
        return TenantsVerdict(
            await recount(stage, self.table, cast),
            small=SMALL,
            big=self.big,
            seconds_alone=None if alone is None else round(alone, 2),
            seconds_behind=None if behind is None else round(behind, 2),
            times=round(behind / alone, 2) if alone and behind else None,
            big_finished_meanwhile=await stage.pool.fetchval(MEANWHILE, "big", "behind"),
            big_left=await stage.pool.fetchval(LEFT, "big"),
        )


@dataclass(frozen=True, slots=True)
class TenantsVerdict(Verdict):
    scenario: ClassVar[str] = "tenants"
    small: int
    big: int
    seconds_alone: float | None
    """What the small tenant's tasks took alone; None: they are not finished."""

    seconds_behind: float | None
    """What as many took behind those of the big one."""

    times: float | None
    """The second divided by the first."""

    big_finished_meanwhile: int
    """Tasks of the big tenant: it does not stand still either."""

    big_left: int

    @property
    def good(self) -> bool:
        in_time = self.times is not None and self.times <= MOST_TIMES
        return in_time and self.course.finished_twice == 0 and (self.big_finished_meanwhile > 0)

    def sentences(self) -> list[str]:
        took = (
            "The small tenant's tasks are not all finished"
            if self.times is None
            else f"The small tenant's {self.small} tasks took {self.seconds_alone:.1f} s alone, and {self.seconds_behind:.1f} s behind "
            f"{self.big} of the big one: {self.times:.1f} times as long, of {MOST_TIMES:.0f} allowed"
        )
        return [
            f"{took}: {as_it_should_be(self.good)}.",
            f"Meanwhile {self.big_finished_meanwhile} tasks of the big one were finished; {self.big_left} are left.",
        ]
