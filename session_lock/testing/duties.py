"""`MemoryDuties`: the runs of duties in memory, for tests in virtual time.

It does what `sql/duties.alwaysup.sql` does. Its time of day is the loop's time after a moment that you name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

from session_lock.database import Claim
from session_lock.errors import SettingsError
from session_lock.planning import MOST, Due, Plan, Standing
from session_lock.session import Lease
from session_lock.testing.accepting import MemoryAccepts
from session_lock.testing.memory import MemoryDatabase
from session_lock.testing.rows import Closed, MemorySession, MemoryTask


@dataclass(slots=True)
class _Duty:
    """What is planned of a duty."""

    schedule: str | None = None
    since: datetime | None = None
    last_due: datetime | None = None


@dataclass(slots=True)
class _Declaration:
    """What one session says of a duty."""

    rank: int
    schedule: str
    declared_at: datetime
    watches: bool = False


class _Declared(MemoryAccepts[Due]):
    """A session is given runs of those duties alone that it has declared."""

    def __init__(self, declared: Mapping[str, Collection[int]]) -> None:
        super().__init__(None)
        self._declared = declared

    @property
    def asks(self) -> bool:
        return True

    def needed(self, row: MemoryTask[Due]) -> str:
        return _due(row).name

    def suits(self, session: MemorySession, needed: str | None) -> bool:
        return session.id in self._declared.get(needed or "", ())


class MemoryDuties(MemoryDatabase[Due]):
    """A database for `Duties` in the memory of one process. `start` is the time of day at the loop's time 0.

    Without a zone it is in UTC. A test of days is quick if little happens in between: `Settings(poll_interval=600,
    keepalive_interval=600, lease_ttl=3600)`.

    ```python
    database = MemoryDuties(datetime(2026, 6, 1, 3, 29, tzinfo=UTC))
    async with Duties(database, Duty("nightly-report", cron("30 3 * * *"), report)):
        await asyncio.sleep(120)
    assert [run.data.due_at.hour for run in database.runs if not run.pending] == [3]
    ```
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1)) -> None:  # noqa: DTZ001 (made aware right here)
        given: object = start
        if not isinstance(given, datetime):
            raise SettingsError(
                f"start of MemoryDuties is a datetime, such as datetime(2026, 1, 1, tzinfo=UTC), not {given!r}"
            )
        super().__init__(name="duties")
        self._start = start.astimezone(UTC) if start.tzinfo else start.replace(tzinfo=UTC)
        self._duties: defaultdict[str, _Duty] = defaultdict(_Duty)
        self._declared: defaultdict[str, dict[int, _Declaration]] = defaultdict(dict)
        self._accepts = _Declared(self._declared)
        self._ended_at: dict[int, float] = {}
        self._keys = count(1)

    def now(self) -> datetime:
        """The time of day."""
        return self._start + timedelta(seconds=self.clock())

    @property
    def runs(self) -> list[MemoryTask[Due]]:
        """All that were planned and not withdrawn, in the order of their due times."""
        return sorted(self._tasks.values(), key=lambda run: (_due(run).due_at, _due(run).name))

    def expire(self, session_id: int) -> None:
        """The session's lease runs out now."""
        self._sessions[session_id].expires_at = self.clock()

    async def end_session(self, lease: Lease, claims: Sequence[Claim]) -> None:
        await super().end_session(lease, claims)
        self._ended_at.setdefault(lease.id, self.clock())

    async def plan_duties(self, lease: Lease, rank: int, plans: Sequence[Plan]) -> Sequence[Standing]:
        async with self._round_trip() as now:
            self._hold(lease, now)
            standings = [self._plan(lease, min(rank, lease.id), plan) for plan in plans]
            self._forget(now)
        return standings

    # What they are made of ----------------------------------------------------------------------------------

    def _plan(self, lease: Lease, rank: int, plan: Plan) -> Standing:
        now, duty, declared = self.now(), self._duties[plan.name], self._declared[plan.name]
        mine = declared.setdefault(lease.id, _Declaration(rank, plan.schedule, now))
        live = {id_: each for id_, each in declared.items() if self._sessions[id_].live(self.clock())}
        watched = any(each.watches for each in live.values())
        speaking = {
            id_: each for id_, each in live.items() if id_ == lease.id or not self._sessions[id_].draining
        }
        first = max(speaking, key=lambda id_: (speaking[id_].rank, id_))
        in_force = speaking[first].schedule == plan.schedule
        if in_force:
            if duty.schedule != plan.schedule:
                self._withdraw(run for run in self._unbegun(plan.name) if _due(run).due_at > now)
                ends = [
                    self._end(id_)
                    for id_, each in declared.items()
                    if each.rank > mine.rank and each.schedule != plan.schedule
                ]
                duty.schedule, duty.since, duty.last_due = plan.schedule, max([mine.declared_at, *ends]), None
            unseen = None if watched else self._unseen(duty, declared)
            if plan.seen and plan.seen.lapsed is not watched and plan.seen.last_due == duty.last_due:
                self._carry_out(plan, duty, unseen, watched=watched)
                watched = True
        mine.watches = mine.watches or watched
        passed = (
            [_due(run).due_at for run in self._unbegun(plan.name) if _due(run).due_at <= now]
            if in_force
            else []
        )
        unbegun = sorted(passed, reverse=True)[: MOST + 1]
        return Standing(plan.name, in_force, not watched, duty.since, duty.last_due, unbegun, now)

    def _unseen(self, duty: _Duty, declared: Mapping[int, _Declaration]) -> datetime | None:
        """From when on nobody was there: what fell due before that is late, and not missed."""
        ends = [self._end(id_) for id_, each in declared.items() if each.watches]
        if duty.since is not None and duty.last_due is not None:
            ends.append(duty.since)
            duty.since = max(ends)
        return max(ends, default=None)

    def _carry_out(self, plan: Plan, duty: _Duty, unseen: datetime | None, *, watched: bool) -> None:
        now = self.now()
        if not watched:
            unbegun = [run for run in self._unbegun(plan.name) if _due(run).due_at <= now]
            missed = [run for run in unbegun if unseen is None or _due(run).due_at > unseen]
            self._withdraw(run for run in missed if _due(run).due_at not in plan.due)
        there = {_due(run).due_at for run in self.runs if _due(run).name == plan.name}
        for due in sorted(set(plan.due) - there):
            self.add(next(self._keys), Due(plan.name, due), available_at=self._at(due))
        duty.last_due = max([each for each in (duty.last_due, *plan.due) if each], default=None)

    def _forget(self, now: float) -> None:
        """What nobody has declared for a day."""
        for name in list(self._duties):
            if any(
                self._end(id_) > self.now() - timedelta(days=1) or self._sessions[id_].live(now)
                for id_ in self._declared[name]
            ):
                continue
            pending = [run for run in self.runs if _due(run).name == name and run.pending]
            self._withdraw(run for run in pending if self._is_unbegun(run))
            for run in pending:
                if not self._is_unbegun(run) and self._is_nobodys(run):
                    self._close(run, Closed.DISCARDED)
            del self._duties[name], self._declared[name]

    def _unbegun(self, name: str) -> list[MemoryTask[Due]]:
        return [run for run in self.runs if _due(run).name == name and run.pending and self._is_unbegun(run)]

    def _is_unbegun(self, run: MemoryTask[Due]) -> bool:
        return run.token == 0

    def _is_nobodys(self, run: MemoryTask[Due]) -> bool:
        return run.session_id is None or self._sessions[run.session_id].ended

    def _withdraw(self, runs: Iterable[MemoryTask[Due]]) -> None:
        for run in list(runs):
            self.remove_row(run.key)

    def _end(self, session_id: int) -> datetime:
        """When a session ended, or now."""
        at = min(
            self._ended_at.get(session_id, self.clock()), self._sessions[session_id].expires_at, self.clock()
        )
        return self._start + timedelta(seconds=at)

    def _at(self, due: datetime) -> float:
        return (due - self._start).total_seconds()


def _due(run: MemoryTask[Due]) -> Due:
    assert isinstance(run.data, Due)
    return run.data
