"""What flows: tasks to the tasker, and what it says of them. Nothing here knows a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, overload
from uuid import UUID

from session_lock.errors import SettingsError

T = TypeVar("T")

TaskKey: TypeAlias = int | str | UUID
"""The key of a task: what the mapping's key column holds.

```python
async def cancel(database: PostgresDatabase, key: TaskKey) -> Cancellation:
    return await database.cancel(key)
```
"""


# Outcomes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Release:
    """Give the task back without blame: its attempt does not count.

    ```python
    async def send(task):
        if task.data["address"].endswith("@example.com"):
            return Release(after=60)  # not now: in a minute
        print("sent to", task.data["address"])
    ```
    """

    after: float | None = None
    """Seconds until it may be claimed again, by anyone. None: at once, in its old place of the order."""

    def __post_init__(self) -> None:
        if self.after is not None and not (isinstance(self.after, int | float) and self.after >= 0):
            raise SettingsError("a task is released after a number of seconds, from 0 on, or None")


@dataclass(frozen=True, slots=True)
class Discard:
    """Give the task up, in the table's own words (the mapping's `discard`); parked where it has none.

    ```python
    async def send(task):
        if "@" not in task.data["address"]:
            return Discard("this is no address")
        print("sent to", task.data["address"])
    ```
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """The task is accomplished."""


@dataclass(frozen=True, slots=True)
class IfCommitted:
    """The task is accomplished if the tasker's own transaction that finished it was committed; else it has failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The task has failed: it is tried again later."""

    error: str
    """Kept in the table `failure`."""
    after: float
    """Seconds until then."""


@dataclass(frozen=True, slots=True)
class Park:
    """The task stays as it is, visible, and does not run again by itself."""

    error: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """The task was not begun, and is for others to have at once."""


Verdict: TypeAlias = Finish | IfCommitted | Release | HandOver | Discard | Failure | Park


# Tasks and batches ----------------------------------------------------------------------------------------


class Holder(Protocol):
    """What stands behind a task: the lease under which it is held. Given by the Runner."""

    def lease_left(self) -> float: ...
    def assert_held(self, tasks: Sequence[Task[Any]]) -> None: ...
    async def finish_in(self, connection: Any, tasks: Sequence[Task[Any]]) -> None: ...
    def finish_in_sync(self, connection: Any, tasks: Sequence[Task[Any]]) -> None: ...
    def transaction(self, tasks: Sequence[Task[Any]]) -> AbstractAsyncContextManager[Any]: ...
    def settle(self, task: Task[Any], verdict: Verdict) -> None: ...
    def is_settled(self, task: Task[Any]) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Task(Generic[T]):
    """One row to be done, held by this process's session until it is settled.

    ```python
    async def send(task: Task[dict[str, str]]) -> None:
        task.assert_held()  # right before an outside effect
        print("sent to", task.data["address"], "with the idempotency key", task.key)
    ```
    """

    key: TaskKey
    """The row's key. A stable idempotency key for effects outside of the database."""
    data: T = field(repr=False)
    """The row, as `decode` made it."""
    attempt: int
    """How often the task was begun, this time included; attempts that were given back do not count. From 1."""
    token: int
    """The fencing token: grows with every claim of this task. A resource that compares it can refuse a stale run."""
    session_id: int
    _holder: Holder = field(repr=False)
    traceparent: str | None = field(default=None, repr=False)
    """W3C trace context of whoever has put it in, if the mapping names a column `traceparent`; as it stands there."""

    def lease_left(self) -> float:
        """Seconds for which this process may still act on the task, by its own clock; 0 when the lease is lost."""
        return self._holder.lease_left()

    def assert_held(self) -> None:
        """Raise `SessionLost` or `TaskLost` if the task is known to be no longer held. Ask before an outside effect.

        It asks no database, so it is free; a process that freezes right after it has still to be fenced by `token`.
        """
        self._holder.assert_held((self,))

    async def finish_in(self, connection: Any) -> None:
        """Finish the task inside the caller's open transaction, on the caller's own connection.

        That is one of asyncpg or psycopg, or an `AsyncSession` or `AsyncConnection` of SQLAlchemy. Call it first, then
        write: what the transaction writes and the finish take place together, or not at all. Raises `SessionLost` or
        `TaskLost` if the task is no longer held; the transaction must be rolled back then. `SettingsError`: no
        transaction is open (the connection is in autocommit), or it is no connection that can be served. If it is not
        committed after all the task has failed, whatever the tasker returns.
        """
        await self._holder.finish_in(connection, (self,))

    def finish_in_sync(self, connection: Any) -> None:
        """As `finish_in`, for a synchronous connection, in a thread: of psycopg or Django, or a `Session` or `Connection`
        of SQLAlchemy.
        """
        self._holder.finish_in_sync(connection, (self,))

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """`async with task.transaction() as connection:` a transaction that finishes the task when it commits.

        The server gives it what is left of the lease when it begins (24 to 30 s with the defaults, while keepalives get through), and keepalives do not prolong that.
        `DatabaseError` at its end if it commits nothing, since an error within was caught other than around a savepoint.
        """
        return self._holder.transaction((self,))


