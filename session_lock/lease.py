"""One lease is one TaskGroup: its children are the four phases, and the order of this text is the order of its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from session_lock.database import Database
from session_lock.execute import execute
from session_lock.fetch import fetch, listen
from session_lock.finish import finish
from session_lock.held import claims_of
from session_lock.hold import Ending, Hold
from session_lock.keepalive import keepalive, watch_deadline
from session_lock.measuring import figures, measure
from session_lock.moving import follow
from session_lock.tasker import AsyncTasker
from session_lock.wording import describe

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.runner")


async def live(
    hold: Hold[T],
    tasker: AsyncTasker[T],
    tasks_per_call: int,
    find: Callable[[], Coroutine[Any, Any, Database[T]]],
    stop: Callable[[], None],
) -> None:
    """Live one lease from its first claim to its end. Expected endings are values (`hold.ending`), not exceptions."""
    hold.telemetry.observe(partial(figures, hold))
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch_deadline(hold))
        renewing = group.create_task(keepalive(hold, stop))
        recording = group.create_task(finish(hold))
        following = group.create_task(follow(hold, find))
        slots = [
            group.create_task(execute(hold, tasker, tasks_per_call)) for _ in range(hold.settings.concurrency)
        ]
        listening = group.create_task(listen(hold))
        measuring = group.create_task(measure(hold))
        fetching = group.create_task(fetch(hold, find))

        await asyncio.wait({fetching})  # 1 from here on nothing is claimed
        listening.cancel()
        await _drain(hold, slots)  # 2 every call has ended, or is abandoned: each task has its verdict
        hold.stop_recording()
        deadline = asyncio.get_running_loop().time() + hold.settings.shutdown_timeout
        await _await_records(hold, recording)  # 3 they are recorded
        for phase in (recording, renewing, watching, following, measuring):  # 4 the lease was held until here
            phase.cancel()
    await _end(hold, deadline)


async def _drain(hold: Hold[Any], slots: list[asyncio.Task[None]]) -> None:
    """Let the calls under way end: by themselves at first, then cancelled, then without them."""
    hold.give_back()  # what the last look brought
    left = hold.drain_until - asyncio.get_running_loop().time()
    await asyncio.wait(slots, timeout=max(0.0, left))
    if any(not slot.done() for slot in slots):
        hold.cancel_running()
        await asyncio.wait(slots)


async def _await_records(hold: Hold[Any], recording: asyncio.Task[None]) -> None:
    """The end of the session has its part of `shutdown_timeout` too: a call's time, or half of it all."""
    settings = hold.settings
    left_for_end = min(settings.call_timeout, settings.shutdown_timeout / 2)
    await asyncio.wait({recording}, timeout=settings.shutdown_timeout - left_for_end)
    if unrecorded := hold.held.keys() - hold.abandoned:
        logger.warning(
            "session %d ends with %d tasks whose outcome is not recorded", hold.lease.id, len(unrecorded), extra=hold.about(),
        )  # fmt: skip


async def _end(hold: Hold[Any], deadline: float) -> None:
    """End the session, so that its tasks need not wait for the lease to run out; unless somebody still works on one."""
    with hold.telemetry.phase("end", session_id=hold.lease.id, held=len(hold.held)) as phase:
        hold.telemetry.tell_events(phase)
        if hold.ending is Ending.LOST and hold.held:
            hold.telemetry.settled("lost", len(hold.held))
        phase.asks = not hold.abandoned and not (hold.ending is Ending.LOST and hold.session.left() <= 0)
        if hold.abandoned:
            logger.error(
                "session %d is left to expire with %d abandoned tasks", hold.lease.id, len(hold.abandoned), extra=hold.about(),
            )  # fmt: skip
        if not phase.asks:
            return
        hold.session.lost = True  # for who asks whether a task is held: from the call on others may have it
        try:
            async with asyncio.timeout_at(deadline):
                await hold.call(
                    "end_session", hold.database.end_session(hold.lease, claims_of(hold.held.values()))
                )
        except Exception as error:  # noqa: BLE001 (nothing is left to be done about it)
            phase.error = error
            logger.warning(
                "session %d could not be ended and is left to expire: %s", hold.lease.id, describe(error), extra=hold.about(),
            )  # fmt: skip
