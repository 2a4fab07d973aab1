"""What came of the demo, by the tables and the files themselves: nothing here is believed because a runner says so.

(But for the number of refused finishes: what was refused was rolled back, so no table knows of it.)
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from session_lock.cli.demo_cast import Cast, RunnerProcess, State
from session_lock.cli.demo_runner import LEASE_TTL
from session_lock.cli.demo_table import SCHEMA, Connection, Listing, digest, look_at
from session_lock.cli.demo_watch import Watch

COUNTS = f"""
SELECT (SELECT count(*) FROM {SCHEMA}.file) AS tasks,
       (SELECT count(*) FROM {SCHEMA}.file WHERE finished_at IS NOT NULL) AS finished,
       (SELECT count(*) FROM {SCHEMA}.run) AS runs,
       (SELECT count(*) FROM (SELECT FROM {SCHEMA}.run GROUP BY file HAVING count(*) > 1) AS r) AS reruns,
       (SELECT count(*) FROM (SELECT FROM {SCHEMA}.event WHERE what = 'finished' GROUP BY file HAVING count(*) > 1) AS e) AS finished_twice,
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
  SELECT c.file, c.token FROM {SCHEMA}.event AS c
   WHERE c.what = 'claimed' AND c.session = ANY ($1::bigint[])
     AND NOT EXISTS (SELECT FROM {SCHEMA}.event AS e
                      WHERE e.file = c.file AND e.at <= $2 AND (e.token > c.token OR e.token = c.token AND e.what <> 'claimed'))
)
SELECT count(*) AS held, extract(epoch FROM max(n.at) - $2)::double precision AS seconds
  FROM held AS h,
       LATERAL (SELECT min(e.at) AS at FROM {SCHEMA}.event AS e
                 WHERE e.file = h.file AND (e.token > h.token OR e.token = h.token AND e.what = 'finished')) AS n
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
class Verdict:
    tasks: int
    finished: int
    runs: int
    reruns: int
    """Tasks that were run more than once."""

    wrong_digests: int
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
    changed_files: int

    @property
    def good(self) -> bool:
        return self.finished == self.tasks and self.wrong_digests == 0 and self.finished_twice == 0

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "changed_files"}

    def sentences(self) -> list[str]:
        lines = [
            f"{self.finished} of {self.tasks} files are finished, {self.finished_twice or 'none'} of them twice, {self.wrong_digests or 'none'} with a wrong digest: {'as it should be' if self.good else 'THIS IS WRONG'}.",
            f"{self.runs} runs in {self.seconds:.1f} s, {self.tasks_per_second:.0f} finished a second. {self.reruns} tasks ran more than once.",
        ]
        for each in self.per_runner:
            if each.held_when_struck is not None:
                taken = (
                    ""
                    if each.takeover_seconds is None
                    else f", all taken over after {each.takeover_seconds:.1f} s"
                )
                lines.append(f"{each.runner} was {each.fate}: it held {each.held_when_struck} tasks{taken}.")
        if self.takeover_seconds is not None:
            lines.append(
                f"(A session lasts {LEASE_TTL:.0f} s after its last keepalive here; the default is 30.)"
            )
        if self.frozen:
            lines.append(f"{self.refused} finishes that came too late were refused.")
        if self.changed_files:
            lines.append(f"{self.changed_files} files changed meanwhile; their digests were not compared.")
        return lines


async def judge(connection: Connection, files: Listing, cast: Cast, watch: Watch) -> Verdict:
    counts = await connection.fetchrow(COUNTS)
    assert counts is not None
    assert watch.started_at is not None
    wrong, changed = await _compare(connection, files)
    sessions = await connection.fetch(SESSIONS)
    per_runner = [await _judge_runner(connection, runner, sessions) for runner in cast.runners]
    takeovers = [each.takeover_seconds for each in per_runner if each.takeover_seconds is not None]
    ended_at: datetime = counts["ended_at"] or watch.started_at
    seconds = (ended_at - watch.started_at).total_seconds()
    return Verdict(
        **{name: counts[name] for name in ("tasks", "finished", "runs", "reruns", "finished_twice")},
        wrong_digests=wrong,
        killed=_count(cast, State.KILLED),
        frozen=_count(cast, State.FROZEN),
        refused=sum(each.refused for each in per_runner),
        takeover_seconds=max(takeovers, default=None),
        seconds=round(seconds, 2),
        tasks_per_second=round(counts["finished"] / seconds, 1) if seconds > 0 else 0.0,
        per_runner=per_runner,
        changed_files=changed,
    )


def _count(cast: Cast, what: State) -> int:
    return sum(runner.blow is not None and runner.blow.what is what for runner in cast.runners)


async def _compare(connection: Connection, files: Listing) -> tuple[int, int]:
    """How many digests are wrong, and how many files are not what they were at the beginning, so that nobody can say."""
    rows = await connection.fetch(f"SELECT path, digest FROM {SCHEMA}.file")
    stored = {row["path"]: row["digest"] for row in rows}
    wrong = changed = 0
    for file in files.files:
        if stored.get(file.path) != await asyncio.to_thread(digest, file.path):
            if look_at(file.path) == file:
                wrong += 1
            else:
                changed += 1
    return wrong, changed


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
