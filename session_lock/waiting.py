"""Ways to wait, and to begin, that all here share."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


def begin(coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task of its own. From Python 3.12 on it begins at once: what never waits has ended when this returns, and has not been
    in the loop.
    """
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), name=name, eager_start=True)
    return asyncio.create_task(coroutine, name=name)


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Until the event is set, or so many seconds have passed (None: for ever)."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class Waiters:
    """Who wait for tasks to end, until all are told to wait no longer.

    As `asyncio.wait` for a task or a common future, whose callbacks are searched through at the end of each wait: with a thousand
    slots that is most of what a short call costs.
    """

    def __init__(self) -> None:
        self._given_up = False
        self._waiting: set[asyncio.Future[None]] = set()

    def give_up(self) -> None:
        self._given_up = True
        for waiter in self._waiting:
            _wake(waiter)

    async def ended(self, task: asyncio.Task[Any], seconds: float | None) -> bool:
        """Wait until it has ended or all is given up; False if `seconds` have passed before (None: for ever)."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()

        def wake(_: object) -> None:
            _wake(waiter)

        timer = None if seconds is None else loop.call_later(seconds, _wake, waiter)
        task.add_done_callback(wake)
        self._waiting.add(waiter)
        try:
            if not self._given_up:
                await waiter
        finally:
            self._waiting.discard(waiter)
            task.remove_done_callback(wake)
            if timer is not None:
                timer.cancel()
        return self._given_up or task.done()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def have_shield() -> None:
    """Before it is wanted: anyio imports its half for asyncio where a scope is entered first, and at the end of a Runner there may be
    another version of it on the disk, or no time.
    """
    with anyio.CancelScope():  # noqa: ASYNC100 -- for what it brings along
        pass


async def wait_through(tasks: set[asyncio.Task[Any]], on_cancel: Callable[[], object]) -> None:
    """Wait until the tasks have ended, also when cancelled meanwhile: `on_cancel` is called then, and it is raised last.

    anyio cancels by level, that is again at each turn of the loop; the shield makes that one cancellation.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while any(not task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                cancelled = error
                on_cancel()
    if cancelled is not None:
        raise cancelled
