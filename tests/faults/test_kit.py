"""The kit itself, in memory: its assertions fail when they should, it refuses what cannot be, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import Any

import pytest

import _session_lock_pytest
from session_lock import (
    DatabaseError,
    PostgresDatabase,
    Release,
    Runner,
    SchemaError,
    Settings,
    SettingsError,
    each,
)
from session_lock.database import Outcome, Settled
from session_lock.testing import (
    AT_FINISH,
    Faults,
    FaultyDatabase,
    MemoryDatabase,
    MemoryTransaction,
    assert_each_once,
    run_virtual,
)
from tests.support import EMAILS


async def fine(task: Any) -> None:
    pass


def runner(tasker: Any = fine, **settings: Any) -> Any:
    return lambda database: Runner(database, each(tasker), Settings(start_jitter=0, **settings))


def rows(count: int = 1) -> MemoryDatabase[str]:
    return MemoryDatabase(dict.fromkeys(range(1, count + 1), "a"))


# Its assertions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([1, 2], "3: none"),
        ([], "1: none; 2: none; 3: none"),
        ([3, 1, 2, 1], "1: 2"),
        ([1, 2, 3, 4], "4, which is none of the tasks: 1"),
    ],
)
def test_each_once_is_neither_more_nor_less(found: list[int], told: str) -> None:
    with pytest.raises(AssertionError) as error:
        assert_each_once([1, 2, 3], found, "invoice")
    assert str(error.value) == f"not one invoice for each task: {told}"


def test_each_once_is_fine_in_any_order() -> None:
    assert_each_once({"a", "b"}, iter(["b", "a"]))
    assert_each_once([], [])


class Twice(MemoryDatabase[str]):
    """With the bug that a task stays open, and says each time that it was finished now."""

    async def finish_tasks(self, lease: Any, claims: Any) -> Any:
        await self.release_tasks(lease, [])
        for claim in claims:
            self[claim.key].session_id = None
        return [Settled(claim.key, Outcome.FINISHED) for claim in claims]


def test_a_database_that_finishes_twice_is_found() -> None:
    async def play() -> None:
        faults = Faults(Twice({1: "a"}))
        async with faults.instance(runner()):
            await asyncio.sleep(5)
        with pytest.raises(AssertionError, match=r"^not one finish for each task: 1: \d"):
            faults.assert_each_finished_once([1])

    run_virtual(play())


def test_what_is_not_finished_is_told() -> None:
    async def never(task: Any) -> None:
        if task.key > 1:
            raise RuntimeError("never")

    async def play() -> None:
        faults = Faults(rows(3))
        async with faults.instance(runner(never)):
            with pytest.raises(AssertionError, match=r"^not finished within 90 seconds: 2, 3$"):
                await faults.until_finished([1, 2, 3], within=90)
        with pytest.raises(AssertionError, match="2: none; 3: none"):
            faults.assert_each_finished_once([1, 2, 3])
        assert faults.finished == [1]

    run_virtual(play())


def test_a_fault_that_did_not_happen_is_told() -> None:
    async def play() -> None:
        faults = Faults(rows())
        async with faults.instance(runner()) as first:
            first.lose_reply("commit")
            first.fail("get_work", times=1)
            await faults.until_finished([1])
        with pytest.raises(AssertionError, match="not happened within 5 seconds: commit of instance 1"):
            await faults.until_all_happened(within=5)
        with pytest.raises(AssertionError, match=r"have not happened: commit of instance 1$"):
            faults.assert_all_happened()

    run_virtual(play())


def test_a_finish_in_a_transaction_of_the_taskers_own_is_seen_when_it_is_told() -> None:
    async def own(task: Any) -> None:
        async with MemoryTransaction() as connection:
            await task.finish_in(connection)

    async def rolled_back_once(task: Any) -> None:
        if task.attempt > 1:
            return
        with pytest.raises(KeyError):
            async with MemoryTransaction() as connection:
                await task.finish_in(connection)
                raise KeyError
        raise KeyError

    async def play(tasker: Any) -> None:
        faults = Faults(rows())
        async with faults.instance(runner(tasker)):
            await faults.until_finished([1])
        faults.assert_each_finished_once([1])

    async def fails_then(task: Any) -> None:
        await own(task)
        raise KeyError

    run_virtual(play(own))
    run_virtual(play(rolled_back_once))
    run_virtual(play(fails_then))


def test_what_is_released_is_not_finished_also_if_that_reply_is_lost() -> None:
    async def rolled_back(task: Any) -> None:
        async with MemoryTransaction() as connection:
            await task.finish_in(connection)
            raise KeyError

    async def later(task: Any) -> Release:
        return Release(after=100)

    async def play(tasker: Any) -> None:
        faults = Faults(rows())
        async with faults.instance(runner(tasker)) as first:
            first.lose_reply("release_tasks")
            await asyncio.sleep(10)
            assert first.count("release_tasks") > 1
        assert faults.finished == []

    run_virtual(play(later))
    run_virtual(play(rolled_back))


def test_a_synchronous_tasker_meets_the_faults_too() -> None:
    errors: list[Exception] = []

    def own(task: Any) -> None:
        try:
            with MemoryTransaction() as connection:
                task.finish_in_sync(connection)
        except DatabaseError as error:
            errors.append(error)
            raise

    async def play() -> None:
        faults = Faults(rows())
        async with faults.instance(runner(own)) as first:
            first.fail("finish_in", times=1)
            first.lose_reply("finish_in")
            await faults.until_finished([1])
        assert len(errors) == 2
        faults.assert_each_finished_once([1])
        faults.assert_all_happened()

    run_virtual(play())


# Instances -----------------------------------------------------------------------------------------------


def test_a_whole_service_is_an_instance_and_all_that_it_starts_freezes_with_it() -> None:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(asyncio.get_running_loop().time())
            await asyncio.sleep(1)

    @asynccontextmanager
    async def lifespan(database: Any) -> Any:
        ticking = asyncio.create_task(tick())
        async with runner()(database):
            yield "the service"
        ticking.cancel()

    async def play() -> None:
        faults = Faults(rows())
        async with faults.instance(lifespan) as first:
            assert first.service == "the service"
            await faults.until_finished([1])
            first.freeze()
            await asyncio.sleep(100)
            assert len(ticks) <= 2
            first.thaw()
            await asyncio.sleep(10)
            assert len(ticks) >= 10
        assert len(asyncio.all_tasks()) == 1

    run_virtual(play())


def test_an_instance_that_dies_by_itself_says_of_what() -> None:
    @asynccontextmanager
    async def broken(_: Any) -> Any:
        raise KeyError("no such setting")
        yield

    async def play() -> None:
        faults = Faults(rows())
        with pytest.raises(KeyError, match="no such setting"):
            async with faults.instance(broken):
                pass
        faults = Faults(rows())
        with pytest.raises(SchemaError, match="install me"):
            async with faults.instance(runner()) as first:
                first.fail("get_work", SchemaError("install me"))
                await faults.until_finished([1])

    run_virtual(play())


def test_who_waits_in_vain_for_its_start_leaves_nothing_behind() -> None:
    @asynccontextmanager
    async def stuck(database: Any) -> Any:
        async with runner()(database):
            await asyncio.sleep(1000)
            yield

    async def play() -> None:
        memory = rows(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), Faults(memory).instance(stuck):
                pass
        assert len(asyncio.all_tasks()) == 1
        assert memory.sessions[0].ended

    run_virtual(play())


def test_what_the_block_raises_is_raised() -> None:
    async def play() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Faults(rows()).instance(runner()) as first:
                first.fail("get_work", SchemaError("install me"))
                await asyncio.sleep(5)
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            async with Faults(rows()).instance(runner()) as first:
                first.freeze()
                raise ZeroDivisionError
        assert len(asyncio.all_tasks()) == 1

    run_virtual(play())


def test_a_killed_instance_leaves_nothing_behind_and_complains_of_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stubborn(task: Any) -> None:
        for _ in range(20):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass
        raise RuntimeError("which nobody hears")

    @asynccontextmanager
    async def service(database: Any) -> Any:
        background = asyncio.create_task(stubborn(None))
        async with runner(stubborn)(database):
            yield
        await background

    async def play() -> None:
        async with Faults(rows(3)).instance(service) as first:
            await asyncio.sleep(1)
            first.freeze()
            first.kill()
            await asyncio.sleep(5)
            assert len(asyncio.all_tasks()) == 1

    gc.collect()  # what other tests have left behind complains before
    caplog.clear()
    run_virtual(play())
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_a_task_that_outlives_its_own_death_is_told() -> None:
    async def immortal(task: Any) -> None:
        for _ in range(510):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                pass

    async def play() -> None:
        with pytest.raises(AssertionError, match="ignores its cancellation"):
            async with Faults(rows()).instance(runner(immortal)) as first:
                await asyncio.sleep(1)
                first.kill()

    run_virtual(play())


def test_a_cancellation_that_comes_while_it_is_frozen_arrives_when_it_thaws() -> None:
    async def play() -> None:
        seen: list[str] = []

        @asynccontextmanager
        async def service(_: Any) -> Any:
            async def late() -> None:
                try:
                    async with asyncio.timeout(5):
                        await asyncio.sleep(2)
                        await asyncio.sleep(100)
                except TimeoutError:
                    seen.append("late")

            task = asyncio.create_task(late())
            yield
            await task

        async with Faults(rows()).instance(service) as first:
            await asyncio.sleep(1)
            first.freeze()
            await asyncio.sleep(50)
            assert seen == []
            first.thaw()
            await asyncio.sleep(0.1)
            assert seen == ["late"]

    run_virtual(play())


def test_other_tasks_of_the_loop_are_made_as_before() -> None:
    made: list[str] = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        made.append(type(coroutine).__name__)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def play() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        async with Faults(rows()).instance(runner()):
            made.clear()
            await asyncio.create_task(asyncio.sleep(0))
            assert made == ["coroutine"]
            await asyncio.sleep(40)
        assert "_Freezable" in made

    run_virtual(play())


def test_a_killed_instance_that_goes_on_all_the_same_is_not_heard() -> None:
    async def late(task: Any) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            async with MemoryTransaction() as connection:
                await task.finish_in(connection)

    async def play() -> None:
        memory = rows()
        async with Faults(memory).instance(runner(late)) as first:
            await asyncio.sleep(2)
            first.kill()
            await asyncio.sleep(2)
            assert first.count("finish_in") == 1
        assert memory.finished == []
        assert not memory.sessions[0].ended

    run_virtual(play())


class Slow(MemoryDatabase[str]):
    """Whose answer to a finish, or to a commit, takes a second."""

    async def finish_tasks(self, lease: Any, claims: Any) -> Any:
        settled = await super().finish_tasks(lease, claims)
        await asyncio.sleep(1)
        return settled

    @asynccontextmanager
    async def transaction(self, lease: Any, claims: Any) -> Any:
        async with super().transaction(lease, claims) as connection:
            yield connection
        await asyncio.sleep(1)


async def in_a_transaction(task: Any) -> None:
    async with task.transaction():
        pass


@pytest.mark.parametrize("tasker", [fine, in_a_transaction])
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_what_the_database_has_finished_counts_though_who_asked_hears_no_answer(
    tasker: Any, fault: str
) -> None:
    async def play() -> None:
        memory = Slow({1: "a"})
        faults = Faults(memory)
        async with faults.instance(runner(tasker)) as first:
            while memory.finished != [1]:
                await asyncio.sleep(0.1)
            getattr(first, fault)()
            calls = len(first.calls)
            await faults.until_finished([1], within=10)
            await asyncio.sleep(5)
            assert len(first.calls) == calls

    run_virtual(play())


def test_who_is_killed_makes_no_other_step_while_the_database_answers() -> None:
    async def play() -> None:
        seen: list[str] = []

        async def tasker(task: Any) -> None:
            if task.key == 2:
                await asyncio.sleep(0.5)
                seen.append("alive")

        memory = Slow({1: "a", 2: "b"})
        async with Faults(memory).instance(runner(tasker)) as first:
            while memory.finished != [1]:
                await asyncio.sleep(0.1)
            first.kill()
            await asyncio.sleep(5)
        assert seen == []
        assert memory[2].session_id == 1

    run_virtual(play())


def test_leaving_the_block_heals_and_stops_gracefully() -> None:
    async def play() -> None:
        memory = rows(0)
        async with Faults(memory).instance(runner()) as first:
            await asyncio.sleep(2)
            first.partition()
        assert memory.sessions[0].ended

    run_virtual(play())


def test_a_fault_skips_calls_and_is_through_after_its_times() -> None:
    async def play() -> None:
        database = FaultyDatabase(rows())
        database.fail("identity", skip=1, times=2)
        seen = []
        for _ in range(4):
            try:
                seen.append(bool(await database.identity()))
            except DatabaseError:
                seen.append(False)
        assert seen == [True, False, False, True]

    run_virtual(play())


def test_a_reply_that_is_under_way_when_the_partition_begins_is_lost() -> None:
    class Slow(MemoryDatabase[str]):
        async def finish_tasks(self, lease: Any, claims: Any) -> Any:
            settled = await super().finish_tasks(lease, claims)
            await asyncio.sleep(1)
            return settled

    async def play() -> None:
        memory = Slow({1: "a"})
        faults = Faults(memory)
        async with faults.instance(runner()) as first:
            while not memory.finished:
                await asyncio.sleep(0.1)
            first.partition()
            await asyncio.sleep(20)
            assert first.count("finish_tasks") > 1  # it hears nothing, and asks again
        assert memory.finished == [1]

    run_virtual(play())


def test_wake_ups_do_not_reach_who_is_partitioned() -> None:
    async def play() -> None:
        memory = rows(0)
        database = FaultyDatabase(memory)
        woken: list[int] = []
        async with database.listening(lambda: woken.append(1)):
            memory.add(1, "a")
            await asyncio.sleep(0.1)
            assert woken
            woken.clear()
            database.partition()
            assert woken == [1]  # as where the connection that listens is found dead
            woken.clear()
            memory.add(2, "a")
            await asyncio.sleep(0.1)
            assert woken == []
            database.heal()
            assert woken == [1]  # for what was not heard until now
            woken.clear()
            memory.add(3, "a")
            await asyncio.sleep(0.1)
            assert woken

    run_virtual(play())


# What cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Faults(PostgresDatabase("postgresql:///x", EMAILS)), "a function that makes a PostgresDatabase"),
        (lambda: Faults("postgresql:///x"), "Faults needs a Database or a function that makes one, not str"),
        (lambda: Faults(rows()).instance(1), "instance\\(\\) takes a function that makes a Runner, not int"),
        (lambda: FaultyDatabase(1), "a FaultyDatabase needs a Database, not int"),
        (lambda: FaultyDatabase(rows()).fail("finish_task"), "no call 'finish_task' that could fail, but identity,"),
        (lambda: FaultyDatabase(rows()).delay("finish", -1), "are not negative"),
        (lambda: FaultyDatabase(rows()).lose_reply("finish", times=-1), "are not negative"),
        (lambda: FaultyDatabase(rows()).before("finish", None), "before\\('finish', ..\\) takes a function, not NoneType"),
        (lambda: run_virtual(Faults(rows()).instance(runner()).expire()), "has no session yet"),
        (lambda: Faults(rows()).instance(runner()).freeze(), "does not run yet: enter it first"),
        (lambda: Faults(rows()).instance(runner()).kill(), "does not run yet: enter it first"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_sentence(wrong: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        wrong()


def test_an_instance_is_entered_once() -> None:
    async def play() -> None:
        instance = Faults(rows()).instance(runner())
        async with instance:
            pass
        with pytest.raises(SettingsError, match="entered once"):
            async with instance:
                pass

    run_virtual(play())


# The plugin ----------------------------------------------------------------------------------------------

TESTS = """
import asyncio
import pytest
from session_lock import Runner, each
from session_lock.testing import MemoryDatabase, run_virtual

