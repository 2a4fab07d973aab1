"""What came of the demo, by its tables: nothing here is believed because a runner says so.

(But for the number of refused finishes: what was refused was rolled back, so no table knows of it.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, ClassVar

from session_lock import TaskTable
from session_lock.cli.demo.cast import Cast, RunnerProcess, State
from session_lock.cli.demo.stage import SCHEMA, Place, Stage


def counts_of(table: str) -> str:
    """The query; `table` is a scenario's own, written with its schema."""
    return f"""
    SELECT (SELECT count(*) FROM {table}) AS tasks,
           (SELECT count(*) FROM {table} WHERE finished_at IS NOT NULL) AS finished,
           (SELECT count(*) FROM {SCHEMA}.run) AS runs,
           (SELECT count(*) FROM (SELECT FROM {SCHEMA}.run GROUP BY task HAVING count(*) > 1) AS r) AS reruns,
           (SELECT count(*) FROM (SELECT FROM {SCHEMA}.event WHERE what = 'finished' GROUP BY task HAVING count(*) > 1) AS e) AS finished_twice,
           (SELECT max(at) FROM {SCHEMA}.event WHERE what = 'finished') AS ended_at
    """


SESSIONS = f"""
SELECT s.id, split_part(s.label, ':', -1)::integer AS pid, s.started_at,
       (SELECT count(*) FROM {SCHEMA}.event AS e WHERE e.session = s.id AND e.what = 'finished') AS finished
  FROM {SCHEMA}.session AS s ORDER BY s.id
"""

# Of the sessions $1: the tasks that they had claimed and that nothing else had happened to by $2, and when it had happened
# to the last of them that somebody claimed it anew or finished it.
TAKEN_OVER = f"""
WITH held AS (
  SELECT c.task, c.token FROM {SCHEMA}.event AS c
   WHERE c.what = 'claimed' AND c.session = ANY ($1::bigint[])
     AND NOT EXISTS (SELECT FROM {SCHEMA}.event AS e
                      WHERE e.task = c.task AND e.at <= $2 AND (e.token > c.token OR e.token = c.token AND e.what <> 'claimed'))
)
SELECT count(*) AS held, extract(epoch FROM max(n.at) - $2)::double precision AS seconds
  FROM held AS h,
       LATERAL (SELECT min(e.at) AS at FROM {SCHEMA}.event AS e
                 WHERE e.task = h.task AND (e.token > h.token OR e.token = h.token AND e.what = 'finished')) AS n
"""


def jain(parts: Sequence[float]) -> float:
    """Jain's fairness index: 1 if all are equal, 1/n if one of n has all."""
    squares = sum(part**2 for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else 0.0


@dataclass(frozen=True, slots=True)
class RunnerVerdict:
    runner: str
    pid: int
    fate: str
    """stopped, killed, frozen (and thawed), or failed."""

    sessions: list[int]
    finished: int
    held_when_struck: int | None
    takeover_seconds: float | None
    """From the blow until the last of these tasks was claimed by another session, or finished."""

    refused: int


@dataclass(frozen=True, slots=True)
class Course:
    """How it went: what every scenario counts."""

    tasks: int
    finished: int
    runs: int
    reruns: int
    """Tasks that were run more than once."""

    finished_twice: int
    killed: int
    frozen: int
    refused: int
    takeover_seconds: float | None
    """The longest one."""

    seconds: float
    """From the start of the first runner to the last finish."""

    tasks_per_second: float
    per_runner: list[RunnerVerdict]

    @property
    def complete(self) -> bool:
        """Every task was finished, and none of them twice."""
        return self.finished == self.tasks and self.finished_twice == 0

    def sentences(self, *, lease_ttl: float | None = None) -> list[str]:
        lines = [
            f"{self.runs} runs in {self.seconds:.1f} s, {self.tasks_per_second:.0f} finished a second. {self.reruns} tasks ran more than once."
        ]
        for each in self.per_runner:
            if each.held_when_struck is not None:
                taken = (
                    ""
                    if each.takeover_seconds is None
                    else f", all taken over after {each.takeover_seconds:.1f} s"
                )
                lines.append(f"{each.runner} was {each.fate}: it held {each.held_when_struck} tasks{taken}.")
        if self.takeover_seconds is not None and lease_ttl is not None:
            lines.append(
                f"(A session lasts {lease_ttl:.0f} s after its last keepalive here; the default is 30.)"
            )
        if self.frozen:
            lines.append(f"{self.refused} finishes that came too late were refused.")
        return lines


@dataclass(frozen=True, slots=True)
class Verdict(ABC):
    """What a scenario adds to the course of things: the figures of its check, and whether it holds."""

    scenario: ClassVar[str]
    course: Course

    @property
    @abstractmethod
    def good(self) -> bool: ...

    @abstractmethod
    def sentences(self) -> list[str]:
        """For people."""

    def to_json(self) -> dict[str, Any]:
        """For programs: the name, the verdict, the figures of the check, the course of things."""
        figures = asdict(self)
        course = figures.pop("course")
        return {"scenario": self.scenario, "good": self.good, **figures, **course}


def as_it_should_be(good: bool) -> str:
    return "as it should be" if good else "THIS IS WRONG"


# By the tables ---------------------------------------------------------------------------------------------


async def recount(stage: Stage, table: TaskTable, cast: Cast) -> Course:
    counts = [row for place in stage.places for row in await place.pool.fetch(counts_of(table.table))]
    total = {
        name: sum(each[name] for each in counts)
        for name in ("tasks", "finished", "runs", "reruns", "finished_twice")
    }
    sessions = {place: await place.pool.fetch(SESSIONS) for place in stage.places}
    per_runner = [await _judge_runner(runner, sessions) for runner in cast.runners]
    takeovers = [each.takeover_seconds for each in per_runner if each.takeover_seconds is not None]
    ends: list[datetime] = [each["ended_at"] for each in counts if each["ended_at"] is not None]
    seconds = (max(ends, default=stage.opened_at) - stage.opened_at).total_seconds()
    return Course(
        **total,
        killed=_count(cast, State.KILLED),
        frozen=_count(cast, State.FROZEN),
        refused=sum(each.refused for each in per_runner),
        takeover_seconds=max(takeovers, default=None),
        seconds=round(seconds, 2),
        tasks_per_second=round(total["finished"] / seconds, 1) if seconds > 0 else 0.0,
        per_runner=per_runner,
    )


def _count(cast: Cast, what: State) -> int:
    return sum(runner.blow is not None and runner.blow.what is what for runner in cast.runners)


async def _judge_runner(runner: RunnerProcess, sessions: Mapping[Place, Sequence[Any]]) -> RunnerVerdict:
    own = {place: [each for each in there if each["pid"] == runner.pid] for place, there in sessions.items()}
    held = seconds = None
    if (blow := runner.blow) is not None:
        taken_over: list[Any] = []
        for place, there in own.items():
            struck = [each["id"] for each in there if each["started_at"] <= blow.at]
            taken_over += await place.pool.fetch(TAKEN_OVER, struck, blow.at)
        held = sum(row["held"] for row in taken_over)
        seconds = max((row["seconds"] for row in taken_over if row["seconds"] is not None), default=None)
    return RunnerVerdict(
        runner=runner.name,
        pid=runner.pid,
        fate=(blow.what if blow else runner.state).value,
        sessions=[each["id"] for there in own.values() for each in there],
        finished=sum(each["finished"] for there in own.values() for each in there),
        held_when_struck=held,
        takeover_seconds=None if seconds is None else round(seconds, 2),
        refused=runner.report.refused,
    )
