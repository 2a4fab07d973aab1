"""`health()`: right in each row of the design's table of how a Runner ends, and in what is between."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from session_lock import DatabaseError, Health, Retry, Runner, RunnerGroup, SchemaError, each
from session_lock.pulse import Pulse
from tests.unit.scenes import Sleeper, do_all, running, settings, table
from tests.unit.virtual import now, until, virtual

ONE = {"batch_size": 1, "concurrency": 1}


def told(runner: Runner[Any] | RunnerGroup) -> tuple[Any, ...]:
    """State, live, ready."""
    health = runner.health()
    return (*[each.state for each in health.runners], health.live, health.ready)


# The life of one ------------------------------------------------------------------------------------------


@virtual
async def test_before_and_after_its_life() -> None:
    runner = Runner(table(0), do_all, settings(start_jitter=50), name="mails")
    empty = Health(name="mails", state="starting", ready=False)
    assert runner.health() == empty
    async with running(runner):
        await asyncio.sleep(0.01)
        assert runner.health() == empty
        await until(lambda: runner.ready)
        assert told(runner) == ("running", True, True)
    assert told(runner) == ("stopped", True, False)
    assert runner.health().session is None


@virtual
async def test_a_stop_before_it_ran_is_no_failure() -> None:
    runner = Runner(table(0), do_all, settings())
    runner.stop()
    assert told(runner) == ("draining", True, False)
    await runner.run()
    assert told(runner) == ("stopped", True, False)


@virtual
async def test_the_numbers_while_it_runs() -> None:
    database, config = table(0), settings()
    runner = Runner(database, do_all, config)
    async with running(runner):
        await until(lambda: runner.ready)
        await asyncio.sleep(60)
        margins, looks = [], []
        for _ in range(100):
            health = runner.health()
            margins.append(health.lease_margin)
            looks.append(health.looked_ago)
            await asyncio.sleep(0.1)
        assert health.session == 1
        assert (health.last_error, health.last_error_ago) == (None, None)
        assert health.loop_lag == 0
        # What it has after a keepalive, and before the next one.
        most = config.lease_ttl - config.guard - config.cancel_grace
        assert max(margins) == pytest.approx(most, abs=0.2)
        fallen = (most - min(margins)) / config.keepalive_interval
        assert 0.85 < fallen < 1.15
        assert 0 <= min(looks) < 0.15
        assert max(looks) <= config.poll_interval * 1.2 + 0.1


# The rows of the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "cancelled once", "cancelled twice"])
@virtual
async def test_while_it_drains_it_is_live_and_not_ready(how: str) -> None:
    database, tasker = table(1), Sleeper(10)
    runner = Runner(database, tasker, settings())
    run = asyncio.create_task(runner.run())
    await until(lambda: tasker.begun)
    database.delay("finish_tasks", 1)
    database.delay("release_tasks", 1)
    if how == "stopped":
        runner.stop()
    else:
        run.cancel()
    await asyncio.sleep(1)
    assert told(runner) == ("draining", True, False)
    if how == "cancelled twice":
        run.cancel()
        await asyncio.sleep(0.5)
        assert tasker.ended
        assert told(runner) == ("draining", True, False)
    await asyncio.wait({run})
    assert told(runner) == ("stopped", True, False)


@virtual
async def test_a_request_to_drain_is_told_as_a_stop() -> None:
    database, tasker = table(1), Sleeper(12)
    runner = Runner(database, tasker, settings())
    run = asyncio.create_task(runner.run())
    await until(lambda: tasker.begun)
    await database.drain(1)
    await until(lambda: not runner.ready, within=6)
    assert told(runner) == ("draining", True, False)
    await run
    assert told(runner) == ("stopped", True, False)


@virtual
async def test_a_lost_session_is_live_and_ready_again_with_the_next_one() -> None:
    database, tasker = table(1), Sleeper(1000, stubborn=True)
    runner = Runner(database, tasker, settings())
    async with running(runner):
        await until(lambda: tasker.begun)
        database.expire(1)
        await until(lambda: not runner.ready, within=6)
        assert told(runner) == ("lost", True, False)  # for as long as its taskers may take to end
        health = runner.health()
        assert health.lease_margin == 0
        assert health.last_error.startswith("session 1 is lost: ")
        tasker.thaw.set()
        await until(lambda: runner.ready)
        assert told(runner) == ("running", True, True)
        health = runner.health()
        assert health.session == 2
        assert health.last_error.startswith("session 1 is lost: ")
        assert health.last_error_ago > 0


@virtual
async def test_while_the_database_is_away_the_margin_shrinks_and_then_it_is_not_ready() -> None:
    database, tasker = table(1), Sleeper(1000)
    config = settings()
    runner = Runner(database, tasker, config)
    async with running(runner):
        await until(lambda: tasker.begun)
        database.partition()
        away = now()
        await asyncio.sleep(10)
        assert told(runner) == ("running", True, True)  # its lease holds, and its taskers go on
        assert runner.health().lease_margin < config.lease_ttl - config.cancel_grace - config.guard - 9
        assert runner.health().last_error.startswith("DatabaseError: ")
        await until(lambda: not runner.ready)
        assert runner.health().lease_margin == 0
        assert now() - away <= config.lease_ttl - config.cancel_grace
        await until(lambda: runner.health().session is None)
        assert told(runner) == ("starting", True, False)
        await asyncio.sleep(1000)  # however long that is: a new start mends nothing
        assert told(runner) == ("starting", True, False)
        health = runner.health()
        assert (
            health.last_error_ago <= 10.0 + config.call_timeout + 0.1
        )  # the longest pause, and the next try
        assert health.looked_ago > 1000
        assert health.lease_margin is None
        database.heal()
        await until(lambda: runner.ready)
        assert told(runner) == ("running", True, True)


@pytest.mark.parametrize("verb", ["get_work", "bump_session", "finish_tasks"])
@virtual
async def test_an_error_of_the_database_is_told_and_is_no_state(verb: str) -> None:
    database = table(1)
    database.fail(verb, DatabaseError("no space left"), times=1)
    runner = Runner(database, do_all, settings())
    async with running(runner):
        await until(lambda: runner.health().last_error)
        assert runner.health().last_error == "DatabaseError: no space left"
        assert told(runner) == ("running", True, True)


@virtual
async def test_while_no_look_succeeds_it_is_ready_and_tells() -> None:
    """As while the table is locked as a whole. All that share the database would be out at once."""
    database = table(1)
    database.fail("get_work", DatabaseError("the table is locked"))
    runner = Runner(database, do_all, settings())
    async with running(runner):
        await asyncio.sleep(1000)
        assert told(runner) == ("running", True, True)
        health = runner.health()
        assert (health.looked_ago, health.last_error) == (None, "DatabaseError: the table is locked")
        assert health.last_error_ago < 60
        database.heal()
        await until(lambda: runner.health().looked_ago is not None)
        database.fail("get_work", DatabaseError("the table is locked"))
        await asyncio.sleep(1000)
        assert told(runner) == ("running", True, True)
        assert runner.health().looked_ago > 900


@virtual
async def test_a_database_that_moves_is_drained_for() -> None:
    here, there = table(1), table(0)
    at = here
    tasker = Sleeper(8)

    async def find() -> Any:
        return at

    runner = Runner(find, tasker, settings())
    async with running(runner):
        await until(lambda: tasker.begun)
        at = there
        await until(lambda: not runner.ready)
        assert told(runner) == ("draining", True, False)
        await until(lambda: runner.ready)
        assert there.count("start_session") == 1


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("start_session", SchemaError("run this")),
        ("get_work", SchemaError("run this")),
        ("bump_session", DatabaseError("no such role", retryable=False)),
    ],
)
@virtual
async def test_what_only_a_person_can_mend_ends_it_and_then_it_is_not_live(
    verb: str, error: Exception
) -> None:
    database, tasker = table(1), Sleeper(6)
    runner = Runner(database, tasker, settings())
    run = asyncio.create_task(runner.run())
    await asyncio.sleep(0)
    if verb != "start_session":
        await until(lambda: tasker.begun)
    database.fail(verb, error)
    if verb != "start_session":
        await until(lambda: not runner.ready)
        assert told(runner) == ("draining", True, False)
    await asyncio.wait({run})
    assert run.exception() is error
    await asyncio.sleep(1)
    assert told(runner) == ("failed", False, False)
    health = runner.health()
    assert health.last_error == f"{type(error).__name__}: {error}"
    assert health.last_error_ago == pytest.approx(1, abs=0.01)


# What is between ------------------------------------------------------------------------------------------


@virtual
async def test_a_sick_one_is_live_and_not_ready() -> None:
    async def tasker(task: Any) -> None:
        raise ConnectionError("no route")

    config = settings(breaker_failures=3, retry=Retry(delay=3600, longest=3600, jitter=0))
    runner = Runner(table(20), each(tasker), config)
    async with running(runner):
        await until(lambda: runner.health().state == "sick")
        assert told(runner) == ("sick", True, False)
        assert runner.health().last_error is None  # what a tasker raises may hold a row


@virtual
async def test_a_row_that_refuses_is_told_as_it_is_logged_and_makes_nobody_sick(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would do the same to any instance, and the tasker has done what it should."""
    database = table(20, refuse=lambda *_: "no (P0001)")
    config = settings(breaker_failures=3, retry=Retry(delay=3600, longest=3600, jitter=0))
    runner = Runner(database, do_all, config)
    async with running(runner):
        await until(lambda: len(database.failures) == 20)
        assert told(runner) == ("running", True, True)
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(said) == 20
        assert runner.health().last_error == said[-1]
    assert said[-1].endswith("cannot be recorded: no (P0001)")


