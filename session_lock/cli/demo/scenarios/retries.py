"""Errands that fail, are released or are given up, each as its plan says: every one ran as often as planned, and not too soon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, pairwise
from typing import ClassVar

from session_lock import Discard, Release, Retry, Settings, Task, Tasker, TaskTable, each
from session_lock.cli.demo.access import Connection
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.part import Backstage, Part
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import QUICK, Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import Row, log_run
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, recount


class Hiccup(Exception):  # noqa: N818 (none of these is an error of ours)
    """Has no policy of its own."""


class Busy(Exception):  # noqa: N818
    """Is worth more attempts than others, with equal pauses."""


class Hopeless(Exception):  # noqa: N818
    """Is worth no other attempt."""


RETRY = Retry(
    max_attempts=4, delay=0.3, factor=2, jitter=0,
    on={Busy: Retry(max_attempts=8, delay=0.2, factor=1, jitter=0), Hopeless: Retry(max_attempts=1)},
)  # fmt: skip
"""Without chance, so that each pause has a least length."""

RELEASED_FOR = 0.4

IN_TIME = 0.5
"""Seconds that a run may take longer than it should."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What shall become of an errand."""

    pauses: Sequence[float]
    """The least time from each run to the next: there is one run more than pauses."""

    attempts: int
    failures: int
    """Kept in the table `failure`."""

    given_up: bool = False


def _failing(policy: Retry, times: int, *, given_up: bool = False) -> Fate:
    pauses = [policy.pause(attempt) for attempt in range(1, times + (not given_up))]
    return Fate(pauses, len(pauses) + 1, times, given_up)


FATES: Mapping[str, Fate] = {
    "goes well": Fate([], attempts=1, failures=0),
    "fails once": _failing(RETRY, 1),
    "fails thrice": _failing(RETRY, 3),
    "fails for ever": _failing(RETRY, 4, given_up=True),
    "hangs once": _failing(RETRY, 1),
    "is busy six times": _failing(RETRY.on[Busy], 6),
    "is hopeless": _failing(RETRY.on[Hopeless], 1, given_up=True),
    "is released twice": Fate([RELEASED_FOR] * 2, attempts=1, failures=0),
    "is discarded": Fate([], attempts=1, failures=1, given_up=True),
}


class Retries(Scenario):
    about = "errands that fail, are released or given up: each ran as often as planned, and no sooner"
    options: ClassVar[frozenset[str]] = frozenset({"tasks", "seconds"})

    def __init__(self, wish: Wish) -> None:
        tasks = wish.tasks or 240
        self.names: list[str] = [name for name, _ in zip(cycle(FATES), range(tasks), strict=False)]
        runs = sum(len(FATES[name].pauses) + 1 for name in self.names)
        self.plan: Plan = Plan(wish.runners, tasks, wish.seconds or 8.0, kill=False, freeze=False, runs=runs)

    def opening(self) -> str:
        return (
            f"{self.plan.tasks} errands of {len(FATES)} kinds, which shall take {self.plan.runs} runs: {self.plan.runners} processes "
            f"do them, in about {self.plan.seconds:.0f} seconds."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.errand",
        key="id",
        pending="finished_at IS NULL",
        finish="finished_at = now()",
        discard="finished_at = now(), given_up = true",
        columns=("fate",),
        schema=SCHEMA,
    )

    tables = f"""
    CREATE TABLE {SCHEMA}.errand (
      id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      fate        text NOT NULL,
      finished_at timestamptz,
      given_up    boolean NOT NULL DEFAULT false
    ) WITH (fillfactor = 50);
    """

    grants = f"GRANT SELECT ON {SCHEMA}.run TO {{role}}"

    async def fill(self, connection: Connection) -> None:
        await connection.copy_records_to_table(
            "errand", schema_name=SCHEMA, columns=["fate"], records=[(name,) for name in self.names]
        )

    base_settings = QUICK

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        return each(Errands(backstage))

    @classmethod
    def settings(cls, part: Part) -> Settings:
        # All errands of some kinds fail, and none of it is the process's fault.
        return Settings(
            **cls.base_settings, retry=RETRY, breaker_failures=None, task_timeout=part.pause + IN_TIME
        )

    async def judge(self, stage: Stage, cast: Cast) -> RetriesVerdict:
        rows = await stage.pool.fetch(
            f"""
            SELECT t.fate, t.given_up, t.attempts,
                   ARRAY(SELECT r.at FROM {SCHEMA}.run AS r WHERE r.task = t.id ORDER BY r.at) AS runs,
                   ARRAY(SELECT f.attempt FROM {SCHEMA}.failure AS f WHERE f.task_key = t.id::text ORDER BY f.id) AS failures
              FROM {SCHEMA}.errand AS t WHERE t.finished_at IS NOT NULL
            """
        )
        seen = [(FATES[row["fate"]], row) for row in rows]
        return RetriesVerdict(
            await recount(stage, self.table, cast),
            planned_runs=self.plan.runs or 0,
            given_up=sum(row["given_up"] for row in rows),
            wrong_ends=sum(row["given_up"] != fate.given_up for fate, row in seen),
            wrong_runs=sum(len(row["runs"]) != len(fate.pauses) + 1 for fate, row in seen),
            wrong_attempts=sum(row["attempts"] != fate.attempts for fate, row in seen),
            wrong_failures=sum(row["failures"] != [*range(1, fate.failures + 1)] for fate, row in seen),
            too_soon=sum(too_soon(row["runs"], fate.pauses) for fate, row in seen),
        )