async def fine(task):
    pass

def test_idle(session_lock_faults):
    session_lock_faults(MemoryDatabase()).instance(lambda database: Runner(database, each(fine))).lose_reply("finish")

def test_each(session_lock_faults, session_lock_fault):
    async def play():
        faults = session_lock_faults(MemoryDatabase({1: "a"}))
        async with faults.instance(lambda database: Runner(database, each(fine))) as first:
            session_lock_fault(first)
            await faults.until_all_happened()
            async with faults.instance(lambda database: Runner(database, each(fine))):
                await faults.until_finished([1])
        faults.assert_each_finished_once([1])
    run_virtual(play())
"""


def pytest_in(folder: Any, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-o", "addopts=", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60).stdout


def test_the_plugin_has_a_test_run_under_each_fault_and_fails_one_whose_fault_did_not_happen(
    tmp_path: Any,
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    out = pytest_in(tmp_path)
    for fault in ("killed", "frozen", "partitioned", "expired", "reply-lost"):
        assert f"PASSED test_it.py::test_each[{fault}]" in out, out
    assert "ERROR test_it.py::test_idle" in out
    assert "AssertionError: faults that were asked for have not happened: finish of instance 1" in out
    assert "6 passed, 1 error" in out


def test_it_can_be_left_out(tmp_path: Any) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    assert "fixture 'session_lock_faults' not found" in pytest_in(tmp_path, "-p", "no:session_lock")


def test_nothing_but_the_plugin_knows_pytest() -> None:
    code = "import sys, session_lock.testing, session_lock.cli; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


AT_START = """
import sys

def test_what_has_come_at_the_start():
    named = {name.partition(".")[0] for name in sys.modules}
    assert named & {"session_lock", "asyncpg", "opentelemetry", "_session_lock_pytest"} == {"_session_lock_pytest"}

def test_and_with_a_fixture(runner):
    assert "session_lock.testing.kit" in sys.modules
"""


def test_at_a_start_of_pytest_nothing_comes_but_the_names_of_the_fixtures(tmp_path: Any) -> None:
    """Also projects whose tests use none of them have it at each start: with all of the library it took a quarter of a second."""
    (tmp_path / "test_it.py").write_text(AT_START)
    assert "2 passed" in pytest_in(tmp_path)


def test_the_plugin_names_each_fault() -> None:
    assert [*AT_FINISH] == _session_lock_pytest.FAULTS
