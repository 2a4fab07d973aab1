"""`Outbox`: verdicts on tasks, on their way to the database."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable
from itertools import repeat
from typing import Generic, TypeAlias, TypeVar

from session_lock.tasks import Finish, IfCommitted, Task, TaskKey, Verdict

T = TypeVar("T")

Settlement: TypeAlias = tuple[Task[T], Verdict]

FINISHED, IF_COMMITTED = Finish(), IfCommitted()

AT_ONCE = 1000
"""Verdicts in one call, at most."""

LOCKED_PAUSE = 0.05
"""Seconds before a row is tried again that somebody had locked."""


class Outbox(Generic[T]):
    """Who takes verdicts out records them, or puts them back. Verdicts may be put in from any thread."""

    def __init__(self) -> None:
        self.filled: asyncio.Event = asyncio.Event()
        """There is something to take, or to wait for in another way."""
        self.in_transactions: set[Task[T]] = set()
        """Of running calls: finished in a transaction of the tasker's own, of whose commit nobody tells."""
        self._finished: deque[Settlement[T]] = deque()
        self._others: deque[Settlement[T]] = deque()
        self._later: list[Settlement[T]] = []
        self._later_at = 0.0
        self._in_trouble = False  # a call has failed

    def __bool__(self) -> bool:
        return bool(self._finished or self._others or self._later)

    def put(self, task: Task[T], verdict: Verdict) -> None:
        (self._finished if isinstance(verdict, Finish) else self._others).append((task, verdict))

    def put_finished(self, tasks: Collection[Task[T]]) -> None:
        """Accomplished, as their call says."""
        if self.in_transactions and (doubtful := self.in_transactions.intersection(tasks)):
            self._others.extend(zip(doubtful, repeat(IF_COMMITTED)))
            tasks = [task for task in tasks if task not in doubtful]
        self._finished.extend(zip(tasks, repeat(FINISHED)))

    def put_back(self, settlements: Iterable[Settlement[T]]) -> None:
        """The call has failed. They come behind the others, so that they hold up none of them."""
        self._in_trouble = True
        for task, verdict in settlements:
            self.put(task, verdict)
        self.filled.set()

    def put_off(self, settlements: Iterable[Settlement[T]]) -> None:
        """The rows could not be written now: they are tried again a little later, and hold up no others."""
        self._later.extend(settlements)
        if self._later:
            self._later_at = asyncio.get_running_loop().time() + LOCKED_PAUSE
            self.filled.set()

    def recovered(self) -> None:
        """A call has succeeded."""
        self._in_trouble = False

    def wait(self) -> float | None:
        """For how many seconds the next one is put off; None if none is."""
        if not self._later:
            return None
        return max(0.001, self._later_at - asyncio.get_running_loop().time())

    def take(self, most: int = AT_ONCE) -> list[Settlement[T]]:
        """The next ones, each key once, as a call of the database wants it; before them what was put off and is due."""
        taken: list[Settlement[T]] = []
        if asyncio.get_running_loop().time() >= self._later_at:
            taken, self._later = self._later, taken
        keys = {task.key for task, _ in (*taken, *self._later)}
        for waiting in (self._finished, self._others):
            taken += _next(waiting, most - len(taken), keys)
        return taken

    @property
    def along(self) -> int:
        """How many tasks a call may take along that is not for them: those that are finished; after a failure none, since that
        shall not become its own.
        """
        return 0 if self._in_trouble else min(len(self._finished), AT_ONCE)

    def take_along(self) -> list[Settlement[T]]:
        """As `take`, of these alone."""
        return _next(self._finished, self.along, {task.key for task, _ in self._later})


def _next(waiting: deque[Settlement[T]], most: int, keys: set[TaskKey]) -> list[Settlement[T]]:
    """Up to the first whose key is one of `keys`, which gets those of all that are returned."""
    taken: list[Settlement[T]] = []
    while waiting and len(taken) < most and waiting[0][0].key not in keys:
        taken.append(waiting.popleft())
        keys.add(taken[-1][0].key)
    return taken
