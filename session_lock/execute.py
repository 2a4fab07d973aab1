"""The execute phase: calls the tasker, and turns what comes of its calls into one verdict for each task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from session_lock.held import CANCELLED
from session_lock.hold import Ending, Hold
from session_lock.tasker import AsyncTasker, TaskerError, awaitable, leave_behind
from session_lock.tasks import Batch, Release, Task
from session_lock.waiting import begin
from session_lock.wording import placed, story

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.execute")

LONGEST_TURN = 0.002
"""Seconds after which a slot gives the loop a turn, whose calls never wait for anything."""


async def execute(hold: Hold[T], tasker: AsyncTasker[T], tasks_per_call: int) -> None:
    """One slot: batch after batch, until the lease comes to its end."""
    clock = asyncio.get_running_loop().time
    turn_at = clock()
    while batch := await hold.next_batch(tasks_per_call):
        try:
            with (
                hold.pace.call(),
                hold.telemetry.call(batch, hold.lease.id, counted=tasks_per_call > 1) as phase,
            ):
                hold.call_begins()
                phase.error = await _do(hold, tasker, batch)
            hold.call_ended(batch)
        finally:
            hold.turn.give()
        if clock() - turn_at >= LONGEST_TURN:
            await asyncio.sleep(0)
            turn_at = clock()


async def _do(hold: Hold[T], tasker: AsyncTasker[T], batch: Batch[T]) -> BaseException | None:
    """Verdicts on a batch: by one call or, if that raises, by calls for its halves, so that one bad row sinks no others.

    Returns what the first call has raised.
    """
    first: BaseException | None = None
    parts: list[Batch[T]] = [batch]
    while parts:
        part = parts.pop()
        if part is not batch and not (part := _still_to_run(hold, part)):
            continue
        end = await _supervise(hold, tasker, part)
        if end.error is None and not end.abandoned:
            end.error = _accomplished(hold, part, end.returned)
        if first is None and not end.cancelled:
            first = end.error
        rest = _judge(hold, part, end)
        hold.outbox.in_transactions.difference_update(part)  # another call may finish them in another way
        parts += [Batch(half, hold) for half in (rest[len(rest) // 2 :], rest[: len(rest) // 2]) if half]
    return first


def _still_to_run(hold: Hold[T], half: Batch[T]) -> Batch[T]:
    """What there is to run of a half now that its turn has come. The rest has its verdict."""
    goes_on = hold.may_run() and not hold.breaker.open
    for task in half:
        if str(task.key) in hold.cancel_keys:
            hold.keep(task, CANCELLED)
        elif not goes_on:  # it has failed in company only, which is no fault of its own
            hold.keep(task, Release())
    return Batch([task for task in half if not hold.is_settled(task)], hold)


@dataclass(slots=True)
class _End:
    """How a call of the tasker has ended."""

    returned: object = None
    error: BaseException | None = None
    cancelled: bool = False
    """By us, and for no fault of its tasks."""
    abandoned: bool = False
    """It has not ended, and is waited for no longer."""


async def _supervise(hold: Hold[T], tasker: AsyncTasker[T], batch: Batch[T]) -> _End:
    """One call of the tasker in a task of its own, outside of the group, so that a stubborn one can be left behind."""

    async def call_tasker() -> object:
        this = asyncio.current_task()
        assert this is not None
        hold.running[this] = batch
        hold.guard.call_begins(this)
        try:
            return await awaitable(tasker(batch))
        except (KeyboardInterrupt, SystemExit) as error:
            # Raised by a task these end the loop, under the hands of all others. The Runner stops, and raises it then.
            hold.end(Ending.FAILED, error)
            return error

    call = begin(call_tasker(), hold.call_name)
    in_time = True
    try:
        if not call.done():
            hold.running[call] = batch
            in_time = await _within_its_time(hold, call, batch)
    except asyncio.CancelledError:  # the group is torn down by an error of ours: nobody will judge this call
        call.cancel()
        hold.turn.keep_for(call)
        raise
    finally:
        del hold.running[call]
        hold.overdue.discard(call)

    if not call.done():
        hold.abandoned.update(task.key for task in batch if not hold.is_settled(task))
        logger.error(
            "a tasker of session %d ignores its cancellation: its %d tasks are abandoned and left to expire",
            hold.lease.id, len(batch), extra=hold.about(),
        )  # fmt: skip
        call.add_done_callback(_retrieve)
        leave_behind(call)
        hold.turn.keep_for(call)
        return _End(error=TimeoutError("abandoned"), abandoned=True)
    cancelled = call in hold.cancelling and in_time
    hold.cancelling.discard(call)
    error = _error_of(call)
    returned = call.result() if error is None else None
    if isinstance(returned, KeyboardInterrupt | SystemExit):
        error = returned
    if error is not None and not in_time:
        error = _late(hold, error)
    return _End(returned, error, cancelled)


def _error_of(call: asyncio.Task[object]) -> BaseException | None:
    try:
        return call.exception()
    except asyncio.CancelledError as error:
        return error


async def _within_its_time(hold: Hold[T], call: asyncio.Task[object], batch: Batch[T]) -> bool:
    """Wait for the call's end, or for the end of all waiting. False if it was stopped for being late."""
    settings, ended = hold.settings, hold.slots.ended
    if await ended(call, settings.task_timeout):
        return True
    if call in hold.cancelling:
        return await ended(call, None)
    call.cancel()
    if not await ended(call, settings.cancel_grace):
        logger.error(
            "a tasker of session %d goes on after task_timeout=%g seconds and its cancellation: its slot and its %d tasks stay "
            "taken until it ends",
            hold.lease.id, settings.task_timeout, len(batch), extra=hold.about(),
        )  # fmt: skip
        hold.left_overdue(call, batch)
        await ended(call, None)
    return False


