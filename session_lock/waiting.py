"""Ways to wait that all who wait here share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Until the event is set, or so many seconds have passed (None: for ever)."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
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
