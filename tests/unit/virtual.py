"""How a unit test is run: in virtual time, and with nothing left behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from session_lock.testing import virtual_time


def virtual(test: Callable[..., Awaitable[Any]] | None = None, *, leaves: int = 0) -> Any:
    """A test of minutes in milliseconds. It fails if asyncio tasks are left (but `leaves`), or if asyncio complains."""
    if test is None:
        return functools.partial(virtual, leaves=leaves)

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with virtual_time(limit=4000) as runner, complaints() as complained:
            runner.get_loop().set_exception_handler(lambda _, context: complained.append(str(context)))

            async def main() -> None:
                await test(*args, **kwargs)
                left = await left_tasks()
                assert len(left) == leaves, f"asyncio tasks are left: {left}"

            runner.run(main())
        gc.collect()
        gc.freeze()  # what is left is pytest's: the next collection need not look at it
        assert complained == []

    return run


async def left_tasks() -> list[asyncio.Task[Any]]:
    """What has not ended, after some turns of the loop in which it may."""
    for _ in range(10):
        await asyncio.sleep(0)
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


class complaints(logging.Handler):  # noqa: N801
    """What asyncio logs: exceptions that were never retrieved, tasks that were destroyed, callbacks that raised."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("asyncio").addHandler(self)
        return self.records

    def __exit__(self, *_: object) -> None:
        logging.getLogger("asyncio").removeHandler(self)


async def until(condition: Callable[[], object], within: float = 100.0) -> float:
    """Wait for it, looking each virtual hundredth of a second; returns the loop's time at which it was so."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + within
    while not condition():
        assert clock() < give_up, "waited in vain"
        await asyncio.sleep(0.01)
    return clock()


def now() -> float:
    return asyncio.get_running_loop().time()
