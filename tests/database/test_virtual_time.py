"""An event loop in which waiting takes no time, and waiting for nothing is an error."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from functools import partial
from uuid import uuid4

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from session_lock import PostgresDatabase, Runner, Settings, SettingsError, each
from session_lock.session import Lease, Session, lease_clock
from session_lock.testing import DeadlockError, MemoryDatabase, run_until_idle, run_virtual, virtual_time
from tests.support import EMAILS


def test_waiting_takes_no_time():
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert run_virtual(main()) == pytest.approx(3600)
    assert time.perf_counter() - began < 1


def test_things_happen_in_the_order_of_their_times():
    seen = []

    async def at(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((seconds, round(asyncio.get_running_loop().time(), 6)))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for seconds in (30, 0.1, 7, 86_000):
                group.create_task(at(seconds))

    run_virtual(main())
    assert seen == [(0.1, 0.1), (7, 7), (30, 30), (86_000, 86_000)]


def test_timeouts_are_virtual_too():
    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run_virtual(main())


@pytest.mark.parametrize(
    "wait", [lambda: asyncio.Event().wait(), lambda: asyncio.get_running_loop().create_future()]
)
def test_waiting_for_what_can_never_happen_is_an_error(wait):
    async def main() -> None:
        await asyncio.sleep(5)
        await wait()

    with pytest.raises(
        DeadlockError,
        match=rf"nothing is ready and nothing is scheduled at 5 s .*; .*{__name__.split('.')[-1]}",
    ):
        run_virtual(main())


def test_a_test_that_never_ends_is_an_error():
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(DeadlockError, match="100 s of virtual time have passed"):
        run_virtual(main(), limit=100)


@pytest.mark.parametrize("beside", [None, 1e6])
def test_the_error_of_who_waits_for_a_socket_names_it(beside):
    near, far = socket.socketpair()
    near.setblocking(False)

    async def main() -> None:
        async with asyncio.timeout(beside):
            await asyncio.get_running_loop().sock_recv(near, 1)

    with (
        near,
        far,
        pytest.raises(DeadlockError, match="sockets and subprocesses are not waited for.*use asyncio.run"),
    ):
        run_virtual(main())


def test_sleeping_for_ever_is_an_error():
    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(DeadlockError, match="have passed"):
        run_virtual(main())


def test_cleanups_still_run_after_the_error():
    seen = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(10)
            seen.append("cleaned")

    with pytest.raises(DeadlockError):
        run_virtual(main())
    assert seen == ["cleaned"]


@pytest.mark.parametrize("run", [asyncio.to_thread, anyio.to_thread.run_sync])
def test_threads_are_waited_for_and_time_stands_still(run):
    async def main() -> float:
        async with asyncio.timeout(1):
            await run(time.sleep, 0.05)
            await asyncio.gather(run(time.sleep, 0.05), run(time.sleep, 0.1))
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_a_tasker_that_works_in_a_thread_of_anyio_is_waited_for():
    async def work(task) -> None:
        await anyio.to_thread.run_sync(time.sleep, 0.1)

    database = MemoryDatabase({1: None})
    run_virtual(run_until_idle(database, each(work), Settings(task_timeout=2)))
    assert list(database.finished) == [1]


@pytest.mark.timeout(10)
def test_time_goes_on_while_a_thread_waits_for_the_loop_and_for_one_that_was_given_up():
    async def nap() -> float:
        await asyncio.sleep(60)
        return asyncio.get_running_loop().time()

    def ask() -> float:
        time.sleep(0.05)
        woken = anyio.from_thread.run(nap)
        time.sleep(0.05)
        return woken

    async def main() -> tuple[float, float]:
        async with asyncio.timeout(61):
            woken = await anyio.to_thread.run_sync(ask)
        gate = threading.Event()
        waits = partial(anyio.to_thread.run_sync, gate.wait, abandon_on_cancel=True)
        given_up = asyncio.create_task(waits())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(60)
        gate.set()
        return woken, asyncio.get_running_loop().time()

    assert run_virtual(main()) == (60, 120)


@pytest.mark.timeout(10)
def test_who_waits_for_a_turn_of_a_limiter_has_no_thread():
    async def main() -> float:
        limiter = anyio.CapacityLimiter(1)
        async with limiter, asyncio.TaskGroup() as group:
            group.create_task(anyio.to_thread.run_sync(time.sleep, 0, limiter=limiter))
            await asyncio.sleep(60)
            limiter.release()
            await asyncio.sleep(1)
            await limiter.acquire()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 61


def test_under_other_loops_threads_of_anyio_are_as_ever():
    async def main() -> list[float]:
        limiter = anyio.CapacityLimiter(1)
        run = partial(anyio.to_thread.run_sync, limiter=limiter)
        return await asyncio.gather(run(time.perf_counter), run(anyio.from_thread.run, now))

    async def now() -> float:
        return time.perf_counter()

    run_virtual(asyncio.sleep(0))  # from now on they are counted
    assert len(asyncio.run(main())) == 2


async def test_within_a_loop_it_is_refused_in_a_sentence():
    with pytest.raises(
        RuntimeError, match="has an event loop of its own, and one is running here: call it in a plain def"
    ):
        run_virtual(asyncio.sleep(1))


def test_the_lease_clock_is_the_loops():
    async def main() -> None:
        session = Session(Lease(1, uuid4()))
        session.extend(sent_at=lease_clock(), left=30, ttl=30, guard=1)
        await asyncio.sleep(28)
        assert session.left() == pytest.approx(1, abs=0.1)
        await asyncio.sleep(2)
        assert session.left() == 0
        assert lease_clock() == asyncio.get_running_loop().time()

    real = lease_clock()
    run_virtual(main())
    assert lease_clock() >= real


def test_a_frozen_process_finds_that_it_is_late():
    seen = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(5, lambda: seen.append((loop.time(), lease_clock())))
        loop.pause(60)
        assert seen == []
        await asyncio.sleep(0)

    with virtual_time() as runner:
        runner.run(main())
        runner.run(asyncio.sleep(0))
    assert seen == [(60, 60)]


def test_the_real_clock_is_back_after_an_error():
    async def main() -> None:
        raise ValueError

    before = lease_clock()
    with pytest.raises(ValueError):
        run_virtual(main())
    assert lease_clock() >= before


REFUSED = "^virtual time does not wait for a server: give a MemoryDatabase"


@pytest.mark.parametrize("how", ["a DSN", "a function"])
def test_a_server_is_refused(how):
    async def connect() -> None:
        raise AssertionError("it was called")

    async def main() -> None:
        database = PostgresDatabase("postgresql://127.0.0.1:1/db" if how == "a DSN" else connect, EMAILS)
        with pytest.raises(SettingsError, match=REFUSED):
            await database.shares()
        async with database, Runner(database, each(asyncio.sleep)):
            await asyncio.sleep(60)

    with pytest.raises(SettingsError, match=REFUSED):
        run_virtual(main())
