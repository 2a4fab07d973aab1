"""`task_timeout`: what one call may take, apart from the lease."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from session_lock import Release, Retry, Runner, each
from tests.unit.scenes import CANARY, assert_free, rows, run_for, running, settings, table
from tests.unit.virtual import now, until, virtual

ONCE = Retry(delay=3600, longest=3600, jitter=0)
LATE = "TimeoutError: the tasker did not end within task_timeout=2 seconds"


def errors(database: Any, key: int) -> list[str]:
    return [failure.error for failure in database.failures.get(key, [])]


class Stubborn:
    """A tasker under each whose tasks of some keys do not end before `thaw`, whatever happens."""

    def __init__(self, *keys: Any) -> None:
        self.keys = keys
        self.thaw = asyncio.Event()
        self.begun: list[Any] = []
        self.cancelled_at: list[float] = []
        self.ends: BaseException | None = None

    async def __call__(self, task: Any) -> None:
        self.begun.append(task.key)
        while task.key in self.keys and not self.thaw.is_set():
            try:
                await self.thaw.wait()
            except asyncio.CancelledError:
                self.cancelled_at.append(now())
        if task.key in self.keys and self.ends is not None:
            raise self.ends


@pytest.mark.fault("P16")
@virtual
async def test_a_late_call_is_cancelled_and_has_failed_and_the_others_go_on() -> None:
    database = table(3)
    cancelled: list[float] = []

    async def tasker(task: Any) -> None:
        if task.key == 2:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append(now())
                raise

    await run_for(10, database, each(tasker), settings(retry=ONCE, task_timeout=2))
    assert cancelled == [pytest.approx(2)]
    assert sorted(database.finished) == [1, 3]
    assert errors(database, 2) == [LATE]
    assert database[2].attempts == 1
    assert_free(database)


@virtual
async def test_without_a_limit_a_call_may_take_an_hour() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        await asyncio.sleep(3600)

    await run_for(3610, database, each(tasker), settings())
    assert database.finished == [1]
    assert len(database.sessions) == 1


@virtual
async def test_the_lease_is_kept_however_long_the_limit_is() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        await asyncio.sleep(200)

    await run_for(250, database, each(tasker), settings(task_timeout=210))
    assert database.finished == [1]
    assert len(database.sessions) == 1


@virtual
async def test_a_policy_for_timeouts_takes_effect() -> None:
    database = table(2)

    async def tasker(task: Any) -> None:
        await asyncio.sleep(100 if task.key == 1 else 0)

    retry = Retry(on={TimeoutError: Retry(max_attempts=2, delay=7, factor=1, jitter=0)})
    await run_for(30, database, each(tasker), settings(retry=retry, task_timeout=2))
    assert database.discarded == [1]
    assert errors(database, 1) == [LATE, LATE]


@virtual
async def test_what_the_late_call_raises_itself_is_told_as_the_cause() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise ConnectionError("while it cleaned up") from None

    await run_for(5, database, each(tasker), settings(retry=ONCE, task_timeout=2))
    assert errors(database, 1) == [f"{LATE}\nfrom ConnectionError: while it cleaned up"]


@pytest.mark.parametrize("answer", [None, Release(after=100)])
@virtual
async def test_a_late_call_that_comes_to_its_end_all_the_same_counts(answer: Any) -> None:
    database = table(1)

    async def tasker(task: Any) -> Any:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return answer

    await run_for(5, database, each(tasker), settings(retry=ONCE, task_timeout=2))
    assert database.failures == {}
    assert database.finished == ([1] if answer is None else [])
    assert database[1].attempts == (1 if answer is None else 0)


@pytest.mark.fault("P16")
@virtual
async def test_what_ignores_its_cancellation_keeps_its_slot_and_the_others_go_on(caplog: Any) -> None:
    database = table(1)
    tasker = Stubborn(1)
    config = settings(retry=ONCE, task_timeout=2, cancel_grace=1, concurrency=2)
    runner = Runner(database, each(tasker), config)
    async with running(runner):
        await until(lambda: tasker.begun)
        for key in range(2, 20):
            database.add(key, CANARY)
        await asyncio.sleep(200)
        assert sorted(database.finished) == list(range(2, 20))
        assert database[1].session_id == 1, "it is still held"
        assert tasker.begun.count(1) == 1
        assert tasker.cancelled_at == [pytest.approx(2)]
        tasker.thaw.set()
        await until(lambda: 1 in database.finished, within=0.1)
    assert len(database.sessions) == 1
    said = [r for r in caplog.records if "goes on after task_timeout=2 seconds" in r.getMessage()]
    assert [record.levelno for record in said] == [logging.ERROR]
    assert database.failures == {}
    assert_free(database)


@virtual
async def test_the_slot_of_an_overdue_call_is_taken() -> None:
    database = table(4)
    tasker = Stubborn(1)
    config = settings(retry=ONCE, task_timeout=2, cancel_grace=1, concurrency=1)
    async with running(Runner(database, each(tasker), config)):
        await asyncio.sleep(50)
        assert tasker.begun == [1]
        tasker.thaw.set()
        await until(lambda: len(database.finished) == 4)


@virtual
async def test_an_overdue_call_that_fails_in_the_end_has_failed_by_its_lateness() -> None:
    database = table(1)
    tasker = Stubborn(1)
    tasker.ends = ValueError("v")
    config = settings(retry=ONCE, task_timeout=2, cancel_grace=1)
    async with running(Runner(database, each(tasker), config)):
        await asyncio.sleep(50)
        tasker.thaw.set()
        await until(lambda: database.failures)
        await asyncio.sleep(1)
    assert errors(database, 1) == [f"{LATE}\nfrom ValueError: v"]


@pytest.mark.parametrize("how", ["stop", "cancel", "cancel twice"])
@virtual(leaves=0)
async def test_a_stop_does_not_wait_for_an_overdue_call_beyond_its_time(how: str, caplog: Any) -> None:
    database = table(3)
    tasker = Stubborn(1)
    config = settings(retry=ONCE, task_timeout=2, cancel_grace=1, drain_timeout=4)
    runner = Runner(database, each(tasker), config)
    run = asyncio.create_task(runner.run())
    await asyncio.sleep(20)
    began = now()
    runner.stop() if how == "stop" else run.cancel()
    if how == "cancel twice":
        await asyncio.sleep(0.1)
        run.cancel()
    await asyncio.wait({run})
    assert now() - began <= 4 + 1 + 0.5
    assert "left to expire with 1 abandoned tasks" in caplog.text
    assert database[1].session_id == 1
    assert not database.sessions[0].ended
    tasker.thaw.set()


@virtual
async def test_an_overdue_call_that_ends_during_the_drain_is_recorded() -> None:
    database = table(1)
    tasker = Stubborn(1)
    runner = Runner(database, each(tasker), settings(retry=ONCE, task_timeout=2, cancel_grace=1))
    run = asyncio.create_task(runner.run())
    await asyncio.sleep(20)
    runner.stop()
    await asyncio.sleep(3)
    tasker.thaw.set()
    await asyncio.wait({run})
    assert database.finished == [1]
    assert_free(database)


@virtual
async def test_a_call_that_is_cancelled_by_us_before_its_limit_is_released_though_it_ends_after_it() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)

    runner = Runner(database, each(tasker), settings(retry=ONCE, task_timeout=2, drain_timeout=0.5))
    run = asyncio.create_task(runner.run())
    await asyncio.sleep(1)
    runner.stop()
    await asyncio.wait({run})
    assert database.failures == {}
    assert database[1].attempts == 0
    assert_free(database)


@virtual
async def test_a_late_call_stays_late_when_it_is_cancelled_again_by_a_stop() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)

    runner = Runner(database, each(tasker), settings(retry=ONCE, task_timeout=2, drain_timeout=0.5))
    run = asyncio.create_task(runner.run())
    await asyncio.sleep(2.1)
    runner.stop()
    await asyncio.wait({run})
    assert errors(database, 1) == [LATE]
    assert database[1].attempts == 1


@virtual
async def test_a_late_batch_is_split_and_each_half_has_its_own_time() -> None:
    database = table(8)
    calls: list[tuple[float, list[Any]]] = []

    async def tasker(batch: Any) -> Any:
        calls.append((now(), [task.key for task in batch]))
        await asyncio.sleep(100 if any(task.key == 3 for task in batch) else 1)
        return batch

    await run_for(30, database, tasker, settings(retry=ONCE, task_timeout=2, batch_size=8))
    assert [call for _, call in calls] == [
        list(range(1, 9)),
        [1, 2, 3, 4],
        [1, 2],
        [3, 4],
        [3],
        [4],
        [5, 6, 7, 8],
    ]
    assert [at for at, _ in calls] == pytest.approx([0, 2, 4, 5, 7, 9, 10])
    assert errors(database, 3) == [LATE]
    assert len(database.finished) == 7


@virtual
async def test_what_a_late_batch_had_finished_before_stands() -> None:
    database = table(4)

    async def tasker(batch: Any) -> Any:
        for task in batch:
            await asyncio.sleep(100 if task.key == 4 else 0.6)
            batch.finish(task)
        return ()

    await run_for(30, database, tasker, settings(retry=ONCE, task_timeout=2, batch_size=4))
    assert database.finished == [1, 2, 3]
    assert sorted(database.failures) == [4]


@virtual
async def test_a_lost_lease_ends_an_overdue_call_as_any_other() -> None:
    database = table(3)
    tasker = Stubborn(1)
    config = settings(retry=ONCE, task_timeout=2, cancel_grace=1)
    runner = Runner(database, each(tasker), config)
    async with running(runner):
        await asyncio.sleep(10)
        database.expire(1)
        await until(lambda: len(database.sessions) == 2)
        await until(lambda: tasker.begun.count(1) == 2)
        tasker.thaw.set()
        await until(lambda: len(database.finished) == 3)
    assert database.finished.count(1) == 1


@virtual
async def test_time_that_a_task_waits_for_its_slot_does_not_count() -> None:
    database = table(10)

    async def tasker(task: Any) -> None:
        await asyncio.sleep(1.5)

    await run_for(30, database, each(tasker), settings(retry=ONCE, task_timeout=2, concurrency=1))
    assert len(database.finished) == 10
    assert rows(10).keys() == set(database.finished)


@virtual
async def test_failures_by_lateness_open_the_breaker() -> None:
    database = table(30)

    async def tasker(task: Any) -> None:
        await asyncio.sleep(100)

    runner = Runner(database, each(tasker), settings(retry=ONCE, task_timeout=2, breaker_failures=3))
    async with running(runner):
        await until(lambda: runner._breaker.open)
        assert not runner.ready
