"""A rolling deploy under load: one instance after the other is replaced by one of the new version, and nothing stands still."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from session_lock import PostgresDatabase, Runner, Task, Tasker, TaskTable, each
from session_lock.block import RunningBlock
from session_lock.cli.demo.access import Connection, Pool
from session_lock.cli.demo.cast import Cast, RunnerProcess, State
from session_lock.cli.demo.director import Say
from session_lock.cli.demo.part import CONCURRENCY, Backstage
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import QUICK, Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import Row, log_run
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, recount
from session_lock.cli.demo.watch import Watch

OLD, NEW = "1.9", "1.10"

A_TASK = 0.1
"""Seconds, in the mean: each takes from half of it to half as much again."""

LOAD = 1.1
"""Of what all slots can do at best. So there is a backlog, and each instance that is stopped holds tasks that it has not begun."""

ADD_EVERY = 0.02
OF_NEW_KIND = 0.1
"""Of the rows, once there is an instance that may be given them."""

MOST_GAP, MOST_TAKEOVER = 250.0, 100.0
"""Milliseconds."""

ADD = f"INSERT INTO {SCHEMA}.job (needs_version) SELECT * FROM unnest($1::text[])"

# The longest time in which nothing was finished, of those that lie in the restarts, wholly or in part.
LONGEST_GAP = f"""
SELECT extract(epoch FROM max(f.at - f.before)) * 1000
  FROM (SELECT e.at, lag(e.at) OVER (ORDER BY e.at) AS before FROM {SCHEMA}.event AS e WHERE e.what = 'finished') AS f
 WHERE f.at > $1 AND f.before < $2
"""

# What the sessions of process $1 gave back from $2 on, and in what time the last of it was claimed by another.
HANDED_OVER = f"""
SELECT count(*) AS tasks, extract(epoch FROM max(n.at - g.at)) * 1000 AS ms
  FROM {SCHEMA}.event AS g
  JOIN {SCHEMA}.session AS s ON s.id = g.session AND split_part(s.label, ':', -1)::integer = $1
  LEFT JOIN LATERAL (SELECT min(c.at) AS at FROM {SCHEMA}.event AS c
                      WHERE c.task = g.task AND c.token > g.token AND c.what = 'claimed') AS n ON true
 WHERE g.what = 'given back' AND g.at >= $2
"""

CLAIMED_BY_OLD = f"""
SELECT count(*) FROM {SCHEMA}.event AS e
  JOIN {SCHEMA}.job AS j ON j.id = e.task AND j.needs_version = '{NEW}'
  JOIN {SCHEMA}.session AS s ON s.id = e.session AND s.app_version <> '{NEW}'
 WHERE e.what = 'claimed'
"""


@dataclass(frozen=True, slots=True)
class Restart:
    old: RunnerProcess
    told_at: datetime
    """When the old one was told to stop, by the server's clock."""

    ended_at: datetime


