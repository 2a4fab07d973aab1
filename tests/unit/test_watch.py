"""Keepalives in a thread and the watch over the event loop, in real time, with the memory database."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from session_lock import Runner, Settings, SettingsError, each, watch, watchdog
from session_lock.beats import keepalive_loop
from session_lock.pulse import Pulse
from session_lock.session import lease_clock
from session_lock.tasker import in_thread, leave_behind
from session_lock.testing import MemoryDatabase
from tests.unit.virtual import until, virtual

SHORT: dict[str, Any] = {
    "lease_ttl": 1.5, "keepalive_interval": 0.1, "call_timeout": 0.5, "cancel_grace": 0.3, "guard": 0.3, "poll_interval": 0.05,
    "start_jitter": 0,
}  # fmt: skip


async def test_a_loop_that_owes_no_answer_is_not_silent() -> None:
    pulse = Pulse(asyncio.get_running_loop())
    pulse.ask()
    time.sleep(0.05)
    assert pulse.silence() >= 0.05
    pulse.reset()
    assert pulse.silence() < 0.05
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pulse.silence() == 0


def test_the_pulse_of_a_closed_loop_is_silent_and_raises_nothing() -> None:
    loop = asyncio.new_event_loop()
    pulse = Pulse(loop)
    loop.close()
    pulse.ask()
    time.sleep(0.01)
    assert pulse.silence() > 0


async def test_keepalives_in_a_thread_keep_the_memory_database_to_its_own_loop() -> None:
    database = MemoryDatabase({1: "a"})
    threads: set[int] = set()
    wake = database._wake
    database._wake = lambda: (threads.add(threading.get_ident()), wake())[1]  # type: ignore[method-assign]

    async def until_it_drains(task: Any) -> None:
        threads.clear()
        await database.drain(1)
        while not database.sessions[0].draining:
            await asyncio.sleep(0.01)

    async with asyncio.timeout(10):
        await Runner(database, each(until_it_drains), Settings(**SHORT, keepalive="thread")).run()
    assert threads == {threading.get_ident()}


@pytest.mark.fault("P7")
async def test_a_session_that_is_over_is_heard_of_by_the_thread() -> None:
    database = MemoryDatabase({1: "a"})

    async def wait(task: Any) -> None:
        if task.attempt == 1:
            database.expire(1)
            await asyncio.sleep(60)

    async with Runner(
        database, each(wait), Settings(**{**SHORT, "poll_interval": 3}, concurrency=1, keepalive="thread")
    ):
        async with asyncio.timeout(10):
            while database.finished != [1]:
                await asyncio.sleep(0.01)
    assert len(database.sessions) == 2


@pytest.mark.fault("P6")
async def test_a_blocked_loop_is_said_with_its_place_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    def compute_something() -> None:
        time.sleep(watch.BLOCKED_AFTER + 3 * watch.LOOK_EVERY)

    async def tasker(task: Any) -> None:
        compute_something()

    database = MemoryDatabase({1: "a"})
    with caplog.at_level(logging.WARNING, logger="session_lock.watch"):
        async with Runner(database, each(tasker)):
            async with asyncio.timeout(10):
                while len(caplog.records) < 2:
                    await asyncio.sleep(0.01)
    first, second = (record.getMessage() for record in caplog.records)
    assert "in compute_something" in first
    assert "turns again" in second


async def test_no_thread_watches_when_there_is_no_lease() -> None:
    async with Runner(MemoryDatabase({}), each(lambda task: asyncio.sleep(0))) as runner:
        async with asyncio.timeout(10):
            while not runner.ready:
                await asyncio.sleep(0.01)
        assert "session_lock watch" in {thread.name for thread in threading.enumerate()}
    async with asyncio.timeout(10):
        while "session_lock watch" in {thread.name for thread in threading.enumerate()}:
            await asyncio.sleep(0.01)


@virtual
async def test_in_virtual_time_nobody_watches() -> None:
    database = MemoryDatabase({1: "a"})
    settings = Settings(keepalive="thread", on_stuck="exit")
    async with Runner(database, each(lambda task: asyncio.sleep(100)), settings):
        await until(lambda: database.finished == [1], within=200)
        assert "session_lock watch" not in {thread.name for thread in threading.enumerate()}


def test_where_there_can_be_no_watchdog_that_is_said_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> None:
        Runner(MemoryDatabase({}), each(lambda task: asyncio.sleep(0)), Settings(on_stuck="kill"))

    make()
    monkeypatch.setattr(watchdog.os, "getpid", lambda: 1)
    with pytest.raises(SettingsError, match="process 1"):
        make()
    monkeypatch.setattr(watchdog.sys, "executable", "/opt/my-application")
    with pytest.raises(SettingsError, match="starts a second Python, and '/opt/my-application'"):
        make()
    monkeypatch.delattr(watchdog.os, "pidfd_open")
    with pytest.raises(SettingsError, match="needs pidfd_open"):
        make()


def test_a_watchdog_that_cannot_start_keeps_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: Any, **__: Any) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(watchdog.subprocess, "Popen", no_more)
    before = [*Path("/proc/self/fd").iterdir()]
    with pytest.raises(BlockingIOError):
        watchdog.Watchdog()
    assert [*Path("/proc/self/fd").iterdir()] == before


async def test_a_watchdog_goes_on_when_all_of_a_service_is_told_to_end() -> None:
    """As systemd does, which names each process of a unit: its parent may take its time to drain."""
    dog = watchdog.Watchdog()
    status = Path(f"/proc/{dog._process.pid}/status")
    try:
        async with asyncio.timeout(10):
            while not _ignores(status, signal.SIGTERM):
                await asyncio.sleep(0.01)
        dog._process.terminate()
        assert dog.look_after() is None
    finally:
        dog._stop()


def _ignores(status: Path, number: int) -> bool:
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)", status.read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> number - 1 & 1)


# A fence -----------------------------------------------------------------------------------------------------


class Board:
    """Stands for a watchdog: what it would see."""

    def __init__(self) -> None:
        self.cells: dict[int, float] = {}

    def take_cell(self) -> int:
        return 7

    def set_cell(self, number: int, at: float) -> None:
        self.cells[number] = at

    def give_cell_back(self, number: int) -> None:
        del self.cells[number]


async def test_a_fence_stands_while_there_are_calls_and_moves_with_the_lease() -> None:
    board = Board()
    fence = watch.Fence(watch.Watch(), board)  # type: ignore[arg-type]
    fence.extend(100.0)
    assert board.cells == {7: watchdog.NEVER}
    call = asyncio.create_task(asyncio.sleep(60))
    fence.call_begins(call)
    assert board.cells == {7: 100.0}
    fence.extend(120.0)
    fence.extend(110.0)
    assert board.cells == {7: 120.0}
    fence.end_by(90.0)  # the server has said that the session is gone
    assert board.cells == {7: 90.0}
    fence.leave()
    assert board.cells == {7: 90.0}, "a call that was abandoned goes on"
    call.cancel()
    await asyncio.wait({call})
    await asyncio.sleep(0)
    assert board.cells == {}
    fence.extend(200.0)
    assert board.cells == {}, "its cell may be another's by now"


async def test_a_late_answer_to_a_keepalive_moves_no_fence_of_a_session_that_is_gone() -> None:
    fence = watch.Fence(watch.Watch(), None)
    fence.extend(100.0)
    call = asyncio.create_task(asyncio.sleep(60))
    fence.call_begins(call)
    fence.end_by(90.0)
    fence.extend(120.0)
    call.cancel()
    assert fence.exit_at == 90.0


async def test_a_call_whose_loop_is_closed_holds_no_fence_after_its_lease() -> None:
    loop = asyncio.new_event_loop()
    one = watch.Watch()

    async def leave_a_call_behind() -> watch.Guard:
        fence = one.over("exit")
        fence.extend(lease_clock() + 60)
        call = asyncio.create_task(asyncio.sleep(60))
        call._log_destroy_pending = False  # type: ignore[attr-defined] # that is what happens to it here
        fence.call_begins(call)
        await asyncio.sleep(0)
        fence.leave()
        return fence

    fence = await asyncio.to_thread(loop.run_until_complete, leave_a_call_behind())
    assert fence.exit_at < watchdog.NEVER, "it may go on, as far as anybody knows"
    loop.close()
    async with asyncio.timeout(10):
        while one._guards:
            await asyncio.sleep(0.01)
    assert fence.exit_at == watchdog.NEVER


async def test_a_watch_that_cannot_start_keeps_no_cell_of_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    board = Board()
    board.set_cell(7, 1.0)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    one = watch.Watch()
    one._watchdog = board  # type: ignore[assignment]
    with pytest.raises(OSError, match="the watch over the event loop cannot start: can't start new thread"):
        one.over("kill")
    assert board.cells == {}
    assert one._guards == set()


async def test_a_fence_stands_until_the_thread_of_a_call_that_was_left_behind_has_ended() -> None:
    fence = watch.Fence(watch.Watch(), None)
    fence.extend(100.0)
    released = threading.Event()
    call = asyncio.ensure_future(in_thread(lambda _: released.wait(10))(None))
    fence.call_begins(call)
    await asyncio.sleep(0.05)
    leave_behind(call)
    call.cancel()
    await asyncio.wait({call})
    fence.leave()
    assert fence.exit_at == 100.0
    released.set()
    async with asyncio.timeout(10):
        while fence.exit_at != watchdog.NEVER:
            await asyncio.sleep(0.01)


async def test_an_exit_in_connect_ends_the_runner_and_not_the_thread() -> None:
    class Exiting(MemoryDatabase[str]):
        async def bump_session(self, *args: Any, **options: Any) -> Any:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        await Runner(
            Exiting({}), each(lambda task: asyncio.sleep(0)), Settings(**SHORT, keepalive="thread")
        ).run()
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "alive"), keepalive_loop()).result(5) == "alive"
