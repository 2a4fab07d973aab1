"""`async with`: something that runs, for the length of a block."""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from session_lock.errors import SettingsError
from session_lock.waiting import wait_through
from session_lock.wording import describe

logger: logging.Logger = logging.getLogger("session_lock.runner")


class RunningBlock(ABC):
    """Runs `run()` in a task of its own while the block lasts; leaving the block stops it gracefully."""

    failed: BaseException | None = None
    """What ended it inside of its block; None while it is well. Leaving the block raises it."""

    _on_failure: Callable[[BaseException], object] | None = None
    _block: asyncio.Task[None] | None = None

    @abstractmethod
    async def run(self) -> None:
        """Run until stopped."""

    @abstractmethod
    def stop(self) -> None:
        """Stop gracefully."""

    @abstractmethod
    def _abort(self) -> None:
        """Stop now."""

    async def __aenter__(self) -> Self:
        if self._block is not None:
            raise RuntimeError(f"a {type(self).__name__} is entered once: make another one")
        self._block = asyncio.create_task(self.run(), name="session_lock block")
        self._block.add_done_callback(self._block_ended)
        return self  # without an await: whoever is cancelled there would leave it running

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None
        self.stop()
        await wait_through({self._block}, self._abort)
        failure = failure_of(self._block)
        if failure is not None and error is None:
            raise failure

    def _block_ended(self, block: asyncio.Task[None]) -> None:
        if (error := failure_of(block)) is None:
            return
        self.failed = error
        self._report(error, type(self).__name__)

    def _report(self, error: BaseException, who: str) -> None:
        logger.critical("the %s has died: %s", who, describe(error), extra={"state": "failed"})
        if self._on_failure is not None:
            try:
                self._on_failure(error)
            except Exception as again:  # noqa: BLE001 (the user's)
                logger.error("on_failure failed as well: %s", type(again).__name__)


def failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def first_leaf(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def check_on_failure(on_failure: object) -> None:
    """It is called from a callback of the loop, where nobody could await it."""
    if on_failure is not None and not callable(on_failure):
        raise SettingsError(
            f"on_failure is a function, which is called with the error, not {type(on_failure).__name__}"
        )
    if inspect.iscoroutinefunction(on_failure):
        raise SettingsError("on_failure is called, not awaited: give a plain function (it may create a task)")
