"""Tasks that a tasker finishes in transactions of its own: those have the last word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from session_lock import Retry, Settings
from session_lock.testing import (
    FaultyDatabase,
    MemoryDatabase,
    MemoryTransaction,
    run_until_idle,
    run_virtual,
)
from tests.unit.test_metrics import Meters

SETTINGS = Settings(batch_size=3, retry=Retry(delay=3600))


async def commit(batch: Any) -> Any:
    async with MemoryTransaction() as connection:
        await batch.finish_in(connection)
    return batch


async def swallow(batch: Any) -> Any:
    """An error in it is caught, so that nothing is committed, and nobody is told."""
    async with MemoryTransaction() as connection:
        await batch.finish_in(connection)
        connection.fail()
    return batch


async def swallow_in_a_thread(batch: Any) -> Any:
    def write() -> None:
        with MemoryTransaction() as connection:
            batch.finish_in_sync(connection)
            connection.fail()

    await asyncio.to_thread(write)
    return batch


def outcomes(database: Any, tasker: Any, settings: Settings = SETTINGS) -> dict[str, float]:
    meters = Meters()
    run_virtual(run_until_idle(database, tasker, settings, meter_provider=meters.provider))
    return meters.outcomes()


def test_what_it_has_committed_is_finished() -> None:
    database = MemoryDatabase(dict.fromkeys(range(3)))
    assert outcomes(database, commit) == {"finished": 3}
    assert (len(database.finished), database.failures) == (3, {})


@pytest.mark.parametrize("tasker", [swallow, swallow_in_a_thread])
def test_what_it_has_not_committed_has_failed_whatever_is_returned(tasker: Any, caplog: Any) -> None:
    database = MemoryDatabase(dict.fromkeys(range(3)))
    assert outcomes(database, tasker) == {"retried": 3}
    assert database.finished == []
    ((failure,), *_) = database.failures.values()
    assert "was not committed: an error in it that is caught takes all of it back" in failure.error
    assert caplog.text.count("was not committed") == 3


def test_it_is_given_up_like_any_other_failure() -> None:
    database = MemoryDatabase(dict.fromkeys(range(3)))
    settings = Settings(batch_size=3, retry=Retry(delay=3600, max_attempts=1))
    assert outcomes(database, swallow, settings) == {"discarded": 3}
    assert len(database.discarded) == 3


def test_what_is_finished_by_name_is_finished_all_the_same() -> None:
    async def tasker(batch: Any) -> Any:
        await swallow(batch)
        for task in batch:
            batch.finish(task)

    database = MemoryDatabase(dict.fromkeys(range(3)))
    assert outcomes(database, tasker) == {"finished": 3}


def test_what_it_has_committed_need_not_be_returned() -> None:
    async def tasker(batch: Any) -> Any:
        await commit(batch)
        return []

    database = MemoryDatabase(dict.fromkeys(range(12)))
    settings = Settings(batch_size=3, retry=Retry(delay=3600), breaker_failures=5)
    assert outcomes(database, tasker, settings) == {"finished": 12}
    assert database.failures == {}


def test_a_second_call_may_do_without_one() -> None:
    calls: list[int] = []

    async def tasker(batch: Any) -> Any:
        calls.append(len(batch))
        if len(batch) > 1:
            async with MemoryTransaction() as connection:
                await batch.finish_in(connection)
                raise LookupError
        return batch

    database = MemoryDatabase(dict.fromkeys(range(2)))
    assert outcomes(database, tasker) == {"finished": 2}
    assert calls == [2, 1, 1]


def test_the_others_of_its_batch_are_finished_as_usual() -> None:
    async def tasker(batch: Any) -> Any:
        async with MemoryTransaction() as connection:
            await batch[0].finish_in(connection)
            connection.fail()
        return batch

    database = MemoryDatabase(dict.fromkeys(range(3)))
    assert outcomes(database, tasker) == {"finished": 2, "retried": 1}


@pytest.mark.parametrize(("tasker", "finished"), [(commit, 3), (swallow, 0)])
def test_nothing_changes_if_the_first_answer_is_lost(tasker: Any, finished: int) -> None:
    database = FaultyDatabase(MemoryDatabase(dict.fromkeys(range(3))))
    database.lose_reply("release_tasks")
    run_virtual(run_until_idle(database, tasker, SETTINGS))
    assert len(database.inner.finished) == finished
    assert {len(each) for each in database.inner.failures.values()} == ({1} if not finished else set())