def too_soon(runs: Iterable[datetime], pauses: Sequence[float]) -> int:
    """How many runs began before the pause after the last one was over."""
    gaps = [(after - before).total_seconds() for before, after in pairwise(runs)]
    return sum(gap < pause for gap, pause in zip(gaps, pauses, strict=False))


class Errands:
    def __init__(self, backstage: Backstage) -> None:
        self._pool = backstage.pool
        self._pause = backstage.part.pause

    async def __call__(self, task: Task[Row]) -> Release | Discard | None:
        await log_run(self._pool, task)
        await asyncio.sleep(self._pause)
        match task.data["fate"]:
            case "hangs once" if task.attempt <= 1:
                await asyncio.Event().wait()
            case "fails once" if task.attempt <= 1:
                raise Hiccup
            case "fails thrice" if task.attempt <= 3:
                raise Hiccup
            case "fails for ever":
                raise Hiccup
            case "is busy six times" if task.attempt <= 6:
                raise Busy
            case "is hopeless":
                raise Hopeless
            case "is released twice" if await self._runs(task) <= 2:
                return Release(after=RELEASED_FOR)
            case "is discarded":
                return Discard("nobody wants it")
        return None

    async def _runs(self, task: Task[Row]) -> int:
        """A released task does not know: it is still in its first attempt."""
        query = f"SELECT count(*) FROM {SCHEMA}.run WHERE task = $1"
        runs: int = await self._pool.fetchval(query, task.key)
        return runs


@dataclass(frozen=True, slots=True)
class RetriesVerdict(Verdict):
    scenario: ClassVar[str] = "retries"
    planned_runs: int
    given_up: int
    wrong_ends: int
    """Errands that were finished and should have been given up, or the other way round. So for the others: errands whose
    runs, attempts and failures are not as planned."""

    wrong_runs: int
    wrong_attempts: int
    wrong_failures: int
    too_soon: int
    """Runs that began before the pause was over."""

    @property
    def good(self) -> bool:
        wrong = self.wrong_ends + self.wrong_runs + self.wrong_attempts + self.wrong_failures + self.too_soon
        return self.course.complete and self.course.runs == self.planned_runs and wrong == 0

    def sentences(self) -> list[str]:
        course = self.course
        result = (
            f"{course.finished} of {course.tasks} errands are closed, {self.given_up} of them given up, {self.wrong_ends or 'none'} "
            f"against the plan. {course.runs} runs of {self.planned_runs}: {self.wrong_runs or 'no'} errands ran too often or too "
            f"seldom, {self.wrong_attempts or 'none'} have a wrong number of attempts, {self.wrong_failures or 'none'} of "
            f"failures, and {self.too_soon or 'no'} runs came too soon: {as_it_should_be(self.good)}."
        )
        return [result, *course.sentences()]
