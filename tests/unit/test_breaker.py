"""The breaker: an instance on which everything fails does not use up the attempts of the others' tasks."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from typing import Any

import pytest

from session_lock import Discard, Release, Retry, Runner, SettingsError, each
from session_lock.breaker import LONGEST_PAUSE, Breaker
from session_lock.testing import MemoryDatabase
from tests.unit.faults import Faulty
from tests.unit.scenes import assert_free, do_all, run_for, running, settings, table
from tests.unit.virtual import now, until, virtual

ONCE = Retry(delay=3600, longest=3600, jitter=0)
"""What has failed does not come again in these tests."""


class Sick:
    """A tasker under each that notes its calls, and fails as long as it is sick."""

    def __init__(self, *, sick: bool = True, takes: float = 0.0) -> None:
        self.sick = sick
        self.takes = takes
        self.begun: list[tuple[float, Any, int]] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, task: Any) -> Any:
        self.begun.append((now(), task.key, task.attempt))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.at_once -= 1
        if self.sick:
            raise ConnectionError("no route to the mail server")

    def keys(self) -> list[Any]:
        return [key for _, key, _ in self.begun]


def held(database: Any) -> list[Any]:
    return [row.key for row in database._tasks.values() if row.session_id is not None]


# By itself -------------------------------------------------------------------------------------------------


def test_it_opens_when_different_tasks_in_a_row_have_failed_and_closes_at_a_success() -> None:
    breaker = Breaker(3, 1)
    assert [breaker.failed(key) for key in (1, 2, 1, 2, 2)] == [False] * 5
    assert not breaker.open
    assert not breaker.succeeded()
    assert [breaker.failed(key) for key in (1, 2, 3, 4)] == [False, False, True, False]
    assert breaker.open
    assert breaker.succeeded()
    assert not breaker.open
    assert not breaker.succeeded()


def test_its_pauses_grow_to_a_minute_and_begin_anew_after_a_success() -> None:
    breaker = Breaker(1, 1)
    breaker.failed(1)
    pauses = [breaker.pause() for _ in range(40)]
    for number, pause in enumerate(pauses):
        longest = min(LONGEST_PAUSE, 2.0**number)
        assert longest / 2 <= pause <= longest
    breaker.succeeded()
    breaker.failed(1)
    assert breaker.pause() <= 1


def test_none_never_opens_it() -> None:
    breaker = Breaker(None, 1)
    assert not any(breaker.failed(key) for key in range(1000))
    assert not breaker.open


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "3"])
def test_its_number_is_a_whole_one_from_1_on_or_none(value: Any) -> None:
    with pytest.raises(SettingsError, match="breaker_failures"):
        settings(breaker_failures=value)
    settings(breaker_failures=None)


# In a Runner -----------------------------------------------------------------------------------------------


@virtual
async def test_while_it_is_open_one_task_is_held_at_a_time_with_growing_pauses(caplog: Any) -> None:
    database = table(100)
    sick = Sick(takes=0.01)
    runner = Runner(
        database, each(sick), settings(retry=ONCE, breaker_failures=5, concurrency=3, tasks_per_session=20)
    )
    async with running(runner):
        await until(lambda: runner._breaker.open)
        began = now()
        assert not runner.ready
        await asyncio.sleep(0.2)
        assert held(database) == []
        seen = len(sick.begun)
        assert seen <= 5 + 3
        most = 0
        while now() < began + 100:
            await asyncio.sleep(0.005)
            most = max(most, len(held(database)))
            assert not runner.ready
    assert most == 1
    tries = [at for at, *_ in sick.begun[seen:]]
    gaps = [later - earlier for earlier, later in zip([began, *tries], tries, strict=False)]
    assert len(tries) in range(5, 9)
    for number, gap in enumerate(gaps):
        longest = min(60, 2.0**number)
        assert longest / 2 - 0.05 <= gap <= longest + 0.1, gaps
    # Nobody lost an attempt but those that were tried.
    assert {row.key for row in database._tasks.values() if row.attempts} == set(sick.keys())
    assert all(row.attempts <= 1 for row in database._tasks.values())
    assert caplog.text.count("different tasks of session 1 in a row have failed") == 1


@virtual
async def test_one_task_that_fails_time_and_again_does_not_open_it() -> None:
    database = table(1)
    sick = Sick()
    runner = Runner(
        database, each(sick), settings(retry=Retry(delay=0.1, factor=1, jitter=0), breaker_failures=3)
    )
    async with running(runner):
        await until(lambda: len(sick.begun) > 15)
        assert runner.ready


@virtual
async def test_none_lets_a_runner_go_through_all_of_it() -> None:
    database = table(60)
    sick = Sick()
    await run_for(3, database, each(sick), settings(retry=ONCE, breaker_failures=None))
    assert len(sick.begun) == 60


async def _finish_it(batch: Any) -> Any:
    return batch


async def _finish_early(batch: Any) -> Any:
    batch.finish(batch[0])
    await asyncio.sleep(5)
    return ()


async def _discard(batch: Any) -> Any:
    batch.discard(batch[0], "no such address")
    return ()


async def _transaction(batch: Any) -> Any:
    async with batch.transaction():
        pass
    return ()


def _in_a_thread(batch: Any) -> Any:
    batch.finish(batch[0])
    return ()


@pytest.mark.parametrize("success", [_finish_it, _finish_early, _discard, _transaction])
@virtual
async def test_a_success_closes_it_and_all_goes_on_at_once(success: Any, caplog: Any) -> None:
    await _heals(success, caplog)


@virtual
async def test_a_success_from_a_thread_closes_it(caplog: Any) -> None:
    def tasker(batch: Any) -> Any:
        if not healthy:
            raise ConnectionError
        return _in_a_thread(batch)

    healthy: list[bool] = []
    database = table(30)
    runner = Runner(database, tasker, settings(retry=ONCE, breaker_failures=3, batch_size=1))
    async with running(runner):
        await until(lambda: runner._breaker.open)
        healthy.append(True)
        await until(lambda: runner.ready)
        await until(lambda: len(database.finished) + len(database.failures) == 30)
    assert len(database.failures) <= 3 + 10


async def _heals(success: Any, caplog: Any) -> None:
    database = table(60)
    healthy = False
    begun = 0

    async def tasker(batch: Any) -> Any:
        nonlocal begun
        if not healthy:
            raise ConnectionError
        begun += 1
        return await success(batch)

    config = settings(retry=ONCE, breaker_failures=3, batch_size=1, concurrency=2, tasks_per_session=4)
    runner = Runner(database, tasker, config)
    async with running(runner):
        await until(lambda: runner._breaker.open)
        await asyncio.sleep(20)
        assert not runner.ready
        healthy = True
        healed = await until(lambda: begun)
        await until(lambda: runner.ready, within=0.02)
        await until(lambda: begun >= 3)
        assert now() < healed + 6
    assert "goes on as usual" in caplog.text


@virtual
async def test_what_is_no_success_leaves_it_open() -> None:
    """A release says nothing of the instance; nor does a discard because the attempts are used up, or a cancellation."""
    database = table(40)
    healthy = False

    async def tasker(task: Any) -> Any:
        if healthy:
            return Release(after=1000)
        raise ConnectionError

    runner = Runner(database, each(tasker), settings(retry=Retry(max_attempts=1), breaker_failures=3))
    async with running(runner):
        await until(lambda: runner._breaker.open)
        await asyncio.sleep(10)
        assert len(database.discarded) > 4
        assert not runner.ready
        healthy = True
        await asyncio.sleep(100)
        assert not runner.ready


@virtual
async def test_waking_the_runner_does_not_break_its_pauses() -> None:
    database = table(100)
    sick = Sick()
    runner = Runner(database, each(sick), settings(retry=ONCE, breaker_failures=3, concurrency=1))
    async with running(runner):
        await until(lambda: runner._breaker.open)
        began = now()
        while now() < began + 60:
            runner.wake()
            await asyncio.sleep(0.01)
    assert len(sick.begun) <= 3 + 8
    assert database.count("get_work") <= 3 + 8 + 8


@virtual
async def test_failures_of_calls_that_were_under_way_do_not_lengthen_the_first_pause() -> None:
    database = table(100)
    sick = Sick(takes=0.1)
    runner = Runner(database, each(sick), settings(retry=ONCE, breaker_failures=3, concurrency=20))
    async with running(runner):
        opened = await until(lambda: runner._breaker.open)
        await asyncio.sleep(0.3)
        under_way = len(sick.begun)
        assert under_way > 12, "many have failed after it had opened"
        first_try = await until(lambda: len(sick.begun) > under_way)
    assert 0.4 <= first_try - opened <= 1.1


@virtual
async def test_a_claim_that_was_under_way_when_it_opened_is_given_back() -> None:
    database = table(1000)
    database.delay("get_work", 0.5, committed=True)
    sick = Sick(takes=0.2)
    runner = Runner(
        database, each(sick), settings(retry=ONCE, breaker_failures=4, concurrency=4, tasks_per_session=8)
    )
    async with running(runner):
        await until(lambda: runner._breaker.open)
        await asyncio.sleep(60)
        assert not runner.ready
    assert len(sick.begun) <= 4 + 4 + 8
    assert sum(row.attempts for row in database._tasks.values()) == len(sick.begun)
    assert_free(database)


@virtual
async def test_rows_that_cannot_be_decoded_open_it_and_what_came_with_them_is_given_back() -> None:
    bad: dict[Any, Any] = {key: ValueError("old format") for key in range(1, 6)}
    database = Faulty(MemoryDatabase({**bad, **dict.fromkeys(range(6, 40), "good")}))
    begun: list[tuple[float, Any]] = []

    async def tasker(task: Any) -> None:
        begun.append((now(), task.key))

    runner = Runner(database, each(tasker), settings(retry=ONCE, breaker_failures=5, tasks_per_session=30))
    async with running(runner):
        await until(lambda: len(database.finished) == 34)
    assert begun[0][0] >= 0.5, "nothing is begun before the pause is over"
    assert all(row.attempts == 1 for row in database._tasks.values())
    assert begun[1][0] - begun[0][0] < 0.1, "the success has closed it"


@virtual
async def test_it_outlives_sessions() -> None:
    database = table(100)
    sick = Sick()
    runner = Runner(database, each(sick), settings(retry=ONCE, breaker_failures=3, concurrency=2))
    async with running(runner):
        await until(lambda: runner._breaker.open)
        for number in range(1, 6):
            database.expire(number)
            await until(lambda n=number: len(database.sessions) > n)  # type: ignore[misc]
            assert not runner.ready
        assert len(sick.begun) <= 3 + 2 + 5
        for started in database.times("start_session")[1:]:
            assert not any(started <= at < started + 0.45 for at, *_ in sick.begun), "it begins with a pause"
        sick.sick = False
        await until(lambda: runner.ready)


@virtual
async def test_half_a_batch_that_fails_while_it_is_split_opens_it_and_the_rest_is_given_back() -> None:
    database = table(64)
    calls: list[list[Any]] = []

    async def tasker(batch: Any) -> Any:
        calls.append([task.key for task in batch])
        raise ConnectionError

    config = settings(retry=ONCE, breaker_failures=4, batch_size=64, concurrency=1, tasks_per_session=64)
    runner = Runner(database, tasker, config)
    async with running(runner):
        await until(lambda: runner._breaker.open)
        await until(lambda: not held(database), within=0.1)
    assert [len(call) for call in calls] == [64, 32, 16, 8, 4, 2, 1, 1, 2, 1, 1]
    assert [row.key for row in database._tasks.values() if row.attempts] == [1, 2, 3, 4]
    assert sorted(database.failures) == [1, 2, 3, 4]
    assert_free(database)


@virtual
async def test_a_healthy_runner_does_the_backlog_which_a_sick_one_does_not_eat_up() -> None:
    database = table(2000)
    sick = Sick(takes=0.05)
    config = settings(breaker_failures=10, concurrency=5, retry=ONCE)

    async def healthy(task: Any) -> None:
        await asyncio.sleep(0.05)

    ill = Runner(database, each(sick), config)
    async with running(ill), running(Runner(database, each(healthy), config)):
        await until(lambda: len(database.finished) + len(database.failures) == 2000)
        assert not ill.ready
    assert len(sick.begun) <= 10 + 5 + 8
    assert len(set(sick.keys())) == len(sick.keys())
    assert [row.attempts for row in database._tasks.values()] == [1] * 2000
    assert_free(database)


@virtual
async def test_a_task_that_cannot_be_given_back_does_not_keep_it_from_trying_others() -> None:
    database = table(30)
    sick = Sick()
    with ExitStack() as locks:

        async def tasker(task: Any) -> None:
            if task.key <= 2:
                locks.enter_context(database.lock(task.key))
            await sick(task)

        runner = Runner(
            database, each(tasker), settings(retry=ONCE, breaker_failures=3, tasks_per_session=10)
        )
        async with running(runner):
            await until(lambda: runner._breaker.open)
            sick.sick = False
            await until(lambda: runner.ready)
            assert held(database)[:2] == [1, 2]
            locks.close()


@virtual
async def test_one_that_succeeds_late_ends_the_pause() -> None:
    database = table(60)
    sick = Sick()

    async def tasker(task: Any) -> None:
        if task.key == 1:
            await asyncio.sleep(0.3)  # the pause is half a second at least
        else:
            await sick(task)

    runner = Runner(database, each(tasker), settings(retry=ONCE, breaker_failures=3, concurrency=3))
    async with running(runner):
        await until(lambda: len(database.finished) == 1)
        await asyncio.sleep(0.01)
    assert [at for at, *_ in sick.begun if at < 0.3] == [0.0] * 4
    assert len([at for at, *_ in sick.begun if at < 0.32]) > 4


@pytest.mark.parametrize("how", ["stop", "cancel", "lost"])
@virtual
async def test_a_runner_ends_at_once_from_its_pause(how: str) -> None:
    database = table(30)
    sick = Sick()
    runner = Runner(database, each(sick), settings(retry=ONCE, breaker_failures=3))
    run = asyncio.create_task(runner.run())
    await until(lambda: runner._breaker.open)
    await asyncio.sleep(100)
    began = now()
    if how == "lost":
        database.expire(1)
        await until(lambda: len(database.sessions) == 2)
        runner.stop()
    elif how == "stop":
        runner.stop()
    else:
        run.cancel()
    await asyncio.wait({run})
    assert now() - began < (8 if how == "lost" else 0.1)
    assert held(database) == []


@virtual
async def test_it_says_so_once_when_it_opens_and_once_when_it_closes(caplog: Any) -> None:
    database = table(60)
    sick = Sick()
    runner = Runner(database, each(sick), settings(retry=ONCE, breaker_failures=3))
    async with running(runner):
        await until(lambda: runner._breaker.open)
        await asyncio.sleep(20)
        sick.sick = False
        await until(lambda: len(database.finished) > 20)
    said = [
        (record.levelno, record.getMessage()[:40])
        for record in caplog.records
        if "in a row" in record.getMessage() or "as usual" in record.getMessage()
    ]
    assert [level for level, _ in said] == [logging.ERROR, logging.WARNING]


@virtual
async def test_discards_of_a_tasker_are_no_failures() -> None:
    database = table(50)

    async def tasker(task: Any) -> Any:
        return Discard("spam")

    runner = Runner(database, each(tasker), settings(breaker_failures=3))
    async with running(runner):
        await until(lambda: len(database.discarded) == 50)
        assert runner.ready


@virtual
async def test_readiness_follows_the_session() -> None:
    database = table(0)
    runner = Runner(database, do_all, settings())
    assert not runner.ready
    async with running(runner):
        await until(lambda: runner.ready)
        runner.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not runner.ready
    assert not runner.ready
