"""The rows of a `MemoryDatabase`: tasks, failures, sessions; and how sessions divide tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Generic, TypeVar
from uuid import UUID

from session_lock.database import ALONE_AFTER, SESSION_EXPIRED
from session_lock.tasks import TaskKey
from session_lock.testing.transaction import MemoryTransaction

T = TypeVar("T")


FAILURES_KEPT = 20


class Closed(StrEnum):
    """Why a task is not pending.

    ```python
    database = MemoryDatabase({1: "ann@example.org"})
    await run_until_idle(database, each(send))
    assert database[1].closed is Closed.FINISHED
    ```
    """

    FINISHED = "finished"
    DISCARDED = "discarded"
    BY_APPLICATION = "closed by the application"


@dataclass(frozen=True, slots=True)
class MemoryFailure:
    """One thing that went wrong with a task. `at` is the loop's time, in seconds.

    ```python
    async def fail(task):
        raise ConnectionError("no route to the mail server")

    database = MemoryDatabase({1: "ann@example.org"})
    await run_until_idle(database, each(fail))
    (failure,) = database.failures[1]
    assert (failure.attempt, failure.error) == (1, "ConnectionError: no route to the mail server")
    ```
    """

    attempt: int
    at: float
    session_id: int | None
    error: str


@dataclass(slots=True)
class MemoryTask(Generic[T]):
    """One task: the user's row and the four columns of its claim.

    ```python
    task = MemoryDatabase({1: "ann@example.org"})[1]
    assert (task.pending, task.session_id, task.attempts) == (True, None, 0)
    ```
    """

    key: TaskKey
    data: T | Exception = field(repr=False)
    available_at: float
    """The loop's time before which it is not claimed; `inf` is parked."""
    session_id: int | None = None
    token: int = 0
    attempts: int = 0
    closed: Closed | None = None
    failures: list[MemoryFailure] = field(default_factory=list, repr=False)
    locked_by: MemoryTransaction | None = field(default=None, repr=False)

    @property
    def pending(self) -> bool:
        """Neither finished nor discarded."""
        return self.closed is None

    @property
    def locked(self) -> bool:
        """By a transaction that is open."""
        return self.locked_by is not None and self.locked_by.open

    @property
    def order(self) -> tuple[float, Any]:
        """By what it is claimed: when it is due, then its key."""
        return self.available_at, self.key

    def due(self, now: float) -> bool:
        """Whether it is pending, and may be claimed at `now`, in seconds of the loop's clock."""
        return self.pending and self.available_at <= now

    @property
    def suspect(self) -> bool:
        """Whether its session expired under it so often that it is to be run alone."""
        return sum(failure.error == SESSION_EXPIRED for failure in self.failures) >= ALONE_AFTER

    def note(self, failure: MemoryFailure) -> None:
        """Keep what went wrong, and the newest 20 in all."""
        self.failures.append(failure)
        del self.failures[:-FAILURES_KEPT]

    def take_attempt_back(self) -> None:
        """The one that was counted last does not count."""
        self.attempts = max(0, self.attempts - 1)

    def refusal(self, hook: Callable[[TaskKey, T], str | None] | None) -> str | None:
        """Why its row, as `hook` says, refuses to be closed; None: it does not."""
        return None if hook is None or isinstance(self.data, Exception) else hook(self.key, self.data)


@dataclass(slots=True)
class MemorySession:
    """One session, and what others ask of it. Times are the loop's, in seconds.

    ```python
    database = MemoryDatabase({1: "ann@example.org"})
    await run_until_idle(database, each(send))
    (session,) = database.sessions
    assert session.ended
    ```
    """

    id: int
    nonce: UUID = field(repr=False)
    capacity: int
    expires_at: float
    label: str
    app_version: str
    ended: bool = False
    expired: bool = False
    """Whether it was ended by others, since its lease had run out."""
    draining: bool = False
    idle: bool = False
    """Its last look left it with room."""
    drain_requested: bool = False
    give_back: int = 0
    asked_at: float = -math.inf
    running: int = 0
    """Tasks in calls of its tasker, at its last keepalive."""
    cancel_keys: tuple[str, ...] = ()
    transactions: list[MemoryTransaction] = field(default_factory=list, repr=False)

    def live(self, now: float) -> bool:
        """Whether it has not ended, and its lease runs at `now`, in seconds of the loop's clock."""
        return not self.ended and self.expires_at > now

    def state(self, now: float) -> str:
        """live, draining, expired or ended, at `now`, in seconds of the loop's clock."""
        if self.ended:
            return "ended"
        if not self.live(now):
            return "expired"
        return "draining" if self.draining else "live"

    def forget_cancelled(self, held: Collection[Any]) -> None:
        """What it was asked to cancel and does not hold (any more)."""
        keys = {str(key) for key in held}
        self.cancel_keys = tuple(key for key in self.cancel_keys if key in keys)

    @property
    def in_transaction(self) -> bool:
        """Whether one of its finishing transactions is open."""
        return any(transaction.open for transaction in self.transactions)


def divide(tasks: int, capacities: Mapping[int, int]) -> Mapping[int, int]:
    """By capacity, in whole numbers, by the largest remainder, ties to the lower id: 4 on 3 equal sessions are 2, 1, 1."""
    return _divide(tasks, tuple(capacities.items()))


@lru_cache  # of hundreds of sessions most find the same in a moment
def _divide(tasks: int, items: tuple[tuple[int, int], ...]) -> dict[int, int]:
    capacities = dict(items)
    total = sum(capacities.values())
    shares = {id_: tasks * capacity // total for id_, capacity in capacities.items()}
    if left := tasks - sum(shares.values()):
        by_remainder = sorted((-(tasks * capacity % total), id_) for id_, capacity in capacities.items())
        for _, id_ in by_remainder[:left]:
            shares[id_] += 1
    return shares
