"""What came of the demo, by its tables: nothing here is believed because a runner says so.

(But for the number of refused finishes: what was refused was rolled back, so no table knows of it.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, ClassVar

from session_lock import TaskTable
from session_lock.cli.demo.access import Connection
from session_lock.cli.demo.cast import Cast, RunnerProcess, State
from session_lock.cli.demo.stage import SCHEMA
from session_lock.cli.demo.watch import Watch


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
        figures = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "course"}
        return {"scenario": self.scenario, "good": self.good, **figures, **asdict(self.course)}


def as_it_should_be(good: bool) -> str:
    return "as it should be" if good else "THIS IS WRONG"


# By the tables ---------------------------------------------------------------------------------------------


async def recount(connection: Connection, table: TaskTable, cast: Cast, watch: Watch) -> Course:
    counts = await connection.fetchrow(counts_of(table.table))
    assert counts is not None
    assert watch.started_at is not None
    sessions = await connection.fetch(SESSIONS)
    per_runner = [await _judge_runner(connection, runner, sessions) for runner in cast.runners]
    takeovers = [each.takeover_seconds for each in per_runner if each.takeover_seconds is not None]
    ended_at: datetime = counts["ended_at"] or watch.started_at
    seconds = (ended_at - watch.started_at).total_seconds()
    return Course(
        **{name: counts[name] for name in ("tasks", "finished", "runs", "reruns", "finished_twice")},
        killed=_count(cast, State.KILLED),
        frozen=_count(cast, State.FROZEN),
        refused=sum(each.refused for each in per_runner),
        takeover_seconds=max(takeovers, default=None),
        seconds=round(seconds, 2),
        tasks_per_second=round(counts["finished"] / seconds, 1) if seconds > 0 else 0.0,
        per_runner=per_runner,
    )


def _count(cast: Cast, what: State) -> int:
    return sum(runner.blow is not None and runner.blow.what is what for runner in cast.runners)


async def _judge_runner(connection: Connection, runner: RunnerProcess, sessions: list[Any]) -> RunnerVerdict:
    own = [session for session in sessions if session["pid"] == runner.pid]
    held = seconds = None
    if runner.blow is not None:
        struck = [session["id"] for session in own if session["started_at"] <= runner.blow.at]
        row = await connection.fetchrow(TAKEN_OVER, struck, runner.blow.at)
        assert row is not None
        held, seconds = row["held"], row["seconds"]
    return RunnerVerdict(
        runner=runner.name,
        pid=runner.pid,
        fate=(runner.blow.what if runner.blow else runner.state).value,
        sessions=[session["id"] for session in own],
        finished=sum(session["finished"] for session in own),
        held_when_struck=held,
        takeover_seconds=None if seconds is None else round(seconds, 2),
        refused=runner.report.refused,
    )
