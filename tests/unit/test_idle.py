"""`run_until_idle`: all that is due is done, what is not is left, and what goes wrong is raised."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from session_lock import DatabaseError, Discard, Limit, Rate, Release, Retry, Settings, SettingsError, each
from session_lock.testing import FaultyDatabase, MemoryDatabase, kit, run_until_idle, run_virtual
from session_lock.testing.idle import quick

PATIENT = Settings(retry=Retry(delay=60, jitter=0))


async def nap(_: Any) -> None:
    await asyncio.sleep(0.1)


def test_all_that_is_due_is_done() -> None:
    database = MemoryDatabase(dict.fromkeys(range(1000)))
    assert run_virtual(run_until_idle(database, each(nap))) == 1000
    assert len(database.finished) == 1000


def test_nothing_is_done_at_once() -> None:
    async def play() -> float:
        assert await run_until_idle(MemoryDatabase({}), each(nap)) == 0
        return asyncio.get_running_loop().time()

    assert run_virtual(play()) < 0.1


def test_what_falls_due_later_is_left() -> None:
    failed: list[Any] = []

    async def fail_once(task: Any) -> None:
        if task.key not in failed:
            failed.append(task.key)
            raise ValueError

    async def play() -> tuple[int, int, list[Any]]:
        database = MemoryDatabase({1: None})
        first = await run_until_idle(database, each(fail_once), PATIENT)
        assert database.finished == []
        await asyncio.sleep(60)
        return first, await run_until_idle(database, each(fail_once), PATIENT), database.finished

    assert run_virtual(play()) == (1, 1, [1])


def test_a_task_that_the_tasker_inserts_is_done_too() -> None:
    database = MemoryDatabase({3: None})

    async def split(task: Any) -> None:
        await asyncio.sleep(1)
        if task.key:
            database.add(task.key - 1, None, available_at=-math.inf)  # before all others

    assert run_virtual(run_until_idle(database, each(split))) == 4


@pytest.mark.parametrize("limits", [[Limit(2)], [Rate(2, per=10.0)]])
def test_what_a_limit_holds_back_is_waited_for(limits: list[Any]) -> None:
    database = MemoryDatabase(dict.fromkeys(range(7)), limits=limits)
    assert run_virtual(run_until_idle(database, each(nap), wait=10)) == 7


def test_what_a_limit_holds_back_for_long_is_left() -> None:
    async def play() -> float:
        database = MemoryDatabase(dict.fromkeys(range(7)), limits=[Rate(2, per=3600.0)])
        assert await run_until_idle(database, each(nap)) == 2
        return asyncio.get_running_loop().time()

    assert run_virtual(play()) < 10


def test_what_is_behind_a_parked_one_is_left() -> None:
    async def park(task: Any) -> Discard:
        return Discard()

    limits = [Limit(1, by="who", ordered=True)]
    database = MemoryDatabase({1: {"who": "a"}, 2: {"who": "a"}}, limits=limits, discards=False)
    assert run_virtual(run_until_idle(database, each(park))) == 1
    assert (database.parked, database.pending) == ([1], [2])


@pytest.mark.parametrize("count", [1, 5])
def test_a_session_that_is_still_there_keeps_nothing_from_it(count: int) -> None:
    async def play() -> int:
        database = MemoryDatabase(dict.fromkeys(range(count)))
        await database.start_session(capacity=1000, ttl=30, label="died", app_version="")
        return await run_until_idle(database, each(nap))

    assert run_virtual(play()) == count


def test_a_lost_reply_is_no_end() -> None:
    faulty = FaultyDatabase(MemoryDatabase({1: None, 2: None}))
    faulty.lose_reply("get_work")
    faulty.lose_reply("finish_tasks")
    run_virtual(run_until_idle(faulty, each(nap)))
    assert sorted(faulty.inner.finished) == [1, 2]  # type: ignore[attr-defined]


def test_what_the_runner_raises_is_raised() -> None:
    faulty = FaultyDatabase(MemoryDatabase({1: None}))
    faulty.fail("get_work", DatabaseError("no such table", retryable=False))
    with pytest.raises(DatabaseError, match="no such table"):
        run_virtual(run_until_idle(faulty, each(nap)))


def test_what_is_given_back_at_once_is_given_again() -> None:
    seen: list[Any] = []

    async def later(task: Any) -> Release | None:
        seen.append(task.key)
        return Release() if len(seen) < 3 else None

    assert run_virtual(run_until_idle(MemoryDatabase({1: None}), each(later))) == 3


@pytest.mark.parametrize("concurrency", [1, 10])
def test_a_tasker_that_fails_on_all_tasks_is_given_each_once(concurrency: int) -> None:
    async def fail(_: Any) -> None:
        raise ValueError

    async def play() -> float:
        database = MemoryDatabase(dict.fromkeys(range(40)))
        settings = Settings(concurrency=concurrency, retry=Retry(delay=60))
        assert await run_until_idle(database, each(fail), settings) == 40
        assert len(database.pending) == 40
        return asyncio.get_running_loop().time()

    assert run_virtual(play()) < 2


@pytest.mark.parametrize(("asked", "kept"), [(None, None), (3, 3), (10, None), (11, 11)])
def test_there_is_a_breaker_only_where_another_than_the_usual_one_is_asked_for(asked: Any, kept: Any) -> None:
    assert quick(Settings(breaker_failures=asked)).breaker_failures == kept
    assert quick(None).breaker_failures is None


def test_a_test_of_the_breaker_is_possible() -> None:
    seen: list[float] = []

    async def fail(task: Any) -> None:
        seen.append(asyncio.get_running_loop().time())
        if len(seen) < 6:
            raise ValueError

    settings = Settings(breaker_failures=3, concurrency=1, poll_interval=1, retry=Retry(delay=0))
    database = MemoryDatabase(dict.fromkeys(range(6)))
    run_virtual(run_until_idle(database, each(fail), settings))
    assert len(database.finished) == 6
    pauses = [later - one for one, later in zip(seen, seen[1:], strict=False)]
    assert max(pauses[:2]) < 0.01 < min(pauses[2:5])


def test_settings_are_kept_but_for_how_often_it_looks() -> None:
    own = quick(Settings(concurrency=3, poll_interval=5))
    assert (own.concurrency, own.start_jitter) == (3, 0.0)
    assert own.poll_interval == own.idle_poll_interval < 0.1


def test_it_takes_a_database() -> None:
    with pytest.raises(SettingsError, match="run_until_idle takes a Database, not dict"):
        asyncio.run(run_until_idle({1: None}, each(nap)))  # type: ignore[arg-type]


@asynccontextmanager
async def fixture(database: MemoryDatabase[Any], tasker: Any) -> AsyncIterator[None]:
    async with kit.runner(database, tasker):
        yield


@asynccontextmanager
async def beside(database: MemoryDatabase[Any], tasker: Any) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(run_until_idle(database, tasker))
        yield


@pytest.mark.parametrize("running", [fixture, beside])
@pytest.mark.parametrize("limit", [None, asyncio.timeout, anyio.fail_after])
def test_a_test_that_fails_waits_for_no_tasker(running: Any, limit: Any) -> None:
    ended: list[str] = []

    async def sleep(_: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append("cancelled")

    async def play() -> float:
        with suppress(ZeroDivisionError, ExceptionGroup, TimeoutError):
            async with AsyncExitStack() as stack:
                if limit is asyncio.timeout:
                    await stack.enter_async_context(limit(1))
                elif limit is not None:
                    stack.enter_context(limit(1))
                async with running(MemoryDatabase({1: None, 2: None}), each(sleep)):
                    await asyncio.sleep(1 if limit is None else 50)
                    raise ZeroDivisionError
        return asyncio.get_running_loop().time()

    assert run_virtual(play()) < 2
    assert ended == ["cancelled"] * 2
