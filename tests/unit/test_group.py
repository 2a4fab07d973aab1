"""`RunnerGroup`: several Runners that start and stop together."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from session_lock import DatabaseError, Runner, RunnerGroup, SchemaError, SettingsError
from tests.unit.scenes import Sleeper, assert_free, do_all, running, settings, table
from tests.unit.virtual import now, until, virtual


def pair(seconds: float = 0.0, **options: Any) -> tuple[Any, Any, list[Sleeper], RunnerGroup]:
    first, second = table(1), table(1)
    taskers = [Sleeper(seconds), Sleeper(seconds)]
    runners = [
        Runner(database, tasker, settings())
        for database, tasker in zip((first, second), taskers, strict=True)
    ]
    return first, second, taskers, RunnerGroup(*runners, **options)


@virtual
async def test_they_run_and_stop_together() -> None:
    first, second, taskers, group = pair(5)
    async with running(group):
        await until(lambda: all(tasker.begun for tasker in taskers))
    assert first.finished == second.finished == [1]
    assert now() == pytest.approx(5, abs=0.1)
    assert_free(first)
    assert_free(second)


@virtual
async def test_if_one_dies_the_others_stop_gracefully_and_its_error_is_raised() -> None:
    first, second, _, group = pair(5)
    error = SchemaError("run this")
    first.fail("get_work", error)
    with pytest.raises(SchemaError) as raised:
        await group.run()
    assert raised.value is error
    assert second.finished == [1]
    assert_free(second)


@virtual
async def test_if_both_die_one_error_is_raised_and_the_other_one_logged(caplog: Any) -> None:
    first, second, _, group = pair()
    first.fail("start_session", SchemaError("one"))
    second.fail("start_session", DatabaseError("two", retryable=False))
    with pytest.raises(SchemaError, match="one"):
        await group.run()
    assert "another Runner of the group failed: DatabaseError: two" in caplog.text


@virtual
async def test_cancelled_once_all_stop_gracefully_and_twice_now() -> None:
    for times in (1, 2):
        first, second, taskers, group = pair(1000 if times == 2 else 5)
        run = asyncio.create_task(group.run())
        await until(lambda: all(tasker.begun for tasker in taskers))  # noqa: B023
        for _ in range(times):
            run.cancel()
            await asyncio.sleep(1)
        with pytest.raises(asyncio.CancelledError):
            await run
        assert [tasker.ended[0][1] for tasker in taskers] == ["done" if times == 1 else "cancelled"] * 2
        assert_free(first)
        assert_free(second)


@virtual
async def test_a_failure_while_it_is_being_cancelled_is_logged(caplog: Any) -> None:
    first, _, taskers, group = pair(5)
    first.fail("finish_tasks", SchemaError("gone"))
    run = asyncio.create_task(group.run())
    await until(lambda: all(tasker.begun for tasker in taskers))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert "SchemaError: gone" in caplog.text


@virtual
async def test_in_a_cancelled_anyio_scope_it_is_one_cancellation() -> None:
    first, second, _, group = pair(10)
    with anyio.move_on_after(2):
        await group.run()
    assert first.finished == second.finished == [1]


@virtual
async def test_it_runs_once_and_a_second_run_leaves_the_first_alone() -> None:
    first, second, _, group = pair(5)
    async with running(group) as run:
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="a RunnerGroup runs once"):
            await group.run()
        await asyncio.sleep(1)
        assert not run.done()
    assert first.finished == second.finished == [1]


@virtual
async def test_as_a_block() -> None:
    first, second, _, group = pair(1)
    async with group:
        await until(lambda: first.finished and second.finished)
    assert_free(first)
    assert_free(second)


@virtual
async def test_a_death_in_its_block_is_critical_and_raised_by_leaving(caplog: Any) -> None:
    told: list[BaseException] = []
    first, second, _, group = pair(3, on_failure=told.append)
    with pytest.raises(SchemaError):
        async with group:
            await until(lambda: first.count("get_work"))
            first.fail("get_work", SchemaError("gone"))
            await until(lambda: group.failed)
    assert [type(error) for error in told] == [SchemaError]
    assert [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"] == [
        "the RunnerGroup has died: SchemaError: gone"
    ]
    assert second.finished == [1]


@virtual
async def test_wake_wakes_all() -> None:
    databases = [table(0), table(0)]
    group = RunnerGroup(*(Runner(database, do_all, settings(poll_interval=900)) for database in databases))
    async with running(group):
        await asyncio.sleep(1)
        for database in databases:
            database.add(1, "x")
        group.wake()
        await until(lambda: all(database.finished for database in databases), within=1)


@virtual
async def test_of_none_it_is_over_at_once() -> None:
    await RunnerGroup().run()
    async with RunnerGroup():
        pass


def test_the_same_runner_twice_is_refused() -> None:
    runner = Runner(table(0), do_all, settings())
    with pytest.raises(SettingsError, match="the same Runner twice"):
        RunnerGroup(runner, runner)
