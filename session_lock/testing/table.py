"""The table of a `MemoryDatabase`: what the application does to its rows, and what becomes of claims."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

from session_lock.database import Cancellation, Claim, Handback, Outcome, Settled
from session_lock.errors import RowRefusedError, SettingsError
from session_lock.session import Lease
from session_lock.tasks import TaskKey
from session_lock.testing.rows import Closed, MemoryFailure, MemorySession, MemoryTask
from session_lock.testing.transaction import MemoryTransaction

T = TypeVar("T")

ERROR_LENGTH = 4000


def _pairs(rows: Mapping[Any, T] | Iterable[tuple[TaskKey, T]]) -> dict[TaskKey, T]:
    given: Any = rows
    pairs = (
        [*given.items()] if isinstance(given, Mapping) else [*given] if isinstance(given, Iterable) else None
    )
    if pairs is None or isinstance(given, str) or any(not _is_pair(each) for each in pairs):
        raise SettingsError(
            "the rows of a MemoryDatabase are keys and data: {1: data, 2: data}, or [(1, data), (2, data)]"
        )
    return dict(pairs)


def _is_pair(given: object) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2


class MemoryTable(Generic[T]):
    """Tasks in memory, as the application and people see them. See `MemoryDatabase` for the arguments."""

    def __init__(
        self,
        rows: Mapping[Any, T] | Iterable[tuple[TaskKey, T]],
        *,
        refuse: Callable[[TaskKey, T], str | None] | None,
        refuse_discard: Callable[[TaskKey, T], str | None] | None,
        discards: bool,
    ) -> None:
        self._refuse = refuse
        self._refuse_discard = refuse_discard
        self._discards = discards
        self._tasks: dict[TaskKey, MemoryTask[T]] = {}
        self._open: dict[TaskKey, MemoryTask[T]] = {}  # of these: pending
        self._removed: dict[TaskKey, int] = {}  # the last tokens of rows that are gone
        self._wakes: dict[object, Callable[[], None]] = {}
        self._told: dict[int, Callable[[], None]] = {}  # by session
        self._finished: list[TaskKey] = []
        for key, data in _pairs(rows).items():
            self.add(key, data, available_at=-math.inf)

    def clock(self) -> float:
        """The one clock of all leases and due times."""
        return asyncio.get_running_loop().time()

    def add(
        self,
        key: TaskKey,
        data: T | Exception,
        *,
        available_at: float | None = None,
        after: float | None = None,
    ) -> None:
        """Insert a pending row, and wake the Runners. It is due at once, or `after` seconds, or `available_at` (the loop's
        time).
        """
        if key in self._tasks:
            raise ValueError(f"there is a task {key!r} already")
        row = MemoryTask(key, data, self._due(available_at, after), token=self._removed.pop(key, 0))
        self._tasks[key] = self._open[key] = row
        self._wake()

    @asynccontextmanager
    async def listening(
        self, wake: Callable[[], None], *, lease: Lease | None = None, asked: Callable[[], None] | None = None
    ) -> AsyncIterator[None]:
        """Within the block `wake` is called whenever a row is added, opened again or handed over; `asked` as the protocol says."""
        token = object()
        self._wakes[token] = wake
        if lease is not None and asked is not None:
            self._told[lease.id] = asked
        try:
            yield
        finally:
            del self._wakes[token]
            if lease is not None:
                self._told.pop(lease.id, None)

    def _tell(self, session_id: int) -> None:
        """Something is asked of the session."""
        if session_id in self._told:
            self._told[session_id]()

    def _wake(self) -> None:
        for wake in list(self._wakes.values()):
            wake()

    def _due(self, available_at: float | None, after: float | None) -> float:
        if available_at is not None:
            return available_at
        try:
            return self.clock() + (after or 0)
        except RuntimeError:  # no loop is running: since ever
            if after is not None:
                raise
            return -math.inf

    def close_row(self, key: TaskKey) -> None:
        """The application itself makes the row non-pending, whoever holds it."""
        self._tasks[key].closed = Closed.BY_APPLICATION
        self._open.pop(key, None)

    def reopen_row(self, key: TaskKey) -> None:
        """The application makes the row pending again, and wakes the Runners."""
        self._tasks[key].closed = None
        self._open[key] = self._tasks[key]
        self._wake()

    def remove_row(self, key: TaskKey) -> None:
        """The application deletes the row."""
        self._removed[key] = self._tasks.pop(key).token
        self._open.pop(key, None)

    @contextmanager
    def lock(self, key: TaskKey) -> Iterator[None]:
        """Somebody's transaction has the row locked as long as the block runs."""
        row, transaction = self._tasks[key], MemoryTransaction()
        row.locked_by, before = transaction, row.locked_by
        try:
            yield
        finally:
            row.locked_by = before

    def __getitem__(self, key: TaskKey) -> MemoryTask[T]:
        return self._tasks[key]

    @property
    def finished(self) -> list[TaskKey]:
        """The keys that were finished, in that order; one that was opened again and finished again stands there twice."""
        return list(self._finished)

    @property
    def pending(self) -> list[TaskKey]:
        """The keys of what is still to do, in the order in which it is claimed; without what is parked."""
        return [row.key for row in self._in_order(self._open.values()) if row.available_at < math.inf]

    @property
    def parked(self) -> list[TaskKey]:
        """The keys of what is pending but will not run again by itself."""
        return [row.key for row in self._in_order(self._open.values()) if row.available_at == math.inf]

    @property
    def discarded(self) -> list[TaskKey]:
        """The keys of what was given up, in the order in which it was claimed."""
        return [row.key for row in self._in_order(self._tasks.values()) if row.closed is Closed.DISCARDED]

    @property
    def failures(self) -> dict[TaskKey, list[MemoryFailure]]:
        """What went wrong, by key; the newest 20 of each task, oldest first."""
        return {row.key: list(row.failures) for row in self._tasks.values() if row.failures}

    # What becomes of a claim, as in `sql/tasks.alwaysup.sql` ---------------------------------------------------

    def _in_order(self, rows: Iterable[MemoryTask[T]]) -> list[MemoryTask[T]]:
        """In claim order."""
        return sorted(rows, key=self._place)

    def _place(self, row: MemoryTask[T]) -> tuple[float, Any]:
        return row.order

    def _position(self, row: MemoryTask[T]) -> str:
        return json.dumps([self._place(row)[0], str(row.key)])

    def _between(
        self, rows: Iterable[MemoryTask[T]], position: str | None, until: str | None
    ) -> list[MemoryTask[T]] | None:
        """What stands from one position to the other; None without both."""
        if (position is None and until is None) or not self._tasks:
            return None
        start, end = self._placed(position, -math.inf), self._placed(until, math.inf)
        return [row for row in rows if start <= self._place(row) <= end]

    def _placed(self, position: str | None, otherwise: float) -> tuple[float, Any] | tuple[float]:
        if position is None:
            return (otherwise,)
        available_at, key = json.loads(position)
        return available_at, type(next(iter(self._tasks)))(key)

    def _next_due(self, rows: Iterable[MemoryTask[T]], now: float) -> float | None:
        later = [row.available_at for row in rows if now < row.available_at < math.inf]
        return min(later) - now if later else None

    def _standing(self, session: MemorySession, claim: Claim) -> str:
        """Where a claim stands: held, closed, free, finished, lost, locked or unknown."""
        row = self._tasks.get(claim.key)
        if row is None:
            return "unknown"
        if row.locked:
            return "locked"
        if row.token != claim.token:
            return "lost"
        if row.session_id == session.id:
            return "held" if row.pending else "closed"
        if row.session_id is None:
            return "free" if row.pending else "finished"
        return "lost"

    def _finish(self, session: MemorySession, claim: Claim) -> Settled:
        standing = self._standing(session, claim)
        match standing:
            case "held":
                row = self._tasks[claim.key]
                if error := row.refusal(self._refuse):
                    return Settled(claim.key, Outcome.REFUSED, error)
                self._close(row, Closed.FINISHED)
                return Settled(claim.key, Outcome.FINISHED)
            case "finished":
                return Settled(claim.key, Outcome.ALREADY_YOURS)
            case "closed":
                self._tasks[claim.key].session_id = None
                return Settled(claim.key, Outcome.LOST)
            case "free":
                return Settled(claim.key, Outcome.LOST)
        return Settled(claim.key, Outcome(standing))

    def _close(self, row: MemoryTask[T], how: Closed) -> None:
        row.closed, row.session_id = how, None
        self._open.pop(row.key, None)
        if how is Closed.FINISHED:
            self._finished.append(row.key)

    def _discard(self, row: MemoryTask[T], now: float, reason: str) -> Cancellation:
        """Give up a task that nobody runs."""
        if self._discards and (refusal := row.refusal(self._refuse_discard)):
            raise RowRefusedError(refusal)
        row.note(MemoryFailure(row.attempts, now, None, reason))
        row.session_id = None
        if self._discards:
            self._close(row, Closed.DISCARDED)
            return Cancellation.DISCARDED
        row.available_at = math.inf
        return Cancellation.PARKED

    def _release(self, session: MemorySession, handback: Handback, now: float) -> Settled:
        key = handback.claim.key
        standing = self._standing(session, handback.claim)
        match standing:
            case "held":
                if str(key) in session.cancel_keys and handback.after != math.inf:
                    handback = replace(handback, discard=True, error=handback.error or "cancelled on request")
                settled = self._give_back(self._tasks[key], handback, now)
                if settled.outcome is not Outcome.REFUSED:
                    session.forget_cancelled(set(session.cancel_keys) - {str(key)})
                return settled
            case "finished" | "free":
                return Settled(key, Outcome.ALREADY_YOURS)
            case "closed":
                self._tasks[key].session_id = None
                return Settled(key, Outcome.LOST)
        return Settled(key, Outcome(standing))

    def _give_back(self, row: MemoryTask[T], handback: Handback, now: float) -> Settled:
        if handback.discard and self._discards and (refusal := row.refusal(self._refuse_discard)):
            return Settled(row.key, Outcome.REFUSED, refusal)
        if handback.error is not None and row.session_id is not None:
            row.note(MemoryFailure(row.attempts, now, row.session_id, handback.error[:ERROR_LENGTH]))
        if handback.discard and self._discards:
            self._close(row, Closed.DISCARDED)
            return Settled(row.key, Outcome.DISCARDED)
        row.session_id = None
        if handback.discard:
            row.available_at = math.inf
            return Settled(row.key, Outcome.PARKED)
        if handback.give_back_attempt:
            row.take_attempt_back()
        if handback.after is not None:
            row.available_at = now + handback.after
        return Settled(row.key, Outcome.PARKED if handback.after == math.inf else Outcome.RELEASED)
