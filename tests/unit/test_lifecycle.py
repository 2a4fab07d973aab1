"""How a Runner ends: the rows of the table in DESIGN.md section 4, one by one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from typing import Any

import anyio
import pytest

from session_lock import DatabaseError, Runner, RunnerGroup, SchemaError, SessionLost, SettingsError, each
from tests.unit.faults import Faulty
from tests.unit.scenes import Sleeper, assert_free, do_all, running, settings, table
from tests.unit.virtual import left_tasks, now, until, virtual

ONE = {"batch_size": 1, "concurrency": 1}


async def begun(tasker: Sleeper) -> None:
    await until(lambda: tasker.begun)


# Gracefully ----------------------------------------------------------------------------------------------


@pytest.mark.fault("P2")
@virtual
async def test_stop_lets_running_taskers_end_and_frees_the_others_at_once() -> None:
    database, tasker = table(5), Sleeper(10)
    async with running(Runner(database, tasker, settings(**ONE, prefetch=1))) as run:
        await begun(tasker)
        await asyncio.sleep(1)
        runner_stopped = now()
        tasker_runs = [row for row in database._tasks.values() if row.session_id]
        assert len(tasker_runs) == 2  # one runs, one is prefetched
    assert run.done()
    assert 8.9 < now() - runner_stopped < 9.2
    assert tasker.ended == [(pytest.approx(10, abs=0.1), "done")]
    assert database.finished == [1]
    released = database.times("release_tasks")
    assert released == [pytest.approx(runner_stopped, abs=0.01)]
    assert [database[key].attempts for key in (1, 2, 3)] == [1, 0, 0]
    assert_free(database)


@virtual
async def test_unstarted_tasks_are_free_at_once_even_if_a_look_hangs() -> None:
    database, tasker = table(4), Sleeper(5)
    async with running(Runner(database, tasker, settings(**ONE, tasks_per_session=4))) as run:
        await begun(tasker)
        database.hang("get_work", skip=0)
        await until(
            lambda: len(tasker.begun) == 3
        )  # one is ready; there is room, and the look for more hangs
        await until(lambda: database.count("get_work") > 2)
        looked, stopped = database.times("get_work")[-1], now()
        assert stopped - looked < 0.1
        ready = database.count("release_tasks")
        run.cancel()
        await asyncio.sleep(0.1)
        assert database.count("release_tasks") == ready + 1
        assert database[4].session_id is None
        await asyncio.wait({run})


@virtual
async def test_stop_cancels_taskers_after_drain_timeout_and_gives_their_attempts_back() -> None:
    database, tasker = table(3), Sleeper(1000)
    async with running(Runner(database, tasker, settings(**ONE, drain_timeout=7))):
        await begun(tasker)
        stopped = now()
    assert tasker.ended == [(pytest.approx(stopped + 7, abs=0.01), "cancelled")]
    assert now() - stopped == pytest.approx(7, abs=0.1)
    assert [row.attempts for row in database._tasks.values()] == [0, 0, 0]
    assert database.failures == {}
    assert_free(database)


@virtual
async def test_the_drain_counts_from_the_stop_even_if_a_look_hangs() -> None:
    database, tasker = table(1), Sleeper(1000)
    async with running(Runner(database, tasker, settings(drain_timeout=2))):
        await begun(tasker)
        database.hang("get_work")
        await asyncio.sleep(1.5)
        assert len(database.times("get_work")) > 1
        stopped = now()
    assert tasker.ended == [(pytest.approx(stopped + 2, abs=1.01), "cancelled")]


@virtual
async def test_the_session_ends_last() -> None:
    database = table(30)
    async with running(Runner(database, Sleeper(0.3), settings(batch_size=2, concurrency=3))):
        await asyncio.sleep(1)
    verbs = [verb for verb, _, _ in database.calls]
    assert verbs[-1] == "end_session"
    assert verbs.count("end_session") == verbs.count("start_session") == 1
    assert_free(database)


@pytest.mark.fault("P2")
@virtual
async def test_keepalives_go_on_while_it_drains_and_tell_so() -> None:
    database, tasker = table(1), Sleeper(40)
    config = settings(drain_timeout=60)
    async with running(Runner(database, tasker, config)):
        await begun(tasker)
        stopped = now()
    assert tasker.ended == [(pytest.approx(40, abs=0.1), "done")]
    draining = [
        at
        for at, call in zip(database.times("bump_session"), database.arguments("bump_session"), strict=True)
        if call["draining"]
    ]
    assert draining[0] == pytest.approx(stopped, abs=0.01)
    assert 6 <= len(draining) <= 10
    assert max(later - earlier for earlier, later in zip(draining, draining[1:], strict=False)) <= 5.6
    assert database.finished == [1]


@virtual
async def test_one_cancellation_is_a_graceful_stop() -> None:
    database, tasker = table(3), Sleeper(10)
    run = asyncio.create_task(Runner(database, tasker, settings(**ONE)).run())
    await begun(tasker)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert tasker.ended == [(pytest.approx(10, abs=0.1), "done")]
    assert database.finished == [1]
    assert_free(database)


@virtual
async def test_stop_and_then_a_cancellation_is_still_graceful() -> None:
    database, tasker = table(3), Sleeper(10)
    runner = Runner(database, tasker, settings(**ONE))
    run = asyncio.create_task(runner.run())
    await begun(tasker)
    runner.stop()
    await asyncio.sleep(1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert tasker.ended[0][1] == "done"
    assert database.finished == [1]


@pytest.mark.fault("P2")
@virtual
async def test_stop_twice_is_one_stop() -> None:
    database, tasker = table(1), Sleeper(5)
    runner = Runner(database, tasker, settings())
    async with running(runner):
        await begun(tasker)
        runner.stop()
        runner.stop()
        await asyncio.sleep(1)
        runner.stop()
    runner.stop()
    assert database.finished == [1]
    assert database.count("end_session") == 1


@virtual
async def test_stop_before_run_ends_run_before_it_begins() -> None:
    database = table(1)
    runner = Runner(database, do_all, settings(start_jitter=100))
    runner.stop()
    await runner.run()
    assert now() == 0
    assert database.calls == []


@virtual
async def test_stop_during_the_start_jitter_is_at_once() -> None:
    database = table(1)
    async with running(Runner(database, do_all, settings(start_jitter=1000))):
        await asyncio.sleep(0.5)
    assert now() < 0.6
    assert database.finished == []


@pytest.mark.fault("P2")
@virtual
async def test_stop_while_a_session_starts_ends_that_session() -> None:
    database = table(1)
    database.delay("start_session", 1, committed=True)
    async with running(Runner(database, do_all, settings())):
        await asyncio.sleep(0.5)
    assert database.finished == []
    assert_free(database)
    assert len(database.sessions) == 1


def test_stop_after_the_loop_is_closed_does_nothing() -> None:
    runner = Runner(table(1), do_all, settings())

    async def main() -> None:
        task = asyncio.create_task(runner.run())
        await asyncio.sleep(0.01)
        runner.stop()
        await task

    asyncio.run(main())
    runner.stop()


def test_stop_from_another_thread_wakes_the_loop() -> None:
    runner = Runner(table(0), do_all, settings(poll_interval=30))

    async def main() -> float:
        clock = asyncio.get_running_loop().time
        threading.Timer(0.05, runner.stop).start()
        began = clock()
        await runner.run()
        return clock() - began

    assert asyncio.run(main()) < 2


@pytest.mark.fault("P14")
@virtual
async def test_a_runner_runs_once() -> None:
    database = table(1)
    runner = Runner(database, do_all, settings())
    async with running(runner):
        await until(lambda: database.finished)
        with pytest.raises(RuntimeError, match="a Runner runs once"):
            await runner.run()
        await asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="a Runner runs once"):
        await runner.run()
    assert database.count("start_session") == 1


# Now -----------------------------------------------------------------------------------------------------


@virtual
async def test_the_second_cancellation_cancels_the_taskers_and_records_what_is_accomplished() -> None:
    database, tasker = table(3), Sleeper(1000)

    async def half(batch: Any) -> Any:
        batch.finish(batch[0])
        return await tasker(batch)

    run = asyncio.create_task(Runner(database, half, settings(batch_size=2, concurrency=1)).run())
    database.delay("finish_tasks", 2)
    await begun(tasker)
    run.cancel()
    await asyncio.sleep(1)
    run.cancel()
    cancelled = now()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert tasker.ended == [(pytest.approx(cancelled, abs=0.01), "cancelled")]
    assert now() - cancelled <= 2.1
    assert database.finished == [1]
    assert database[2].attempts == 0
    assert_free(database)


@virtual
async def test_more_cancellations_change_nothing_and_are_one() -> None:
    database, tasker = table(1), Sleeper(1000)
    run = asyncio.create_task(Runner(database, tasker, settings()).run())
    await begun(tasker)
    for _ in range(50):
        run.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [how for _, how in tasker.ended] == ["cancelled"]
    assert_free(database)


@virtual
async def test_recording_and_ending_take_no_longer_than_shutdown_timeout() -> None:
    database, tasker = table(1), Sleeper(2)
    async with running(Runner(database, tasker, settings(shutdown_timeout=4))):
        await begun(tasker)
        for verb in ("finish_tasks", "release_tasks", "bump_session", "end_session"):
            database.hang(verb)
        await asyncio.sleep(1)
        stopped = now()
    assert now() - stopped == pytest.approx(1 + 4, abs=0.1)  # the tasker's last second, and then
    assert database.finished == []
    assert database.count("end_session") >= 1


@virtual
async def test_an_end_that_fails_leaves_the_session_to_expire(caplog: Any) -> None:
    database = table(1)
    database.fail("end_session")
    async with running(Runner(database, do_all, settings())):
        await until(lambda: database.finished)
    assert "is left to expire" in caplog.text
    assert not database.sessions[0].ended


@virtual
async def test_what_could_not_be_recorded_is_said(caplog: Any) -> None:
    database = table(1)
    database.fail("finish_tasks")
    async with running(Runner(database, do_all, settings())):
        await asyncio.sleep(1)
    assert "session 1 ends with 1 tasks whose outcome is not recorded" in caplog.text
    assert_free(database)


@virtual
async def test_of_a_session_that_was_ended_nothing_is_held_also_if_its_release_was_not_recorded() -> None:
    database = table(1)
    database.fail("release_tasks")
    kept: list[Any] = []

    async def tasker(task: Any) -> None:
        kept.append(task)  # as what it has left behind might: a thread of its own
        await asyncio.sleep(1000)

    async with running(Runner(database, each(tasker), settings(drain_timeout=1))):
        await until(lambda: kept)
    assert_free(database)
    with pytest.raises(SessionLost):
        kept[0].assert_held()
    assert kept[0].lease_left() == 0


# Taskers that will not go ------------------------------------------------------------------------------------


@pytest.mark.fault("P8")
@virtual
async def test_a_tasker_that_swallows_its_cancellation_is_abandoned_and_its_row_left_to_expire(
    caplog: Any,
) -> None:
    database = table(3)
    thaw = asyncio.Event()

    async def stubborn(task: Any) -> None:
        while task.key == 1 and not thaw.is_set():
            try:
                await thaw.wait()
            except asyncio.CancelledError:
                pass
        await asyncio.sleep(0.1)

    async with running(Runner(database, each(stubborn), settings(drain_timeout=3, cancel_grace=2))):
        await until(lambda: len(database.finished) == 2)
        stopped = now()
    assert now() - stopped == pytest.approx(3 + 2, abs=0.1)
    assert database[1].session_id == 1
    assert not database.sessions[0].ended
    assert database.count("end_session") == 0
    assert "ignores its cancellation: its 1 tasks are abandoned" in caplog.text
    assert "session 1 is left to expire with 1 abandoned tasks" in caplog.text
    assert "outcome is not recorded" not in caplog.text
    assert len(await left_tasks()) == 1  # the tasker's alone
    thaw.set()
    await asyncio.sleep(1)
    assert database[1].session_id == 1  # too late


@virtual
async def test_a_tasker_that_takes_its_time_to_go_is_waited_for() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1.5)

    async with running(Runner(database, each(tasker), settings(drain_timeout=1, cancel_grace=2))):
        await until(lambda: database[1].attempts)
        stopped = now()
    assert now() - stopped == pytest.approx(2.5, abs=0.1)
    assert_free(database)
    assert database[1].attempts == 0


@virtual
async def test_a_tasker_that_finishes_in_spite_of_its_cancellation_has_finished() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)

    async with running(Runner(database, each(tasker), settings(drain_timeout=1))):
        await until(lambda: database[1].attempts)
    assert database.finished == [1]


@virtual
async def test_what_an_abandoned_tasker_comes_to_is_not_silent(caplog: Any) -> None:
    database, tasker = table(1), Sleeper(1000, stubborn=True)

    async def and_fails(batch: Any) -> Any:
        await tasker(batch)
        with pytest.raises(ValueError, match="is not a task"):
            batch.finish(object())
        batch.finish(batch[0])
        raise LookupError

    async with running(Runner(database, and_fails, settings(drain_timeout=1, cancel_grace=1))):
        await begun(tasker)
    tasker.thaw.set()
    await left_tasks()
    assert "an abandoned tasker ended with LookupError" in caplog.text
    assert database.finished == []


# Under other hands ---------------------------------------------------------------------------------------


@virtual
async def test_in_asyncio_timeout_it_ends_gracefully_and_the_timeout_is_the_timeouts() -> None:
    database, tasker = table(1), Sleeper(10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await Runner(database, tasker, settings()).run()
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    assert now() == pytest.approx(10, abs=0.1)
    assert database.finished == [1]
    assert_free(database)


@virtual
async def test_in_wait_for_too() -> None:
    database, tasker = table(1), Sleeper(10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Runner(database, tasker, settings()).run(), 3)
    assert database.finished == [1]
    assert_free(database)


@virtual
async def test_in_a_task_group_that_fails_it_ends_gracefully_and_the_group_raises_the_other_ones_error() -> (
    None
):
    database, tasker = table(1), Sleeper(10)

    async def fail() -> None:
        await asyncio.sleep(3)
        raise LookupError("sibling")

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            group.create_task(Runner(database, tasker, settings()).run())
            group.create_task(fail())
    assert [type(error) for error in raised.value.exceptions] == [LookupError]
    assert database.finished == [1]
    assert_free(database)


class Turns:
    """How often the loop goes round while virtual time stands still or not: a busy loop would be seen here."""

    def __init__(self) -> None:
        self.count = 0
        loop = asyncio.get_running_loop()
        once = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            self.count += 1
            once()

        loop._run_once = counted  # type: ignore[attr-defined]


@virtual
async def test_in_a_cancelled_anyio_scope_it_is_cancelled_once_and_not_at_each_turn_of_the_loop() -> None:
    database, tasker = table(3), Sleeper(10)
    turns = Turns()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(Runner(database, tasker, settings(**ONE)).run)
            await begun(tasker)
            before = turns.count
            scope.cancel()
    # anyio delivers again and again with call_soon while the group's other task, this one, is shielded by nothing: the
    # loop turns for that, so what is counted is what the Runner's own wait adds.
    assert tasker.ended == [(pytest.approx(10, abs=0.1), "done")]
    assert database.finished == [1]
    assert scope.cancelled_caught
    assert turns.count - before < 1000
    assert_free(database)


@virtual
async def test_directly_in_a_cancelled_anyio_scope_it_is_no_busy_loop_either() -> None:
    database, tasker = table(1), Sleeper(10)
    turns = Turns()
    with anyio.move_on_after(3) as scope:
        await Runner(database, tasker, settings()).run()
    assert scope.cancelled_caught
    assert tasker.ended == [(pytest.approx(10, abs=0.1), "done")]
    assert database.finished == [1]
    assert turns.count < 1000
    assert_free(database)


@virtual
async def test_taskers_can_use_anyio_and_are_not_in_the_scope_around_run() -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        with anyio.move_on_after(1):
            await anyio.sleep(100)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 2)

    with anyio.move_on_after(0.5):
        await Runner(database, each(tasker), settings()).run()
    assert database.finished == [1]
    assert now() == pytest.approx(3, abs=0.1)


@pytest.mark.fault("P19")
@virtual
async def test_if_all_tasks_are_cancelled_at_once_it_ends_at_once(caplog: Any) -> None:
    """As `asyncio.run` does to what is left when its main task has ended."""
    database, tasker = table(3), Sleeper(1000)
    run = asyncio.create_task(Runner(database, tasker, settings(**ONE)).run())
    await begun(tasker)
    everything = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in everything:
        task.cancel()
    await asyncio.wait(everything, timeout=1)
    assert all(task.done() for task in everything)
    assert run.cancelled()
    assert [how for _, how in tasker.ended] == ["cancelled"]


# async with ------------------------------------------------------------------------------------------------


@virtual
async def test_leaving_the_block_stops_gracefully() -> None:
    database, tasker = table(3), Sleeper(5)
    async with Runner(database, tasker, settings(**ONE)) as runner:
        await begun(tasker)
        assert runner.failed is None
    assert database.finished == [1]
    assert now() == pytest.approx(5, abs=0.1)
    assert_free(database)


@virtual
async def test_a_body_that_raises_stops_it_gracefully_and_its_error_goes_on() -> None:
    database, tasker = table(1), Sleeper(5)
    with pytest.raises(LookupError, match="the body"):
        async with Runner(database, tasker, settings()):
            await begun(tasker)
            raise LookupError("the body's")
    assert database.finished == [1]
    assert_free(database)


@virtual
async def test_a_body_that_is_cancelled_stops_it_gracefully_and_cancelled_again_now() -> None:
    database, tasker = table(1), Sleeper(1000)

    async def body() -> None:
        async with Runner(database, tasker, settings()):
            await asyncio.sleep(1000)

    task = asyncio.create_task(body())
    await begun(tasker)
    task.cancel()
    await asyncio.sleep(3)
    assert tasker.ended == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tasker.ended == [(pytest.approx(3, abs=0.1), "cancelled")]
    assert_free(database)


@virtual
async def test_a_block_in_a_cancelled_anyio_scope_is_left_gracefully() -> None:
    database, tasker = table(1), Sleeper(10)
    turns = Turns()
    with anyio.move_on_after(3):
        async with Runner(database, tasker, settings()):
            await anyio.sleep(100)
    assert database.finished == [1]
    assert turns.count < 1000
    assert_free(database)


@virtual
async def test_entering_cannot_be_cancelled_halfway() -> None:
    database = table(1)

    async def body() -> None:
        async with Runner(database, do_all, settings()):
            await asyncio.sleep(10)

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual
async def test_a_runner_that_dies_in_its_block_is_critical_and_leaving_raises_it(caplog: Any) -> None:
    database = table(1)
    error = SchemaError("run: session-lock install")
    told: list[BaseException] = []
    runner = Runner(database, do_all, settings(), on_failure=told.append)
    with pytest.raises(SchemaError) as raised:
        async with runner:
            await until(lambda: database.finished)
            database.fail("get_work", error)
            await until(lambda: runner.failed)
            assert told == [error]
            await asyncio.sleep(5)
    assert raised.value is runner.failed is error
    critical = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert critical == ["the Runner has died: SchemaError: run: session-lock install"]
    assert told == [error]
    assert_free(database)


@virtual
async def test_a_body_that_raises_after_the_runner_has_died_raises_its_own() -> None:
    database = table(1)
    database.fail("start_session", SchemaError("no"))
    runner = Runner(database, do_all, settings())
    with pytest.raises(LookupError):
        async with runner:
            await until(lambda: runner.failed)
            raise LookupError


@virtual
async def test_a_runner_that_dies_just_when_the_block_is_left_is_not_missed() -> None:
    for turns in range(40):
        database = table(0)
        database.fail("start_session", SchemaError("no"))
        runner = Runner(database, do_all, settings())
        stopped_before = False
        try:
            async with runner:
                for _ in range(turns):
                    await asyncio.sleep(0)
            stopped_before = True
        except SchemaError:
            pass
        await left_tasks()
        assert (runner.failed is None) is stopped_before, turns


@virtual
async def test_an_on_failure_that_raises_is_reported_and_hides_nothing(caplog: Any) -> None:
    database = table(1)
    error = DatabaseError("no such database", retryable=False)
    database.fail("start_session", error)

    def on_failure(_: BaseException) -> None:
        raise ZeroDivisionError

    with pytest.raises(DatabaseError, match="no such database"):
        async with Runner(database, do_all, settings(), on_failure=on_failure):
            await asyncio.sleep(5)
    assert "on_failure failed as well: ZeroDivisionError" in caplog.text


def test_an_on_failure_that_nobody_would_await_is_refused() -> None:
    async def alert(_: BaseException) -> None: ...

    with pytest.raises(SettingsError, match="on_failure is called, not awaited"):
        Runner(table(0), do_all, on_failure=alert)


@pytest.mark.parametrize("wrong", ["x", 5, [], True, False, 0])
def test_an_on_failure_that_cannot_be_called_is_refused(wrong: Any) -> None:
    said = f"^on_failure is a function, which is called with the error, not {type(wrong).__name__}$"
    runner = Runner(table(0), do_all)
    for make in (
        lambda: Runner(table(0), do_all, on_failure=wrong),
        lambda: RunnerGroup(runner, on_failure=wrong),
    ):
        with pytest.raises(SettingsError, match=said):
            make()


@virtual
async def test_a_block_is_entered_once() -> None:
    runner = Runner(table(0), do_all, settings())
    async with runner:
        with pytest.raises(RuntimeError, match="entered once"):
            await runner.__aenter__()


@virtual
async def test_a_block_that_is_left_before_anything_began_has_started_nothing() -> None:
    database = table(1)
    async with Runner(database, do_all, settings()):
        pass
    assert database.calls == []


# Signals -------------------------------------------------------------------------------------------------


@pytest.mark.fault("P2")
@pytest.mark.parametrize(
    "how",
    ["signal.signal(SIGTERM, lambda *_: runner.stop())", "loop.add_signal_handler(SIGTERM, runner.stop)"],
)
def test_stop_from_a_signal_handler(how: str) -> None:
    program = textwrap.dedent(f"""
        import asyncio, os, signal, time
        from signal import SIGTERM
        from session_lock import Runner, Settings
        from session_lock.testing import MemoryDatabase

        async def main():
            database = MemoryDatabase({{1: "a", 2: "b"}})
            async def tasker(batch):
                os.kill(os.getpid(), SIGTERM)
                await asyncio.sleep(0.1)
                return batch
            runner = Runner(database, tasker, Settings(start_jitter=0, batch_size=1, concurrency=1, poll_interval=60))
            loop = asyncio.get_running_loop()
            {how}
            began = time.monotonic()
            await runner.run()
            assert time.monotonic() - began < 5
            print(database.finished, [s.ended for s in database.sessions], database[2].session_id, len(asyncio.all_tasks()))

        asyncio.run(main(), debug=True)
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[1] [True] None 1"), done.stderr


