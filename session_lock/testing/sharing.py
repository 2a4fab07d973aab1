"""The shares of a `MemoryDatabase`: how many tasks a session may claim, who is asked for some, and what people are told of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from session_lock.explaining import Facts, SessionShare, explain
from session_lock.facts import Backlog
from session_lock.session import Lease
from session_lock.testing.accepting import MemoryAccepts
from session_lock.testing.limits import MemoryLimits
from session_lock.testing.rows import MemorySession, MemoryTask, divide
from session_lock.testing.sessions import MemorySessions

T = TypeVar("T")

ASKED_AGAIN = 0.2
"""Seconds between two times that a session is asked for tasks."""


ASKED_LATELY = 1.0
"""Seconds after somebody had nothing to do in which nobody claims ahead."""

ASKED_IN_VAIN = 1.0
"""The same, if it ran all that it held when it was heard of last."""


class MemoryShares(MemorySessions[T]):
    """Sessions that share a table of tasks. See `MemoryDatabase` for the arguments."""

    _limits: MemoryLimits[T]
    _accepts: MemoryAccepts[T]

    async def backlog(self, lease: Lease) -> Backlog | None:
        """As `PostgresDatabase.backlog`."""
        async with self._round_trip() as now:
            if lease.id != min(session.id for session in self._sessions.values() if session.live(now)):
                return None
            free = [
                row.available_at
                for row in self._open.values()
                if row.available_at <= now
                and (row.session_id is None or not self._sessions[row.session_id].live(now))
            ][:10_000]
            return Backlog(len(free), now - max(min(free, default=now), 0.0))

    async def shares(self) -> Sequence[SessionShare]:
        """As `PostgresDatabase.shares`."""
        async with self._round_trip() as now:
            held = Counter(row.session_id for row in self._due_rows(now))
            shown = [each for each in self._sessions.values() if not each.ended or held[each.id]]
            return explain([self._facts(each, held[each.id], now) for each in shown])

    def _due_rows(self, now: float) -> list[MemoryTask[T]]:
        return [row for row in self._open.values() if row.available_at <= now]

    def _sharing(self, now: float) -> dict[int, int]:
        """The capacities of the sessions that may be given work, by id."""
        if self._paused:
            return {}
        return {
            each.id: each.capacity
            for each in self._sessions.values()
            if not each.ended and each.expires_at > now and not each.draining
        }

    def _taken(self) -> list[MemoryTask[T]]:
        """What is held by sessions that have not ended."""
        return [
            row
            for row in self._open.values()
            if row.session_id is not None and not self._sessions[row.session_id].ended
        ]

    def _room(
        self,
        session: MemorySession,
        limit: int,
        held: int,
        due: Sequence[MemoryTask[T]],
        sharing: Mapping[int, int],
        *,
        onward: Sequence[MemoryTask[T]] | None,
        now: float,
        at_once: int | None,
        over_share: bool,
    ) -> tuple[int, int | None]:
        """How many tasks to claim, of those that are due (`onward`: only of these), and the share, if it was worked out."""
        want = max(0, min(limit, session.capacity - held)) if session.id in sharing else 0
        shared = len(sharing) > 1
        if shared and any(abs(now - self._sessions[id_].asked_at) <= ASKED_LATELY for id_ in sharing):
            want = want if at_once is None else min(want, at_once)
        if want == 0 or not shared:
            return want, None
        begun = want if at_once is None else min(want, at_once)
        if over_share:
            return begun, None
        total = sum(sharing.values())
        # To claim ahead there must be plenty for all.
        enough = total if begun < want else min(total, -(-(held + want) * total // session.capacity))
        if onward is not None and not self._limits.rules.any:  # not all of it is seen
            if len(onward) >= enough:
                return want, None
            held_by = Counter(row.session_id for row in onward)
            free = sum(n for id_, n in held_by.items() if id_ is None or self._sessions[id_].ended)
            if free == 0 or self._accepts.asks:
                return begun, None
            seen = len(onward) - free - held_by[session.id]
            running = sum(self._sessions[id_].running for id_ in sharing if id_ != session.id)
            share = divide(held + free + max(seen, running), sharing)[session.id]
            part = max(share - held, -(-free * session.capacity // total))
            return min(begun, part), held + part if part < free else None
        tasks = min(enough, self._limits.possible(due))
        if tasks in {0, enough}:  # nothing to share, or plenty
            return want, None
        share = self._share(session, tasks, due, sharing)
        return max(0, min(begun, share - held)), share

    def _share(
        self, session: MemorySession, tasks: int, due: Sequence[MemoryTask[T]], sharing: Mapping[int, int]
    ) -> int:
        """Of `tasks`; but where the mapping asks for versions, and has no limits, each of the due tasks is divided among those
        that may be given it.
        """
        if self._limits.rules.any or not self._accepts.asks:
            return divide(tasks, sharing).get(session.id, 0)
        return self._accepts.share(session, due, sharing, self._sessions)

    def _facts(self, session: MemorySession, held: int, now: float) -> Facts:
        sharing = self._sharing(now)
        rows = self._due_rows(now)
        free = [row for row in rows if row.session_id is None or not self._sessions[row.session_id].live(now)]
        due = list(self._accepts.of(session, rows))
        total, possible = sum(sharing.values()), self._limits.possible(due)
        tasks = min(total, possible)
        target = self._share(session, tasks, due[:total], sharing) if session.id in sharing else 0
        return Facts(
            session=session.id,
            label=session.label,
            app_version=session.app_version,
            state=session.state(now),
            capacity=session.capacity,
            target=min(target, session.capacity),
            held=held,
            running=session.running,
            tasks=tasks,
            free=bool(self._accepts.of(session, free)),
            unfit=bool(free) and not self._accepts.of(session, free),
            limited=possible < total and len(due) > possible,
            paused=self._paused,
            other_version=False,
            idle=session.idle,
            age=math.inf,
        )

    def _ask_for_tasks(
        self, session: MemorySession, own: int, sharing: Mapping[int, int], now: float
    ) -> None:
        """Those that hold more than their share are asked for what is above it, on behalf of one that has nothing to do."""
        rows = self._accepts.of(session, self._due_rows(now))  # no others are of use to it
        counts = Counter(row.session_id for row in rows)
        held = {id_: own if id_ == session.id else counts[id_] for id_ in sharing}
        for id_, share in divide(sum(held.values()), sharing).items():
            other = self._sessions[id_]
            pause = ASKED_AGAIN if other.running < held[id_] else ASKED_IN_VAIN
            if id_ != session.id and held[id_] > share and abs(now - other.asked_at) >= pause:
                other.give_back, other.asked_at = held[id_] - share, now
                self._tell(id_)
