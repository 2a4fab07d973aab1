"""docs/explanation/cancellation.md: what becomes of tasks, for each of its reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from session_lock import Runner, Settings, each
from session_lock.testing import MemoryDatabase, run_virtual
from tests.docs.pages import Page

Play = Callable[[MemoryDatabase[Any], Runner[Any]], Awaitable[object]]
SETTINGS = Settings(start_jitter=0, drain_timeout=2, task_timeout=50, tasks_per_session=5, concurrency=5)


def outcome(play: Play, *, accomplishes: bool = False) -> tuple[list[Any], int, dict[Any, Any], bool]:
    """Of task 1, which runs for ever: which are finished, its attempts, failures, and whether it may be claimed."""
    reached: list[str] = []

    async def forever(task: Any) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            reached.append("cancelled")
            await asyncio.sleep(1)  # cleaning up may await
            if not accomplishes:
                raise

    async def go() -> tuple[list[Any], int, dict[Any, Any], bool]:
        database = MemoryDatabase({1: None})
        runner = Runner(database, each(forever), SETTINGS)
        running = asyncio.create_task(runner.run())
        await asyncio.sleep(5)
        await play(database, runner)
        await asyncio.sleep(10)
        runner.stop()
        await asyncio.wait({running})
        assert reached
        errors = {key: failures[-1].error for key, failures in database.failures.items()}
        return database.finished, database[1].attempts, errors, 1 in database.pending

    return run_virtual(go())


async def stop(database: MemoryDatabase[Any], runner: Runner[Any]) -> None:
    runner.stop()


async def too_long(database: MemoryDatabase[Any], runner: Runner[Any]) -> None:
    await asyncio.sleep(50)


async def cancel(database: MemoryDatabase[Any], runner: Runner[Any]) -> None:
    await database.cancel(1)


def test_at_a_stop_it_is_given_back_without_blame() -> None:
    assert outcome(stop) == ([], 0, {}, True)


def test_after_its_time_it_has_failed() -> None:
    finished, attempts, errors, _ = outcome(too_long)
    assert (finished, attempts) == ([], 1)
    assert "TimeoutError: the tasker did not end within task_timeout=50 seconds" in errors[1]


def test_on_request_it_is_discarded() -> None:
    finished, _, _, pending = outcome(cancel)
    assert (finished, pending) == ([], False)


@pytest.mark.parametrize("play", [stop, too_long])
def test_what_is_accomplished_counts(play: Play) -> None:
    assert outcome(play, accomplishes=True)[0] == [1]


def test_its_code_compiles() -> None:
    Page("cancellation.md", folder="explanation").run(holding="async def send(task):")