class Deploy(Scenario):
    about = (
        "a rolling restart of 5 processes (--runners) under load, by SIGTERM: each task once, and no pause"
    )
    options: ClassVar[frozenset[str]] = frozenset[str]()
    runners = 5

    def __init__(self, wish: Wish) -> None:
        self.rate: float = LOAD * wish.runners * CONCURRENCY / A_TASK
        self.plan: Plan = Plan(wish.runners, int(self.rate), wish.runners, kill=False, freeze=False)
        self.restarts: list[Restart] = []

    def opening(self) -> str:
        return (
            f"{self.plan.runners} processes of version {OLD} are replaced by as many of version {NEW}, one after the other, while "
            f"{self.rate:.0f} tasks a second are added."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.job",
        key="id",
        pending="finished_at IS NULL",
        finish="finished_at = now()",
        order_by=("id",),
        accepts="needs_version",
        schema=SCHEMA,
    )

    tables = f"""
    CREATE TABLE {SCHEMA}.job (
      id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      needs_version text,
      finished_at   timestamptz
    ) WITH (fillfactor = 50);
    """

    look_every: ClassVar[float] = 0.1

    async def fill(self, connection: Connection) -> None:
        await connection.execute(ADD, [None] * self.plan.tasks)

    # The library's default: what is given back is not found by polling.
    base_settings: ClassVar[Mapping[str, Any]] = {**QUICK, "poll_interval": 1.0}

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        async def do(task: Task[Row]) -> None:
            await log_run(backstage.pool, task)
            await asyncio.sleep(A_TASK * random.uniform(0.5, 1.5))

        return each(do)

    @classmethod
    def runner(cls, database: PostgresDatabase[Any], backstage: Backstage) -> RunningBlock:
        part = backstage.part
        version = part.own["app_version"]
        return Runner(
            database, cls.tasker(backstage), cls.settings(part), name=part.name, app_version=version
        )

    # What happens --------------------------------------------------------------------------------------------

    async def play(self, stage: Stage, cast: Cast, watch: Watch, say: Say) -> None:
        old = [await cast.start(app_version=OLD) for _ in range(self.plan.runners)]
        say(f"{' '.join(runner.name for runner in old)} start")
        await watch.until(lambda now: all(now.begun(runner.pid) for runner in old), cast.check)
        loading = asyncio.create_task(self._load(stage.pool))
        try:
            for runner in old:
                self.restarts.append(await self._replace(runner, stage, cast, watch, say))
        finally:
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
        say("no more tasks are added")
        await watch.until(lambda now: now.finished >= self.plan.tasks, cast.check)
        say("all work is done")
        await cast.stop()

    async def _load(self, pool: Pool) -> None:
        """Add rows, until cancelled."""
        clock = asyncio.get_running_loop().time
        began, before = clock(), self.plan.tasks
        while True:
            await asyncio.sleep(ADD_EVERY)
            count = before + int(self.rate * (clock() - began)) - self.plan.tasks
            share = OF_NEW_KIND if self.restarts else 0.0
            kinds = [NEW if random.random() < share else None for _ in range(count)]
            # Whole or not at all, so that it is known how many there are.
            adding = asyncio.create_task(pool.execute(ADD, kinds))
            self.plan.tasks += count
            try:
                await asyncio.shield(adding)
            finally:
                await adding

    async def _replace(self, old: RunnerProcess, stage: Stage, cast: Cast, watch: Watch, say: Say) -> Restart:
        new = await cast.start(app_version=NEW)
        await watch.until(lambda now: bool(now.begun(new.pid)), cast.check)
        told_at = await stage.clock()
        old.terminate()
        await watch.until(lambda _: old.state is not State.RUNNING, cast.check)
        say(f"{new.name} has come, {old.name} was told to stop (SIGTERM) and has {old.state.value}")
        return Restart(old, told_at, await stage.clock())

    # What came of it -----------------------------------------------------------------------------------------

    async def judge(self, stage: Stage, cast: Cast) -> DeployVerdict:
        handed_over = [
            await stage.pool.fetchrow(HANDED_OVER, each.old.pid, each.told_at) for each in self.restarts
        ]
        takeovers = [row["ms"] for row in handed_over if row is not None]
        return DeployVerdict(
            await recount(stage, self.table, cast),
            restarted=sum(each.old.state is State.STOPPED for each in self.restarts),
            handed_over=sum(row["tasks"] for row in handed_over if row is not None),
            takeover_ms=_milliseconds(*takeovers),
            longest_gap_ms=_milliseconds(
                await stage.pool.fetchval(LONGEST_GAP, self.restarts[0].told_at, self.restarts[-1].ended_at)
            ),
            new_kind=await stage.pool.fetchval(f"SELECT count(needs_version) FROM {SCHEMA}.job"),
            new_kind_claimed_by_old=await stage.pool.fetchval(CLAIMED_BY_OLD),
        )


def _milliseconds(*found: Any) -> float | None:
    """The most."""
    return max((round(float(each), 1) for each in found if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class DeployVerdict(Verdict):
    scenario: ClassVar[str] = "deploy"
    restarted: int
    """Instances of the old version that have ended gracefully."""

    handed_over: int
    """Tasks that these had claimed and not begun."""

    takeover_ms: float | None
    """From when an instance gave such a task back until another one claimed it, at most."""

    longest_gap_ms: float | None
    """Between two finishes, from the first SIGTERM to the end of the last old instance."""

    new_kind: int
    """Tasks that only the new version may be given."""

    new_kind_claimed_by_old: int

    @property
    def right(self) -> bool:
        """Whatever time it took."""
        course = self.course
        stopped = all(each.fate == State.STOPPED.value for each in course.per_runner)
        return course.complete and course.reruns == self.new_kind_claimed_by_old == 0 and stopped

    @property
    def good(self) -> bool:
        in_time = self.longest_gap_ms is not None and self.longest_gap_ms <= MOST_GAP
        return self.right and in_time and (self.takeover_ms or 0.0) <= MOST_TAKEOVER

    def sentences(self) -> list[str]:
        course = self.course
        gap = "no time" if self.longest_gap_ms is None else f"{self.longest_gap_ms:.0f} ms"
        result = (
            f"{self.restarted} processes were replaced, and {course.finished} of {course.tasks} tasks are finished, "
            f"{course.finished_twice or 'none'} of them twice, {course.reruns or 'none'} run twice; meanwhile the longest time in which none was "
            f"finished is {gap}, of {MOST_GAP:.0f} allowed: {as_it_should_be(self.good)}."
        )
        taken = (
            "" if self.takeover_ms is None else f", and claimed by others within {self.takeover_ms:.0f} ms"
        )
        return [
            result,
            f"{self.handed_over} tasks that the old ones had not begun were given back{taken} (of {MOST_TAKEOVER:.0f} allowed).",
            f"Of {self.new_kind} tasks of a new kind {self.new_kind_claimed_by_old or 'none'} were given to the old version.",
            *course.sentences(),
        ]
