"""What a Runner does with wake-ups: it looks at once, once for many, and never depends on them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import Any

import pytest

from session_lock import Runner, Settings, each
from session_lock.testing import MemoryDatabase
from tests.unit.faults import Faulty
from tests.unit.virtual import now, until, virtual

HOURLY = Settings(poll_interval=3600, start_jitter=0, concurrency=2, tasks_per_session=2)


class Listened(Faulty):
    """One that counts who listens."""

    listening_now = 0

    @asynccontextmanager
    async def listening(self, wake: Any, **asked: Any) -> Any:
        async with self.inner.listening(wake, **asked):
            self.listening_now += 1
            try:
                yield
            finally:
                self.listening_now -= 1


class Started(list[float]):
    """A tasker that notes when it was called."""

    async def __call__(self, _task: Any) -> None:
        self.append(now())


@virtual
async def test_a_new_task_starts_at_once() -> None:
    database, started = Listened(MemoryDatabase()), Started()
    async with Runner(database, each(started), HOURLY):
        await asyncio.sleep(100)
        assert (database.count("get_work"), database.listening_now) == (1, 1)
        database.inner.add(1, "a")
        await asyncio.sleep(1)
        assert started == [100]
    assert database.listening_now == 0


@virtual
async def test_a_task_for_later_starts_when_it_is_due() -> None:
    database, started = Listened(MemoryDatabase()), Started()
    async with Runner(database, each(started), HOURLY):
        await asyncio.sleep(100)
        for key, after in enumerate((0.7, 0.3, 500)):
            database.inner.add(key, "a", after=after)
        await asyncio.sleep(300)
        assert started == [pytest.approx(100.3, abs=0.01), pytest.approx(100.7, abs=0.01)]
        # at the start, woken, and for each of the two: when it is due, and again since it came
        assert database.count("get_work") == 2 + 2 * 2


@virtual
async def test_many_wake_ups_in_one_look_are_one_more_look() -> None:
    database, started = Listened(MemoryDatabase()), Started()
    async with Runner(database, each(started), HOURLY):
        await asyncio.sleep(100)
        database.delay("get_work", 1, times=1)
        for key in range(30):
            database.inner.add(key, "a", after=1000)
        await asyncio.sleep(0.5)
        for key in range(30, 60):
            database.inner.add(key, "a", after=1000)
        await asyncio.sleep(100)
        assert database.count("get_work") == 3


@virtual
async def test_a_wake_up_finds_a_full_runner_at_work() -> None:
    database = Listened(MemoryDatabase({1: "a", 2: "b"}))
    go_on = asyncio.Event()

    async def tasker(_task: Any) -> None:
        await go_on.wait()

    async with Runner(database, each(tasker), HOURLY):
        await asyncio.sleep(100)
        looks = database.count("get_work")
        for key in range(3, 30):
            database.inner.add(key, "c")
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        assert database.count("get_work") == looks  # there is no room to look for
        go_on.set()
        await until(lambda: not database.inner.pending)
        assert now() < 102


@virtual
async def test_who_stands_for_the_database_is_listened_to() -> None:
    inner = MemoryDatabase()
    old, new = Listened(inner), Listened(inner)
    current, started = old, Started()

    async def finder() -> Any:
        return current

    async with Runner(finder, each(started), HOURLY) as runner:
        await asyncio.sleep(1)
        current = new
        runner.wake()
        await asyncio.sleep(1)
        assert (old.listening_now, new.listening_now) == (0, 1)
        inner.add(1, "a")
        await asyncio.sleep(1)
        assert started == [2]


@virtual
async def test_a_database_that_cannot_listen_is_polled(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(Faulty):
        def listening(self, wake: Any, **asked: Any) -> Any:
            raise OSError("no")

    database, started = Deaf(MemoryDatabase()), Started()
    async with Runner(database, each(started), Settings(poll_interval=10, start_jitter=0)):
        await asyncio.sleep(5)
        database.inner.add(1, "a")
        await asyncio.sleep(100)
        assert len(started) == 1
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["session 1 hears of no wake-ups: OSError: no"]


@virtual
async def test_one_that_has_just_become_idle_looks_once_more() -> None:
    """A quiet wake-up that was on its way while the session had no room was not sent."""

    class Deaf(Faulty):
        @asynccontextmanager
        async def listening(self, wake: Any, **asked: Any) -> Any:  # noqa: ARG002
            yield

    database, started = Deaf(MemoryDatabase({1: "a", 2: "b"})), Started()
    async with Runner(database, each(started), HOURLY):
        await until(lambda: database.count("get_work") == 3)  # the ones that find nothing, just before
        database.inner.add(3, "c")
        await asyncio.sleep(1)
        assert (len(started), started[2] < 0.1) == (3, True)
        await asyncio.sleep(1000)
        assert database.count("get_work") == 5
