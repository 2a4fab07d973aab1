"""Many tasks of unlike lengths at once, for 2, 8 and 32 sessions: each of these does its part, and all are done soon."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass
from datetime import datetime
from heapq import heapreplace
from typing import Any, ClassVar

from session_lock import PostgresDatabase, Runner, RunnerGroup, Settings, Task, Tasker, TaskTable, each
from session_lock.block import RunningBlock
from session_lock.cli.demo.access import Connection, Pool
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.director import Say
from session_lock.cli.demo.part import Backstage
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import QUICK, Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import Row, log_run
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, jain, recount
from session_lock.cli.demo.watch import Seen, Watch

ROUNDS = {2: 0.3, 8: 0.4, 32: 0.7}
"""Live sessions, and the mean length of their tasks in seconds. It is longer for the many, so that two busy cores are not all that is
measured."""

SIGMA = 0.5
"""The lengths are lognormal: the deviation of their logarithms. One of 1000 is four times as long as the mean."""

SECONDS = 90.0
"""Of all rounds, at best: 64 tasks for each slot, so that the last ones weigh little."""

SETTLED_AFTER = 0.5
"""Seconds after it is live until a session has looked for work, and listens."""

LEAST_FAIRNESS, MOST_TIMES = 0.98, 1.1

ADD = f"INSERT INTO {SCHEMA}.job (seconds) SELECT * FROM unnest($1::float8[]) RETURNING id"

# The last thing in the transaction: what follows it counts, the commit too.
WAKE = f"SELECT clock_timestamp() FROM {SCHEMA}.wake($1)"

# The time of all tasks that a session has finished, and its capacity.
WORK = f"""
SELECT s.capacity, coalesce(sum(j.seconds), 0) AS seconds
  FROM {SCHEMA}.session AS s
  LEFT JOIN {SCHEMA}.event AS e ON e.session = s.id AND e.what = 'finished'
  LEFT JOIN {SCHEMA}.job AS j ON j.id = e.task
 WHERE s.id = ANY ($1::bigint[])
 GROUP BY s.id
"""

# Of the tasks $1: how many are finished, and in what time from $2 on the last of them was.
FINISHED = f"""
SELECT count(DISTINCT e.task) AS tasks, extract(epoch FROM max(e.at) - $2)::float8 AS seconds
  FROM {SCHEMA}.event AS e WHERE e.what = 'finished' AND e.task = ANY ($1::bigint[])
"""


@dataclass(frozen=True, slots=True)
class Round:
    slots: int
    sessions: list[int]
    tasks: list[int]
    lengths: list[float]
    began_at: datetime
    """By the server's clock, just before the tasks could be seen."""


