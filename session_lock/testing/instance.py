"""`Instance`: one instance of a service in a test, and what can happen to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar

from session_lock.database import Database
from session_lock.errors import SettingsError
from session_lock.postgres import PostgresDatabase
from session_lock.testing.fault import Fault
from session_lock.testing.faulty import FaultyDatabase, Finishes
from session_lock.testing.freezing import Freezer

T = TypeVar("T")

LOOKS = 0.01
"""Seconds between two looks of who waits."""

FUNERAL = 500
"""Cancellations after which a task of a killed instance counts as one that ignores them."""


class Instance(FaultyDatabase[T]):
    """One instance of a service, as its database sees it: its calls can fail, and it can freeze, die, or lose its session.

    All that it starts (asyncio tasks, and what these start) belongs to it. A thread does not: it neither freezes nor dies, but its calls of
    the database do. Leaving the block thaws and heals it, and stops it gracefully.

    ```python
    async with faults.instance(make_runner) as instance:
        instance.freeze()
        await asyncio.sleep(60)  # its lease has run out meanwhile
        instance.thaw()
    ```
    """

    def __init__(
        self,
        connect: Callable[[], Database[T]],
        make: Callable[[FaultyDatabase[T]], AbstractAsyncContextManager[Any]],
        finishes: Finishes,
    ) -> None:
        super().__init__(connect(), finishes=finishes)
        self.asked: list[Fault] = []
        """The faults that were asked for."""
        self.service: Any = None
        """What the block of `make(database)` has given: the Runner, if that is what it makes."""
        self.killed: bool = False
        self._connect = connect
        self._make = make
        self._freezer = Freezer()
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._funeral: asyncio.Task[None] | None = None

    # What can happen to it ----------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Its session ends at once, as if its lease had run out: others may have its tasks, and it hears so at its next call.

        The attempts count. What is missing is the note in `failure` that a session expired; a freeze beyond the lease has that too.
        """
        if self.lease is None:
            raise SettingsError("this instance has no session yet that could expire")
        database = self._connect()
        try:
            await database.end_session(self.lease, ())
        finally:
            await self._close(database)

    def freeze(self) -> None:
        """It stands still, as under SIGSTOP: nothing of it makes another step, no keepalive, no tasker, no timeout."""
        self._check_entered()
        self._freezer.freeze()

    def thaw(self) -> None:
        """It goes on where it stood, as after SIGCONT; all that fell due meanwhile is late."""
        if not self.killed:
            self._freezer.thaw()

    def kill(self) -> None:
        """It dies, as by SIGKILL: nothing that it says reaches the database any more. Its lease runs out by itself.

        Its coroutines are cancelled, so that their connections close; their `finally` clauses run, which SIGKILL would not let them.
        """
        self._check_entered()
        if self.killed:
            return
        self.killed = True
        # In no context: this task is none of the instance's.
        self._funeral = asyncio.get_running_loop().create_task(self._bury(), context=Context())

    def kill_before_finish(self) -> Fault:
        """It dies when it is about to finish tasks: their tasker has done its work, and the database has not heard of it."""
        return self.before("finish", self.kill)

    # Its life -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise SettingsError("an instance is entered once: make another one")
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = self._freezer.start(self._serve(started))
        try:
            await asyncio.wait({self._task, started}, return_when=asyncio.FIRST_COMPLETED)
            self.check()
        except BaseException:
            self._task.cancel()
            await asyncio.wait({self._task})
            await self._close(self.inner)
            raise
        return self

    async def _serve(self, started: asyncio.Future[None]) -> None:
        async with self._make(self) as self.service:
            started.set_result(None)
            await self._leave.wait()

    def check(self) -> None:
        """Raise what it has died of, unless it was killed."""
        dead = getattr(self.service, "failed", None)  # of a Runner
        if dead is None and self._task is not None and self._task.done() and not self._task.cancelled():
            dead = self._task.exception()
        if dead is not None and not self.killed:
            raise dead

    def _check_entered(self) -> None:
        if self._task is None:
            raise SettingsError("this instance does not run yet: enter it first, by `async with`")

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self.thaw()
        self.heal()
        self._leave.set()
        try:
            await asyncio.wait({self._task})
            if self._funeral is not None:
                await self._funeral
        finally:
            await self._close(self.inner)
        if error is None:
            self.check()
        else:
            _hear(self._task)

    async def _bury(self) -> None:
        """Cancel what is left of it until nothing is, once the database has answered what it was asked before."""
        for _ in range(FUNERAL):
            if not self._freezer.spared:
                break
            self._freezer.freeze()
            await asyncio.sleep(LOOKS)
        left: list[asyncio.Task[Any]] = []
        for _ in range(FUNERAL):
            left = [task for task in self._freezer.tasks if not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            self._freezer.thaw()
            dead, _ = await asyncio.wait(left, timeout=LOOKS)
            for task in dead:
                _hear(task)
        raise AssertionError(f"a task of a killed instance ignores its cancellation: {left[0]!r}")

    async def _close(self, database: Database[T]) -> None:
        if isinstance(database, PostgresDatabase):
            await database.close()

    # What its calls meet ------------------------------------------------------------------------------------

    def _at_the_database(self) -> AbstractContextManager[None]:
        return self._freezer.spare()

    def _add(self, fault: Fault) -> Fault:
        self.asked.append(fault)
        return super()._add(fault)

    async def _harm(self, verb: str, arguments: dict[str, Any], *, committed: bool) -> None:
        if not self.killed:
            await super()._harm(verb, arguments, committed=committed)
        # In the thread for keepalives, whose tasks are not the freezer's.
        while self._freezer.frozen:  # noqa: ASYNC110 (there, none can be told of its end)
            await asyncio.sleep(LOOKS)
        if self.killed:
            raise asyncio.CancelledError


def _hear(task: asyncio.Task[Any]) -> None:
    """Ask for its exception: asyncio complains of what nobody asks for."""
    if not task.cancelled():
        task.exception()


AT_FINISH: dict[str, Callable[[Instance[Any]], Fault]] = {
    "killed": lambda instance: instance.kill_before_finish(),
    "frozen": lambda instance: instance.before("finish", instance.freeze),
    "partitioned": lambda instance: instance.before("finish", instance.partition),
    "expired": lambda instance: instance.before("finish", instance.expire),
    "reply-lost": lambda instance: instance.lose_reply("finish"),
}
"""What can happen to an instance at the worst moment: when a tasker has done its work, and is about to finish it.

```python
for harm in AT_FINISH.values():
    async with faults.instance(make_runner) as instance:
        harm(instance)
```
"""