def _late(hold: Hold[Any], error: BaseException) -> TimeoutError:
    late = TimeoutError(f"the tasker did not end within task_timeout={hold.settings.task_timeout:g} seconds")
    late.__cause__ = error.__cause__ if isinstance(error, asyncio.CancelledError) else error
    return late


def _judge(hold: Hold[T], batch: Batch[T], end: _End) -> Sequence[Task[T]]:
    """A verdict for each task that has none: what was settled before stands, whatever the call came to.

    Returns those that have none yet, because it is to be found out which of them made the call fail.
    """
    if end.abandoned:
        return ()
    for task in batch:
        if str(task.key) in hold.cancel_keys and hold.keep(task, CANCELLED):
            hold.cancel_keys.discard(str(task.key))
    if end.error is None:  # returned or not: their transactions have the last word
        hold.accomplished([task for task in batch if task in hold.outbox.in_transactions])
    rest = [task for task in batch if not hold.is_settled(task)]
    if end.cancelled:
        for task in rest:
            hold.keep(task, Release())
        return ()
    if end.error is not None:
        level = logging.ERROR if isinstance(end.error, TaskerError) else logging.WARNING
        logger.log(
            level,
            "a tasker of session %d failed on %d tasks: %s",
            hold.lease.id, len(batch), _told(end.error), extra=hold.about(),
        )  # fmt: skip
        if len(rest) > 1 and not isinstance(end.error, TaskerError | KeyboardInterrupt | SystemExit):
            return rest
    text = "the tasker did not return it" if end.error is None else story(end.error)
    for task in rest:
        hold.failed(task, text, end.error)
    return ()


def _accomplished(hold: Hold[T], batch: Batch[T], returned: object) -> BaseException | None:
    """Settle the tasks that the call returned; what else is in there is refused one by one, and the rest counts."""
    if not isinstance(returned, Iterable):
        return TaskerError(
            f"a tasker returns the tasks that it has accomplished, not {type(returned).__name__}"
        )
    items: list[object] = []
    error: BaseException | None = None
    try:
        items.extend(returned)
    except BaseException as raised:  # noqa: BLE001 (the user's generator: what it gave before counts)
        error = raised
        if isinstance(raised, KeyboardInterrupt | SystemExit):
            hold.end(Ending.FAILED, raised)
    batched = set(batch)
    own: list[Task[T]] = [item for item in items if isinstance(item, Task) and item in batched]
    once = dict.fromkeys(own)
    hold.accomplished(once)
    foreign, repeated = len(items) - len(own), len(own) - len(once)
    if foreign or repeated:
        logger.error(
            "a tasker of session %d returned %d things that are no tasks of its batch (it returns Task objects, not keys), "
            "and %d tasks again: refused",
            hold.lease.id, foreign, repeated, extra=hold.about(),
        )  # fmt: skip
    return error


def _told(error: BaseException) -> str:
    """What the log says of an error. Ours holds no data."""
    return str(error) if isinstance(error, TaskerError) else placed(error)


def _retrieve(call: asyncio.Task[object]) -> None:
    """An abandoned call has ended after all: too late, but not silently."""
    if not call.cancelled() and (error := call.exception()) is not None:
        logger.warning("an abandoned tasker ended with %s", type(error).__name__)