class Balance(Scenario):
    about: ClassVar[str] = (
        "tasks of unlike lengths for 2, 8 and 32 sessions, in 4 processes (--runners): each does its part of the work, in "
        f"{MOST_TIMES:g} x the time of the ideal"
    )
    options: ClassVar[frozenset[str]] = frozenset({"seconds", "seed"})
    runners = 4

    def __init__(self, wish: Wish) -> None:
        self.seed: int = wish.seed or random.randrange(1, 1_000_000)
        seconds = wish.seconds or SECONDS
        draw = random.Random(self.seed)
        a_slot = round(seconds / sum(ROUNDS.values()))
        self.lengths: dict[int, list[float]] = {
            sessions: [
                draw.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)
                for _ in range(a_slot * sum(slots_of(sessions)))
            ]
            for sessions, mean in ROUNDS.items()
        }
        tasks = sum(map(len, self.lengths.values()))
        self.plan: Plan = Plan(wish.runners, tasks, seconds, kill=False, freeze=False)
        self.rounds: list[Round] = []

    def opening(self) -> str:
        *first, last = ROUNDS
        return (
            f"{', '.join(map(str, first))} and then {last} sessions, with one slot or two, do {self.plan.tasks} tasks of unlike lengths "
            f"(--seed {self.seed}), in about {self.plan.seconds:.0f} seconds."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.job",
        key="id",
        pending="finished_at IS NULL",
        finish="finished_at = now()",
        columns=["seconds"],
        schema=SCHEMA,
    )

    tables = f"""
    CREATE TABLE {SCHEMA}.job (
      id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      seconds     double precision NOT NULL,
      finished_at timestamptz
    ) WITH (fillfactor = 50);
    """

    look_every: ClassVar[float] = 0.5

    async def fill(self, connection: Connection) -> None:
        """Nothing yet: the sessions are there first."""

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        async def do(task: Task[Row]) -> None:
            # Side by side, as none is killed here: the note takes no time of the slot.
            await asyncio.gather(log_run(backstage.pool, task), asyncio.sleep(task.data["seconds"]))

        return each(do)

    @classmethod
    def runner(cls, database: PostgresDatabase[Any], backstage: Backstage) -> RunningBlock:
        tasker, part = cls.tasker(backstage), backstage.part
        settings = [Settings(**{**QUICK, "concurrency": slots}) for slots in part.own["slots"]]
        return RunnerGroup(*(Runner(database, tasker, own, name=part.name) for own in settings))

    # What happens --------------------------------------------------------------------------------------------

    async def play(self, stage: Stage, cast: Cast, watch: Watch, say: Say) -> None:
        for sessions, lengths in self.lengths.items():
            there = await self._start(sessions, cast, watch)
            async with stage.pool.acquire() as connection, connection.transaction():
                keys = [row["id"] for row in await connection.fetch(ADD, lengths)]
                began_at = await connection.fetchval(WAKE, self.table.name)
            self.rounds.append(Round(sum(slots_of(sessions)), there, keys, lengths, began_at))
            say(f"{sessions} sessions are there, and {len(keys)} tasks are added")
            await watch.until(self._all_are_done, cast.check)
            say("they are done")
            await cast.stop()

    def _all_are_done(self, now: Seen) -> bool:
        return now.finished >= sum(len(each.tasks) for each in self.rounds)

    async def _start(self, sessions: int, cast: Cast, watch: Watch) -> list[int]:
        """Divided over the processes, and live."""
        slots, processes = slots_of(sessions), min(self.plan.runners, sessions)
        for number in range(processes):
            own = slice(sessions * number // processes, sessions * (number + 1) // processes)
            await cast.start(slots=slots[own])
        await watch.until(lambda now: len(_live(now)) == sessions, cast.check)
        await asyncio.sleep(SETTLED_AFTER)
        return _live(watch.now)

    # What came of it -----------------------------------------------------------------------------------------

    async def judge(self, stage: Stage, cast: Cast) -> BalanceVerdict:
        return BalanceVerdict(
            await recount(stage, self.table, cast),
            self.seed,
            [await _judge_round(stage.pool, each) for each in self.rounds],
        )


def slots_of(sessions: int) -> list[int]:
    """One each, and two for one of four."""
    return [2 if number % 4 == 0 else 1 for number in range(sessions)]


def _live(now: Seen) -> list[int]:
    return [session.id for session in now.sessions if not session.ended]


async def _judge_round(pool: Pool, played: Round) -> RoundVerdict:
    work = await pool.fetch(WORK, played.sessions)
    finished = await pool.fetchrow(FINISHED, played.tasks, played.began_at)
    assert finished is not None
    least = ideal(played.lengths, played.slots)
    seconds = finished["seconds"] if finished["tasks"] == len(played.tasks) else None
    return RoundVerdict(
        sessions=len(played.sessions),
        slots=played.slots,
        tasks=len(played.tasks),
        fairness=jain([row["seconds"] / row["capacity"] for row in work]),
        ideal_seconds=least,
        seconds=seconds,
        times=None if seconds is None else seconds / least,
        greedy=greedy(played.lengths, played.slots) / least,
    )


def ideal(lengths: list[float], slots: int) -> float:
    """Seconds in which so many slots do the tasks if all end at the same moment; but none is faster than the longest task."""
    return max(sum(lengths) / slots, *lengths)


def greedy(lengths: list[float], slots: int) -> float:
    """Seconds in which so many slots do the tasks in their order, if each begins the next one the moment that it is free."""
    free_at = [0.0] * slots
    for length in lengths:
        heapreplace(free_at, free_at[0] + length)
    return max(free_at)


@dataclass(frozen=True, slots=True)
class RoundVerdict:
    sessions: int
    slots: int
    tasks: int
    fairness: float
    """Jain's index of what each session has done, per capacity."""

    ideal_seconds: float
    """The larger of all work divided by the slots and of the longest task."""

    seconds: float | None
    """From when the tasks were there until the last one was finished; None: one is not."""

    times: float | None
    """The second divided by the first. Not rounded, as it is judged; nor is the fairness."""

    greedy: float
    """The same, were the tasks begun in their order, each the moment that a slot is free."""

    @property
    def good(self) -> bool:
        return self.fairness >= LEAST_FAIRNESS and self.times is not None and self.times <= MOST_TIMES

    def sentence(self) -> str:
        took = (
            "not all were finished"
            if self.times is None
            else f"{self.seconds:.1f} s, {self.times:.3f} times the ideal {self.ideal_seconds:.1f} s"
        )
        return (
            f"{self.sessions} sessions with {self.slots} slots, {self.tasks} tasks: {took} (in their order, without a pause between two: "
            f"{self.greedy:.3f}); fairness {self.fairness:.4f}."
        )


@dataclass(frozen=True, slots=True)
class BalanceVerdict(Verdict):
    scenario: ClassVar[str] = "balance"
    seed: int
    rounds: list[RoundVerdict]

    @property
    def good(self) -> bool:
        return self.course.complete and self.course.reruns == 0 and all(each.good for each in self.rounds)

    def sentences(self) -> list[str]:
        course = self.course
        result = (
            f"{course.finished} of {course.tasks} tasks are finished, {course.finished_twice or 'none'} of them twice, "
            f"{course.reruns or 'none'} run twice; of Jain's fairness {LEAST_FAIRNESS} are asked, and {MOST_TIMES:g} times the ideal time "
            f"allowed: {as_it_should_be(self.good)}."
        )
        return [result, *(each.sentence() for each in self.rounds), *course.sentences()]