class Batch(Sequence[Task[T]]):
    """The tasks of one call of the tasker, never none.

    ```python
    async def send_all(batch: Batch[dict[str, str]]) -> list[Task[dict[str, str]]]:
        right = [task for task in batch if "@" in task.data["address"]]
        for task in set(batch) - set(right):
            batch.discard(task, "this is no address")
        return right  # these are accomplished; what were neither returned nor settled would have failed
    ```
    """

    __slots__ = ("_holder", "_tasks")

    def __init__(self, tasks: Sequence[Task[T]], holder: Holder) -> None:
        self._tasks = tuple(tasks)
        self._holder = holder

    @overload
    def __getitem__(self, index: int) -> Task[T]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task[T]]: ...
    def __getitem__(self, index: int | slice) -> Task[T] | Sequence[Task[T]]:
        return self._tasks[index]

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task[T]]:
        return iter(self._tasks)

    def __repr__(self) -> str:
        return f"Batch({len(self._tasks)} tasks)"

    def lease_left(self) -> float:
        """Seconds for which this process may still act on the tasks; 0 when the lease is lost."""
        return self._holder.lease_left()

    def assert_held(self, *tasks: Task[T]) -> None:
        """As `Task.assert_held`, for the given tasks (default: all that are not settled)."""
        self._holder.assert_held(tasks or self._unsettled())

    async def finish_in(self, connection: Any, *tasks: Task[T]) -> None:
        """As `Task.finish_in`, for the given tasks (default: all that are not settled), all or none."""
        await self._holder.finish_in(connection, self._own(tasks) or self._unsettled())

    def finish_in_sync(self, connection: Any, *tasks: Task[T]) -> None:
        """As `Task.finish_in_sync`, for the given tasks (default: all that are not settled), all or none."""
        self._holder.finish_in_sync(connection, self._own(tasks) or self._unsettled())

    def transaction(self, *tasks: Task[T]) -> AbstractAsyncContextManager[Any]:
        """`async with batch.transaction() as connection:` finishes the tasks (default: all unsettled) on commit."""
        return self._holder.transaction(self._own(tasks) or self._unsettled())

    def finish(self, task: Task[T]) -> None:
        """The task is accomplished, whatever happens to the rest of the batch."""
        self._settle(task, Finish())

    def release(self, task: Task[T], *, after: float | None = None) -> None:
        """Give the task back without blame; not to be claimed before `after` seconds (default: at once)."""
        self._settle(task, Release(after))

    def discard(self, task: Task[T], reason: str = "") -> None:
        """Give the task up, in the table's own words."""
        self._settle(task, Discard(reason))

    def _settle(self, task: Task[T], verdict: Verdict) -> None:
        self._own((task,))
        self._holder.settle(task, verdict)

    def _own(self, tasks: Sequence[Task[T]]) -> Sequence[Task[T]]:
        for task in tasks:
            if not any(task is own for own in self._tasks):
                raise ValueError(f"{task!r} is not a task of this batch")
        return tasks

    def _unsettled(self) -> Sequence[Task[T]]:
        return [task for task in self._tasks if not self._holder.is_settled(task)]
