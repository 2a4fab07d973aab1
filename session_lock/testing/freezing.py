"""Asyncio tasks that stand still together, as those of a process under SIGSTOP, while the event loop goes on for others.

Each task that is created in the context of a `Freezer` is driven through a `_Freezable`, which lets no step of it pass while
its freezer is frozen. What falls due meanwhile, a timeout or a cancellation, arrives late, when it is thawed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar
from weakref import WeakSet

R = TypeVar("R")

_freezer: ContextVar[Freezer | None] = ContextVar("session_lock_freezer", default=None)


class Freezer:
    """Some tasks of a loop, and all that they create."""

    def __init__(self) -> None:
        self.frozen: bool = False
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.spared: set[asyncio.Task[Any] | None] = set()
        """Those of them that go on all the same."""
        self._thawed: list[asyncio.Future[None]] = []

    def start(self, coroutine: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """A task that can be frozen."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop.get_task_factory(), _TaskFactory):
            loop.set_task_factory(_TaskFactory(loop.get_task_factory()))  # type: ignore[arg-type]
        context = copy_context()
        context.run(_freezer.set, self)
        return loop.create_task(coroutine, context=context)

    def freeze(self) -> None:
        """No task of it makes another step."""
        self.frozen = True

    def thaw(self) -> None:
        """They go on where they stood."""
        self.frozen = False
        for future in self._thawed:
            if not future.done():
                future.set_result(None)
        self._thawed.clear()

    @contextmanager
    def spare(self) -> Iterator[None]:
        """The current task goes on, frozen or not, for the length of the block."""
        task = asyncio.current_task()
        self.spared.add(task)
        try:
            yield
        finally:
            self.spared.discard(task)

    def until_thawed(self) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._thawed.append(future)
        return future


class _TaskFactory:
    """Makes tasks as the loop did before, freezable ones of those that a `Freezer` started, directly or not."""

    def __init__(self, before: Callable[..., asyncio.Task[Any]] | None) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        context = options.get("context")
        freezer = _freezer.get() if context is None else context.get(_freezer)
        step = coroutine if freezer is None else _Freezable(coroutine, freezer)
        make = self._before or (lambda loop, step, **options: asyncio.Task(step, loop=loop, **options))
        task = make(loop, step, **options)
        if freezer is not None:
            freezer.tasks.add(task)
        return task


class _Freezable(Coroutine[Any, Any, R]):
    def __init__(self, coroutine: Coroutine[Any, Any, R], freezer: Freezer) -> None:
        self._coroutine = coroutine
        self._freezer = freezer
        self._error: Any = None  # what was thrown into it while it was frozen

    def send(self, value: Any) -> Any:
        if self._freezer.frozen and asyncio.current_task() not in self._freezer.spared:
            return self._stand_still()
        if self._error is not None:
            error, self._error = self._error, None
            return self._coroutine.throw(error)
        return self._coroutine.send(value)

    def throw(self, error: Any, *args: Any) -> Any:
        if self._freezer.frozen:
            self._error = error
            return self._stand_still()
        return self._coroutine.throw(error, *args)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, R]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:  # `cr_frame`, for who prints where a task stands
        return getattr(self._coroutine, name)

    def _stand_still(self) -> asyncio.Future[None]:
        """What a coroutine yields to its task when it awaits a future."""
        future = self._freezer.until_thawed()
        future._asyncio_future_blocking = True  # noqa: SLF001 (the protocol of asyncio.Task)
        return future