@virtual
async def test_a_paused_one_is_live_and_ready_and_looks_no_more() -> None:
    database = table(0)
    runner = Runner(database, do_all, settings())
    async with running(runner):
        await until(lambda: runner.ready)
        await database.pause()
        await until(lambda: runner.health().state == "paused", within=6)
        assert told(runner) == ("paused", True, True)  # it may serve other things
        await asyncio.sleep(60)
        assert runner.health().looked_ago > 50
        await database.resume()
        await until(lambda: runner.health().state == "running", within=6)


def test_the_event_loop_s_worst_delay_is_told_for_a_while() -> None:
    runner = Runner(table(0), do_all, settings())

    async def main() -> None:
        async with running(runner):
            async with asyncio.timeout(20):
                while not runner.ready:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            time.sleep(1.5)
            async with asyncio.timeout(20):
                while runner.health().loop_lag < 0.4:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


async def test_of_the_last_delays_the_longest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("session_lock.pulse.lease_clock", lambda: clock)
    pulse = Pulse(asyncio.get_running_loop())

    async def answered_after(seconds: float) -> float:
        nonlocal clock
        pulse.ask()
        clock += seconds
        await asyncio.sleep(0)
        return pulse.lag()

    assert pulse.lag() == 0.0
    assert [await answered_after(each) for each in (0.5, 2.0, 0.25)] == [0.5, 2.0, 2.0]
    clock += 9.5
    assert await answered_after(0.125) == 2.0
    clock += 0.25
    assert pulse.lag() == 0.0
    assert await answered_after(0.25) == 0.25
    pulse.ask()
    clock += 1.0
    assert pulse.lag() == 1.0  # it goes on
    await asyncio.sleep(0)


