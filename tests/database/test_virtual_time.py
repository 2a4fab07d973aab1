"""An event loop in which waiting takes no time, and waiting for nothing is an error."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from uuid import uuid4

import pytest

from session_lock.session import Lease, Session, lease_clock
from session_lock.testing import DeadlockError, run_virtual, virtual_time


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


def test_threads_are_waited_for_and_time_stands_still():
    async def main() -> float:
        async with asyncio.timeout(1):
            await asyncio.to_thread(time.sleep, 0.05)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


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
