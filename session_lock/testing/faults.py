"""`Faults`: several instances of a service in one test, and what can happen to each of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from session_lock.database import Database
from session_lock.errors import SettingsError
from session_lock.postgres import PostgresDatabase
from session_lock.tasks import TaskKey
from session_lock.testing.faulty import FaultyDatabase, Finishes
from session_lock.testing.instance import LOOKS, Instance

T = TypeVar("T")


def assert_each_once(keys: Iterable[TaskKey], found: Iterable[TaskKey], what: str = "effect") -> None:
    """Fail unless each of the keys is found once, and no other. `what` is found, for the message.

    ```python
    sent = [2, 1]
    assert_each_once([1, 2], sent, "mail")
    ```
    """
    wanted, counts = list(dict.fromkeys(keys)), Counter(found)
    wrong = [f"{key!r}: {counts[key] or 'none'}" for key in wanted if counts[key] != 1]
    wrong += [f"{key!r}, which is none of the tasks: {counts[key]}" for key in counts if key not in wanted]
    if wrong:
        raise AssertionError(f"not one {what} for each task: {'; '.join(wrong)}")


class Faults(Generic[T]):
    """The faults of a test. `database` is a `MemoryDatabase`, or a function that makes a `PostgresDatabase`.

    A function, because instances share no connections: each calls it once, and closes what it made. `SettingsError` says what else
    it cannot be; what a test was to show and has not is an `AssertionError`.

    ```python
    faults = Faults(MemoryDatabase({1: "ann@example.org"}))
    async with faults.instance(make_runner) as first, faults.instance(make_runner):
        first.kill_before_finish()
        await faults.until_finished([1])
    faults.assert_each_finished_once([1])
    ```
    """

    def __init__(self, database: Database[T] | Callable[[], Database[T]]) -> None:
        if isinstance(database, PostgresDatabase):
            raise SettingsError(
                "each instance has connections of its own: give Faults a function that makes a PostgresDatabase"
            )
        if not callable(database) and not hasattr(database, "get_work"):
            raise SettingsError(
                f"Faults needs a Database or a function that makes one, not {type(database).__name__}"
            )
        self._database = database
        self._instances: list[Instance[T]] = []
        self._finishes = Finishes()

    def instance(self, make: Callable[[FaultyDatabase[T]], AbstractAsyncContextManager[Any]]) -> Instance[T]:
        """One instance of the service, for `async with`. `make(database)` returns its Runner, or its lifespan: any async context manager."""
        if not callable(make):
            raise SettingsError(f"instance() takes a function that makes a Runner, not {type(make).__name__}")
        instance = Instance(self._connect, make, self._finishes)
        self._instances.append(instance)
        return instance

    @property
    def finished(self) -> list[TaskKey]:
        """The keys of the tasks that the database has flagged as finished, in that order."""
        return self._finishes.keys

    async def until_finished(self, keys: Iterable[TaskKey], *, within: float = 60.0) -> None:
        """Wait until all of these are; fail if they are not within so many seconds of the loop's time, or if an instance dies."""
        wanted = list(keys)
        await self._until_none(
            lambda: [key for key in wanted if key not in self.finished], "finished", within
        )

    async def until_all_happened(self, *, within: float = 60.0) -> None:
        """Wait until each fault that was asked for has happened; fail as `until_finished` does."""
        await self._until_none(self._not_happened, "happened", within)

    def assert_each_finished_once(self, keys: Iterable[TaskKey]) -> None:
        """Fail unless each of these tasks was flagged as finished once, and no other was."""
        assert_each_once(keys, self.finished, "finish")

    def assert_all_happened(self) -> None:
        """Fail if a fault was asked for and has not happened: such a test shows nothing."""
        if idle := self._not_happened():
            raise AssertionError(f"faults that were asked for have not happened: {_listed(idle)}")

    def _not_happened(self) -> list[str]:
        return [
            f"{fault.verb} of instance {number}"
            for number, instance in enumerate(self._instances, 1)
            for fault in instance.asked
            if not fault.happened
        ]

    async def _until_none(self, left: Callable[[], Sequence[object]], what: str, within: float) -> None:
        clock = asyncio.get_running_loop().time
        give_up = clock() + within
        while still := left():
            for instance in self._instances:
                instance.check()
            if clock() >= give_up:
                raise AssertionError(f"not {what} within {within:g} seconds: {_listed(still)}")
            await asyncio.sleep(LOOKS)

    def _connect(self) -> Database[T]:
        return self._database() if callable(self._database) else self._database


def _listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things))
