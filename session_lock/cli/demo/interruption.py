"""Ctrl-C, SIGTERM or a closed terminal, acted upon where it is safe."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Interruption:
    """Ctrl-C, SIGTERM or a closed terminal, for the length of a block: noted, and acted upon where it is safe.

    An exception out of a signal handler may come between any two lines, also between making a folder and entering the
    block that removes it. So the handler only takes a note and cancels the asyncio task, if one is at work.
    """

    def __init__(self) -> None:
        self._noted = False
        self._cancel: Callable[[], object] | None = None
        self._restoring = ExitStack()

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (before := signal.getsignal(number)) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._note)
                self._restoring.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._restoring.close()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if not self._noted and self._cancel is not None:  # a second one would end the cleaning up
            self._cancel()
        self._noted = True

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """`asyncio.run(work())`, or None if it was interrupted; it has been cancelled and has cleaned up then."""

        async def cancellable() -> T:
            task = asyncio.current_task()
            assert task is not None
            loop = asyncio.get_running_loop()
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            try:
                if self._noted:
                    raise asyncio.CancelledError
                return await work()
            finally:
                self._cancel = None

        try:
            return asyncio.run(cancellable())
        except asyncio.CancelledError:
            return None
