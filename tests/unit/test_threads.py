"""Plain functions as taskers: each call in a thread, with the same outcomes, and the loop free meanwhile.

Virtual time stands still while a thread works; `pass_time` lets it go on.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from session_lock import Discard, Release, Retry, Runner, each
from session_lock.tasker import _Threads, in_thread, is_synchronous, leave_behind
from tests.unit.scenes import CANARY, assert_free, run_for, running, settings, table
from tests.unit.virtual import now, until, virtual

ONCE = Retry(delay=3600, longest=3600, jitter=0)


def errors(database: Any, key: int) -> list[str]:
    return [failure.error for failure in database.failures.get(key, [])]


async def pass_time(seconds: float) -> None:
    """Virtual time goes on, though a thread works."""
    loop: Any = asyncio.get_running_loop()
    for _ in range(round(seconds * 10)):
        loop.pause(0.1)
        for _ in range(20):
            await asyncio.sleep(0)


async def spin(condition: Callable[[], object]) -> None:
    """Wait for what threads do, while virtual time stands still."""
    for turn in range(20_000):
        if condition():
            return
        await asyncio.sleep(0)
        threading.Event().wait(0.001 if turn > 100 else 0)
    raise AssertionError("waited in vain")


class Gate:
    """What a thread waits at, until the test opens it; the end of the test opens it in any case."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reached = threading.Event()

    def open(self) -> None:
        self._event.set()

    def wait(self) -> None:
        self.reached.set()
        assert self._event.wait(20), "the test forgot to open the gate"

    async def until_reached(self) -> None:
        await spin(self.reached.is_set)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


# What it returns and raises ----------------------------------------------------------------------------------


@virtual
async def test_what_a_function_returns_is_finished_and_the_rest_has_failed() -> None:
    database = table(4)
    threads: set[int] = set()

    def tasker(batch: Any) -> Any:
        threads.add(threading.get_ident())
        batch.release(batch[0], after=100)
        batch.discard(batch[1], "spam")
        return [batch[2]]

    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert threading.get_ident() not in threads
    assert (database.finished, database.discarded, database[1].attempts) == ([3], [2], 0)
    assert errors(database, 4) == ["the tasker did not return it"]
    assert_free(database)


@virtual
async def test_under_each_it_returns_none_release_or_discard() -> None:
    database = table(5)

    def tasker(task: Any) -> Any:
        if task.key == 5:
            raise LookupError("five")
        return {1: None, 2: Release(after=30), 3: Discard("x"), 4: 4}[task.key]

    await run_for(0.4, database, each(tasker), settings(retry=ONCE))
    assert (database.finished, database.discarded, database[2].attempts) == ([1], [3], 0)
    assert errors(database, 4) == [
        "TaskerError: a tasker under each() returns None, Release(after=) or Discard(reason), not int"
    ]
    assert errors(database, 5) == ["LookupError: five"]


@virtual
async def test_a_batch_over_which_it_raises_is_split() -> None:
    database = table(16)
    sizes: list[int] = []

    def tasker(batch: Any) -> Any:
        sizes.append(len(batch))
        if any(task.key == 5 for task in batch):
            raise ValueError
        return batch

    await run_for(0.4, database, tasker, settings(retry=ONCE, batch_size=16))
    assert len(database.finished) == 15
    assert sizes == [16, 8, 4, 4, 2, 1, 1, 2, 8]


