"""The execute phase: calls the tasker, and turns what comes of a call into one verdict for each of its tasks."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterable
from typing import Any, TypeVar

from session_lock.hold import Ending, Hold
from session_lock.tasks import Batch, Discard, Failure, Finish, Release, Task, Tasker, TaskerError, awaitable
from session_lock.wording import describe

T = TypeVar("T")

logger = logging.getLogger("session_lock.execute")


async def execute(hold: Hold[T], tasker: Tasker[T], tasks_per_call: int) -> None:
    """One slot: call after call, until the lease comes to its end."""
    while batch := await hold.next_batch(tasks_per_call):
        with hold.telemetry.phase("execute", session_id=hold.lease.id, tasks=len(batch)) as phase:
            phase.error = await _supervise(hold, tasker, batch)


async def _supervise(hold: Hold[T], tasker: Tasker[T], batch: Batch[T]) -> BaseException | None:
    """One call of the tasker in a task of its own, outside of the group, so that a stubborn one can be left behind."""

    async def call_tasker() -> object:
        try:
            return await awaitable(tasker(batch))
        except (KeyboardInterrupt, SystemExit) as error:
            # Raised by a task these end the loop, under the hands of all others. The Runner stops, and raises it then.
            hold.end(Ending.FAILED, error)
            return error

    call = asyncio.create_task(call_tasker(), name=f"session_lock tasker, session {hold.lease.id}")
    hold.running[call] = batch
    try:
        await asyncio.wait({call, hold.give_up}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:  # the group is torn down by an error of ours: nobody will judge this call
        call.cancel()
        raise
    finally:
        del hold.running[call]

    if not call.done():
        hold.abandoned.update(task.key for task in batch if not hold.is_settled(task))
        logger.error(
            "a tasker of session %d ignores its cancellation: its %d tasks are abandoned and left to expire",
            hold.lease.id, len(batch), extra={"session_id": hold.lease.id},
        )  # fmt: skip
        call.add_done_callback(_retrieve)
        return TimeoutError("abandoned")
    error = _judge(hold, batch, call)
    hold.call_ended(batch)
    return error


def _judge(hold: Hold[T], batch: Batch[T], call: asyncio.Task[object]) -> BaseException | None:
    """A verdict for each task that has none: what was settled before stands, whatever the call came to."""
    cancelled_by_us = call in hold.cancelling
    hold.cancelling.discard(call)
    error: BaseException | None
    if call.cancelled():
        error = asyncio.CancelledError()
    elif (error := call.exception()) is None:
        error = _accomplished(hold, batch, call.result())

    for task in batch:
        if hold.is_settled(task):
            continue
        if str(task.key) in hold.cancel_keys:
            hold.cancel_keys.discard(str(task.key))
            hold.settle(task, Discard("cancelled on request"))
        elif cancelled_by_us:
            hold.settle(task, Release())
        elif error is not None:
            hold.settle(task, Failure(describe(error)))
        else:
            hold.settle(task, Failure("the tasker did not return it"))
    if error is not None and not cancelled_by_us:
        level = logging.ERROR if isinstance(error, TaskerError) else logging.WARNING
        logger.log(
            level, "a tasker of session %d failed on %d tasks: %s", hold.lease.id, len(batch), _told(error)
        )
    return None if cancelled_by_us else error


def _accomplished(hold: Hold[T], batch: Batch[T], returned: object) -> BaseException | None:
    """Settle the tasks that the call returned; what else is in there is refused one by one, and the rest counts."""
    if isinstance(returned, KeyboardInterrupt | SystemExit):
        return returned
    if not isinstance(returned, Iterable):
        return TaskerError(
            f"a tasker returns the tasks that it has accomplished, not {type(returned).__name__}"
        )
    own = set(batch)
    seen: set[Task[Any]] = set()
    foreign = repeated = 0
    error: BaseException | None = None
    try:
        for item in returned:
            if not isinstance(item, Task) or item not in own:
                foreign += 1
            elif item in seen:
                repeated += 1
            else:
                seen.add(item)
                hold.settle(item, Finish())
    except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 (the user's generator: what it gave before counts)
        error = raised
    if foreign or repeated:
        logger.error(
            "a tasker of session %d returned %d things that are no tasks of its batch (it returns Task objects, not keys), "
            "and %d tasks again: refused",
            hold.lease.id, foreign, repeated,
        )  # fmt: skip
    return error


def _told(error: BaseException) -> str:
    """What the log says of an error: its type and place. Its text may hold what the row held."""
    if isinstance(error, TaskerError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"


def _retrieve(call: asyncio.Task[object]) -> None:
    """An abandoned call has ended after all: too late, but not silently."""
    if not call.cancelled() and (error := call.exception()) is not None:
        logger.warning("an abandoned tasker ended with %s", type(error).__name__)
