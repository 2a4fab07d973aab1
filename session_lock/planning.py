"""Which runs a duty shall have: what its instances agree on with their database, and what each of them works out alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Literal, Protocol, TypeAlias

from session_lock.database import Database
from session_lock.schedules import Schedule
from session_lock.session import Lease

Missed: TypeAlias = Literal["once", "all", "skip"]

LATE = timedelta(minutes=1)
"""A due time that has passed no longer ago than this is late and not missed, whatever happened."""

MOST = 100
"""Runs of one duty that wait to be begun, at most."""


@dataclass(frozen=True, slots=True)
class Due:
    """What a duty is called for: one due time.

    ```python
    async def report(task: Task[Due]) -> None:
        print("the report of", task.data.due_at.date(), f"begun {task.data.late:.1f} s late")
    ```
    """

    name: str
    """The duty's."""
    due_at: datetime
    """In UTC. With the name it is the same for each attempt, and of no other run."""
    late: float = 0.0
    """Seconds from then until this attempt was handed out, by the database's clock."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a duty stands in the database."""

    name: str
    in_force: bool
    """Whether the schedule that was declared is the one that counts: the newest of those of the live sessions."""
    lapsed: bool
    """Nobody was there before to see what fell due."""
    since: datetime | None
    """From when on the schedule counts; if something is planned by it and it has lapsed: from when on nobody was there."""
    last_due: datetime | None
    """The last due time that is planned; None: none yet."""
    unbegun: Sequence[datetime]
    """The due times of runs that are due and were never begun, the latest first; no more than one above `MOST`."""
    at: datetime
    """The database's time of this answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one session declares of a duty, and the due times that shall have a run."""

    name: str
    schedule: str
    seen: Standing | None = None
    """The answer that the plan was made for; if it no longer holds, nothing is planned. None: only a declaration."""
    due: Sequence[datetime] = field(default=())


class DutyDatabase(Database[Due], Protocol):
    """A `Database` of runs, in which duties are planned."""

    async def plan_duties(self, lease: Lease, rank: int, plans: Sequence[Plan]) -> Sequence[Standing]:
        """Declare duties for a session, carry plans out, and say how the duties stand then, in any order.

        `rank` is the id of the first session of this process. A session is given runs of those duties alone that it has declared.
        Raises as the six verbs do.
        """
        ...


def plan(standing: Standing, schedule: Schedule, missed: Missed) -> Plan | None:
    """The due times that a duty in force lacks; None if it lacks none for now."""
    name, now, last = standing.name, standing.at, standing.last_due
    if not standing.in_force or (not standing.lapsed and last is not None and last > now):
        return None
    base = last or standing.since or now
    due: list[datetime]
    if standing.lapsed:
        due = _after_a_lapse(standing, schedule, base, missed)
    else:
        # Late, and not missed: each of them is run. Those for which there is no room now are planned later.
        room = max(0, MOST - len(standing.unbegun))
        due = list(islice(takewhile(lambda each: each <= now, schedule.due_times(base)), room))
        if len(due) == room:
            return Plan(name, schedule.text, standing, due) if due else None
    if last is None or last <= now:
        due = [*due, schedule.after(now)]
    return Plan(name, schedule.text, standing, due)


def _after_a_lapse(standing: Standing, schedule: Schedule, base: datetime, missed: Missed) -> list[datetime]:
    """What fell due while somebody was there is late: it stays if it is planned, and is planned if there is room. The rest was missed."""
    unseen = standing.since or base
    stays = {each for each in standing.unbegun if standing.last_due is not None and each <= unseen}
    room = max(0, MOST - len(stays))
    late = list(islice(takewhile(lambda each: each <= unseen, schedule.due_times(base)), room))
    rest = schedule.latest(late[-1] if late else base, standing.at, MOST)
    passed = sorted({*standing.unbegun, *rest} - stays)
    return [*late, *_of_the_missed(passed, standing.at, missed, room - len(late))]


def _of_the_missed(passed: list[datetime], now: datetime, missed: Missed, room: int) -> list[datetime]:
    match missed:
        case "all":
            return list(deque(passed, room))
        case "once":
            return passed[-1:]
        case "skip":
            return [each for each in passed[-1:] if now - each <= LATE]
