"""Threads that a loop in virtual time waits for: while one works, its clock stands still.

Those of asyncio begin by a method of the loop. Those of anyio do not, so what begins them is told here to count them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import cache
from typing import Any

import anyio

try:  # it has no public place for what begins its threads
    from anyio._backends._asyncio import AsyncIOBackend
except ImportError:  # one to come
    AsyncIOBackend = None  # type: ignore[assignment,misc]


class WaitsForThreads:
    """A loop that does."""

    _threads: int = 0
    """How many work for it."""


class _Call:
    """A call in a thread of anyio's. It does not work while it waits for something that the loop does for it."""

    def __init__(self, loop: WaitsForThreads) -> None:
        self._loop = loop
        self._works = self._has_ended = False

    def works(self, yes: bool) -> None:
        """To be called in the loop, never by the thread. One that was given up may go on, and counts no more."""
        yes = yes and not self._has_ended
        self._loop._threads += yes - self._works  # noqa: SLF001 (made for this)
        self._works = yes

    def ends(self) -> None:
        self.works(False)
        self._has_ended = True


_call: ContextVar[_Call | None] = ContextVar("session_lock.testing.threads", default=None)


@cache
def count_threads_of_anyio() -> None:
    """From now on, where a loop waits for them; under all other loops they are what they were."""
    backend: Any = AsyncIOBackend
    if not hasattr(backend, "run_sync_in_worker_thread") or not hasattr(backend, "run_async_from_thread"):
        return
    to_thread, from_thread = backend.run_sync_in_worker_thread, backend.run_async_from_thread

    async def counted(
        function: Callable[..., Any], arguments: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, WaitsForThreads):
            return await to_thread(function, arguments, abandon_on_cancel, limiter)
        async with (
            limiter or backend.current_default_thread_limiter()
        ):  # who waits for its turn has no thread yet
            call = _Call(loop)
            before = _call.set(call)
            call.works(True)
            try:
                return await to_thread(function, arguments, abandon_on_cancel, anyio.CapacityLimiter(1))
            finally:
                call.ends()
                _call.reset(before)

    def waiting(function: Callable[..., Coroutine[Any, Any, Any]], arguments: Any, token: Any) -> Any:
        call = _call.get()

        async def awaited(*given: Any) -> Any:
            if call is None:
                return await function(*given)
            call.works(False)
            try:
                return await function(*given)
            finally:
                call.works(True)

        return from_thread(awaited, arguments, token)

    backend.run_sync_in_worker_thread = staticmethod(counted)
    backend.run_async_from_thread = staticmethod(waiting)