@pytest.mark.fault("P9")
@pytest.mark.parametrize(
    "error",
    [StopIteration("s"), StopAsyncIteration(), GeneratorExit(), asyncio.CancelledError(), BaseException("b"),
     TimeoutError("t"), ExceptionGroup("g", [ValueError()])],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("each_one", [False, True], ids=["batch", "each"])
@virtual
async def test_whatever_it_raises_is_a_failure(error: BaseException, each_one: bool) -> None:
    database = table(3)

    def one(task: Any) -> None:
        if task.key == 2:
            raise error

    def whole(batch: Any) -> Any:
        for task in batch:
            one(task)
        return batch

    await run_for(0.4, database, each(one) if each_one else whole, settings(retry=ONCE))
    assert sorted(database.finished) == [1, 3]
    (text,) = errors(database, 2)
    assert type(error).__name__ in text
    assert_free(database)


@pytest.mark.parametrize("form", ["batch", "each", "generator"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
@virtual
async def test_an_exit_in_a_thread_stops_the_runner_and_is_raised_by_it(
    error: BaseException, form: str
) -> None:
    database = table(3)

    def one(task: Any) -> None:
        raise error

    def whole(batch: Any) -> Any:
        raise error

    def generator(batch: Any) -> Any:
        yield batch[0]
        raise error

    taskers: dict[str, Any] = {"batch": whole, "each": each(one), "generator": generator}
    caught: list[BaseException] = []
    try:
        await Runner(database, taskers[form], settings(retry=ONCE, concurrency=1)).run()
    except BaseException as raised:
        caught.append(raised)
    assert caught == [error]
    assert database.finished == ([1] if form == "generator" else [])
    assert errors(database, 2 if form == "generator" else 1) == [f"{type(error).__name__}: {error}"]
    assert_free(database)


@virtual
async def test_a_generator_does_its_work_in_the_thread_and_counts_up_to_where_it_raises() -> None:
    database = table(6)
    threads: set[int] = set()

    def tasker(batch: Any) -> Any:
        for task in batch:
            threads.add(threading.get_ident())
            if task.key == 4:
                raise ValueError("midway")
            yield task

    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert sorted(database.finished) == [1, 2, 3, 5, 6]
    assert errors(database, 4) == ["ValueError: midway"]
    assert threading.get_ident() not in threads


@virtual
async def test_what_gives_something_to_await_is_the_taskers_error_and_is_not_left_unawaited() -> None:
    async def inner(batch: Any) -> Any:
        return batch

    def forgets(batch: Any) -> Any:
        return inner(batch)

    def future(batch: Any) -> Any:
        return Awaitable()

    class Awaitable:
        def __await__(self) -> Any:
            yield

    for tasker in (forgets, future, each(forgets)):
        database = table(1)
        await run_for(0.4, database, tasker, settings(retry=ONCE))
        assert errors(database, 1) == [
            "TaskerError: a tasker that is no async function gave something to await: declare it with async def"
        ]


# While it works ----------------------------------------------------------------------------------------------


@virtual
async def test_the_loop_is_free_and_what_is_settled_is_recorded_while_it_works(gate: Gate) -> None:
    database = table(4)

    def tasker(batch: Any) -> Any:
        batch.finish(batch[0])
        batch.release(batch[1], after=1000)
        batch.discard(batch[2], "spam")
        gate.wait()
        return batch

    async with running(Runner(database, tasker, settings(retry=ONCE))):
        await gate.until_reached()
        await pass_time(0.2)
        assert (database.finished, database.discarded) == ([1], [3])
        assert database[2].session_id is None
        await pass_time(100)  # heartbeats of the lease, among others
        assert database.count("bump_session") >= 10
        gate.open()
        await until(lambda: len(database.finished) == 2)
    assert database.finished == [1, 4]
    assert len(database.sessions) == 1


@virtual
async def test_contextvars_are_those_of_the_call_and_changes_stay_in_it() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[Any] = []

    def tasker(task: Any) -> None:
        seen.append((task.key, variable.get()))
        variable.set(f"changed by {task.key}")

    variable.set("outer")
    database = table(3)
    await run_for(0.4, database, each(tasker), settings())
    assert sorted(seen) == [(1, "outer"), (2, "outer"), (3, "outer")]
    assert variable.get() == "outer"


@virtual
async def test_a_task_can_be_asked_there_whether_it_is_held(gate: Gate) -> None:
    database = table(1)
    seen: list[Any] = []

    def tasker(task: Any) -> None:
        task.assert_held()
        seen.append(task.lease_left())
        gate.wait()
        try:
            task.assert_held()
        except BaseException as error:
            seen.append(error)
            raise

    async with running(Runner(database, each(tasker), settings(retry=ONCE))) as run:
        await gate.until_reached()
        database.expire(1)
        database.fail("start_session")
        await pass_time(6)
        gate.open()
        await spin(lambda: len(seen) == 2)
        assert not run.done()
    assert 20 < seen[0] <= 30
    assert type(seen[1]).__name__ == "SessionLost"


@virtual
async def test_as_many_threads_as_slots_work_at_once_and_are_used_again() -> None:
    database = table(60)
    names: set[int] = set()
    at_once = most = 0
    guard = threading.Lock()

    def tasker(task: Any) -> None:
        nonlocal at_once, most
        names.add(threading.get_ident())
        with guard:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.001)
        with guard:
            at_once -= 1

    await run_for(0.4, database, each(tasker), settings(concurrency=4))
    assert len(database.finished) == 60
    assert 2 <= most <= 4
    assert len(names) <= 4


# Its end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "cancel", "cancel twice"])
@pytest.mark.parametrize("fails", [False, True])
@virtual
async def test_a_stop_waits_for_the_thread_and_its_success_counts(how: str, fails: bool, gate: Gate) -> None:
    database = table(1)

    def tasker(task: Any) -> None:
        gate.wait()
        if fails:
            raise ValueError

    runner = Runner(database, each(tasker), settings(retry=ONCE))
    run = asyncio.create_task(runner.run())
    await gate.until_reached()
    runner.stop() if how == "stop" else run.cancel()
    await pass_time(1)
    if how == "cancel twice":
        run.cancel()
        await pass_time(1)
    assert not run.done()
    gate.open()
    await asyncio.wait({run})
    assert database.finished == ([] if fails else [1])
    # Cancelled by us and failed: nobody knows whether by its own fault.
    assert len(errors(database, 1)) == (1 if fails and how != "cancel twice" else 0)
    assert_free(database)


@virtual
async def test_a_late_thread_keeps_its_slot_and_its_success_counts(gate: Gate, caplog: Any) -> None:
    database = table(6)
    begun: list[Any] = []

    def tasker(task: Any) -> None:
        begun.append(task.key)
        if task.key == 1:
            gate.wait()

    config = settings(retry=ONCE, task_timeout=2, cancel_grace=1, concurrency=2)
    runner = Runner(database, each(tasker), config)
    async with running(runner):
        await gate.until_reached()
        await spin(lambda: sorted(database.finished) == [2, 3, 4, 5, 6])
        await pass_time(30)
        database.add(7, CANARY)
        runner.wake()
        await spin(lambda: 7 in database.finished)
        assert database[1].session_id == 1
        gate.open()
        await until(lambda: 1 in database.finished)
    assert caplog.text.count("goes on after task_timeout=2 seconds") == 1
    assert begun.count(1) == 1
    assert database.failures == {}


@virtual
async def test_a_late_thread_that_fails_is_a_timeout(gate: Gate) -> None:
    database = table(1)

    def tasker(task: Any) -> None:
        gate.wait()
        raise ValueError("v")

    async with running(Runner(database, each(tasker), settings(retry=ONCE, task_timeout=2, cancel_grace=1))):
        await gate.until_reached()
        await pass_time(10)
        gate.open()
        await until(lambda: database.failures)
    assert errors(database, 1) == [
        "TimeoutError: the tasker did not end within task_timeout=2 seconds\nfrom ValueError: v"
    ]


@virtual
async def test_an_exit_in_a_late_thread_is_heard(gate: Gate) -> None:
    database = table(1)

    def tasker(task: Any) -> None:
        gate.wait()
        sys.exit(3)

    runner = Runner(database, each(tasker), settings(retry=ONCE, task_timeout=2, cancel_grace=1))
    run = asyncio.create_task(_caught(runner.run()))
    await gate.until_reached()
    await pass_time(10)
    gate.open()
    assert isinstance(await run, SystemExit)
    assert database[1].attempts == 1


async def _caught(awaitable: Any) -> BaseException | None:
    try:
        await awaitable
    except BaseException as error:
        return error
    return None


@pytest.mark.fault("P8")
@virtual(leaves=0)
async def test_a_thread_that_does_not_end_is_abandoned_and_its_session_left_to_expire(
    gate: Gate, caplog: Any
) -> None:
    database = table(3)

    def tasker(task: Any) -> None:
        if task.key == 1:
            gate.wait()

    config = settings(retry=ONCE, drain_timeout=2, cancel_grace=1)
    runner = Runner(database, each(tasker), config)
    run = asyncio.create_task(runner.run())
    await gate.until_reached()
    await spin(lambda: len(database.finished) == 2)
    runner.stop()
    await pass_time(2 + 1 + 0.5)
    assert run.done()
    assert database[1].session_id == 1
    assert not database.sessions[0].ended
    assert "left to expire with 1 abandoned tasks" in caplog.text
    gate.open()
    await spin(lambda: len(asyncio.all_tasks()) == 1)


@virtual
async def test_only_a_call_that_was_left_behind_can_be_cancelled(gate: Gate) -> None:
    call = asyncio.create_task(in_thread(lambda _: gate.wait())(None))  # type: ignore[arg-type]
    await gate.until_reached()
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not call.done()
    leave_behind(call)
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    gate.open()


HANGS = """
import asyncio, threading
from session_lock import Runner, Settings, each
from session_lock.testing import MemoryDatabase
def hang(task):
    begun.set()
    threading.Event().wait()
begun = threading.Event()
async def main():
    config = Settings(start_jitter=0, drain_timeout=0, cancel_grace=0.01, keepalive_interval=1, shutdown_timeout=0.1)
    runner = Runner(MemoryDatabase({1: "x"}), each(hang), config)
    run = asyncio.create_task(runner.run())
    await asyncio.to_thread(begun.wait)
    runner.stop()
    await run
    print("run() has ended")
asyncio.run(main())
print("asyncio.run() has ended")
"""


@pytest.mark.fault("P19")
def test_a_thread_that_hangs_does_not_keep_the_process_from_ending() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "run() has ended\nasyncio.run() has ended\n", ended.stderr
    assert ended.returncode == 0


def test_idle_threads_end_after_a_while() -> None:
    threads = _Threads(idle=0.01)
    before = threading.active_count()
    thread = threads.submit(threading.current_thread).result()
    assert thread.daemon
    thread.join(20)
    assert not thread.is_alive()
    assert threads.submit(lambda: 5).result() == 5
    assert threading.active_count() <= before + 1


def test_a_thread_that_cannot_be_started_leaves_no_call_behind_that_runs_later(monkeypatch: Any) -> None:
    threads = _Threads(idle=5)
    called: list[int] = []

    def no_thread(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.submit(called.append, 1)
    threads.submit(called.append, 2).result()
    assert called == [2]


@pytest.mark.fault("P18")
@virtual
async def test_a_thread_that_cannot_be_started_fails_the_tasks(monkeypatch: Any) -> None:
    def no_thread(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    database = table(1)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    await run_for(0.4, database, each(lambda_free), settings(retry=ONCE))
    assert errors(database, 1) == ["RuntimeError: can't start new thread"]


def lambda_free(task: Any) -> None:
    pass


# Which functions are called in one ---------------------------------------------------------------------------


async def coroutine(batch: Any) -> Any:
    return batch


def plain(batch: Any) -> Any:
    return batch


def generator(batch: Any) -> Any:
    yield from batch


@functools.wraps(coroutine)
def wraps_coroutine(batch: Any) -> Any:
    return coroutine(batch)


@functools.wraps(plain)
async def made_asynchronous(batch: Any) -> Any:
    return plain(batch)


@functools.wraps(plain)
def wraps_plain(batch: Any) -> Any:
    return plain(batch)


class Methods:
    async def coroutine(self, batch: Any) -> Any:
        return batch

    def plain(self, batch: Any) -> Any:
        return batch

    wrapped = functools.partialmethod(plain)

    @staticmethod
    def static(batch: Any) -> Any:
        return batch

    @classmethod
    async def of_class(cls, batch: Any) -> Any:
        return batch


class AsyncCallable:
    async def __call__(self, batch: Any) -> Any:
        return batch


class PlainCallable:
    def __call__(self, batch: Any) -> Any:
        return batch


class WrappedCallable:
    @functools.wraps(coroutine)
    def __call__(self, batch: Any) -> Any:
        return coroutine(batch)


def with_option(batch: Any, *, option: int) -> Any:
    return batch


async def async_with_option(batch: Any, *, option: int) -> Any:
    return batch


ASYNC = {
    "coroutine": coroutine,
    "wraps coroutine": wraps_coroutine,
    "made asynchronous": made_asynchronous,
    "method": Methods().coroutine,
    "class method": Methods.of_class,
    "callable": AsyncCallable(),
    "wrapped callable": WrappedCallable(),
    "lambda": lambda batch: coroutine(batch),
    "partial": functools.partial(async_with_option, option=1),
    "partial of a partial": functools.partial(functools.partial(async_with_option), option=1),
    "partial of a callable": functools.partial(AsyncCallable()),
    "partial of a lambda": functools.partial(lambda batch: coroutine(batch)),
    "partial of a wrapper": functools.partial(wraps_coroutine),
}
PLAIN = {
    "plain": plain,
    "generator": generator,
    "wraps plain": wraps_plain,
    "method": Methods().plain,
    "partial method": Methods().wrapped,
    "static method": Methods.static,
    "callable": PlainCallable(),
    "partial": functools.partial(with_option, option=1),
    "partial of a callable": functools.partial(PlainCallable()),
    "builtin": list,
    "cached": functools.lru_cache(plain),
    "mock": Mock(side_effect=plain),
}


@pytest.mark.parametrize("name", ASYNC)
@virtual
async def test_what_gives_something_to_await_is_called_in_the_loop(name: str) -> None:
    await _done_by(ASYNC[name], in_a_thread=False)


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "builtin"])
@virtual
async def test_what_does_the_work_at_once_is_called_in_a_thread(name: str) -> None:
    await _done_by(PLAIN[name], in_a_thread=True)


async def _done_by(tasker: Any, *, in_a_thread: bool) -> None:
    assert is_synchronous(tasker) is in_a_thread
    database = table(3)
    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert sorted(database.finished) == [1, 2, 3], database.failures


def test_each_is_awaited_whatever_is_under_it() -> None:
    assert not is_synchronous(each(plain))
    assert not is_synchronous(each(coroutine))


@virtual
async def test_under_each_as_well() -> None:
    """The same functions for one task, which return nothing."""

    async def awaited(task: Any) -> None:
        pass

    @functools.wraps(lambda_free)
    async def made_async(task: Any) -> None:
        pass

    functions: list[Any] = [
        awaited, made_async, lambda task: awaited(task), functools.partial(awaited), functools.partial(lambda_free),
        lambda_free,
    ]  # fmt: skip
    for function in functions:
        database = table(2)
        await run_for(0.4, database, each(function), settings(retry=ONCE))
        assert sorted(database.finished) == [1, 2], database.failures


@virtual
async def test_time_does_not_pass_in_the_thread() -> None:
    """What these tests rest on."""
    began = now()
    await in_thread(lambda _: threading.Event().wait(0.01))(None)  # type: ignore[arg-type]
    assert now() == began