@virtual
async def test_as_json_it_has_all_there_is() -> None:
    runner = Runner(table(0), do_all, settings(), name="mails")
    assert runner.health().as_json() == {
        "live": True, "name": "mails", "state": "starting", "ready": False, "session": None, "lease_margin": None, "looked_ago": None,
        "loop_lag": None, "last_error": None, "last_error_ago": None,
    }  # fmt: skip
    assert RunnerGroup(runner).health().as_json() == {
        "live": True, "ready": False, "runners": [runner.health().as_json()],
    }  # fmt: skip


# A group --------------------------------------------------------------------------------------------------


@virtual
async def test_a_group_is_ready_if_all_are_and_live_until_all_have_died() -> None:
    one, two = table(0), table(0)
    group = RunnerGroup(Runner(one, do_all, settings()), Runner(two, do_all, settings()))
    assert told(group) == ("starting", "starting", True, False)
    run = asyncio.create_task(group.run())
    await until(lambda: group.ready)
    assert told(group) == ("running", "running", True, True)
    one.fail("get_work", SchemaError("run this"))
    await until(lambda: group.failed)
    assert told(group) == ("failed", "running", True, False)
    two.fail("get_work", SchemaError("run that"))
    await asyncio.wait({run})
    assert told(group) == ("failed", "failed", False, False)
    assert run.exception() is group.failed


@virtual
async def test_an_empty_group_is_live() -> None:
    group = RunnerGroup()
    async with running(group):
        await asyncio.sleep(0)
        assert told(group) == (True, True)
    assert told(group) == (True, False)