def test_a_signal_wakes_a_loop_that_sleeps_for_long() -> None:
    program = textwrap.dedent("""
        import asyncio, os, signal, threading, time
        from session_lock import Runner, Settings
        from session_lock.testing import MemoryDatabase

        runner = Runner(MemoryDatabase(), lambda batch: batch, Settings(start_jitter=0, poll_interval=50))
        signal.signal(signal.SIGTERM, lambda *_: runner.stop())
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        asyncio.run(runner.run())
        assert time.monotonic() - began < 3, time.monotonic() - began
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.fault("P19")
def test_ctrl_c_is_a_graceful_stop_and_a_keyboard_interrupt_after_it() -> None:
    program = textwrap.dedent("""
        import asyncio, os, signal
        from session_lock import Runner, Settings
        from session_lock.testing import MemoryDatabase

        database = MemoryDatabase({1: "a"})
        async def tasker(batch):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.1)
            return batch
        try:
            asyncio.run(Runner(database, tasker, Settings(start_jitter=0)).run())
        except KeyboardInterrupt:
            print(database.finished, [s.ended for s in database.sessions])
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[1] [True]"), done.stderr


def test_the_words_of_the_faults_helper_are_the_protocols() -> None:
    from session_lock.database import Database

    verbs = {name for name in vars(Database) if not name.startswith("_")}
    assert verbs <= set(dir(Faulty))


@virtual
async def test_a_start_that_is_late_says_what_it_was(caplog: Any) -> None:
    database = table(0)
    database.hang("start_session")
    async with running(Runner(database, do_all, settings())):
        await asyncio.sleep(4)
    assert "no session yet: TimeoutError" in caplog.text
