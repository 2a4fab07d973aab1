"""The finish phase: records outcomes, many in one call, again and again until the database has them or the lease is over."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from session_lock.database import Handback, Outcome, Settled
from session_lock.errors import DatabaseError, SessionLost
from session_lock.held import claims_of
from session_lock.hold import Ending, Hold
from session_lock.tasks import Discard, Failure, Finish, HandOver, Park, Release, Task, TaskKey, Verdict
from session_lock.waiting import wait_for
from session_lock.wording import describe, level_of, text_of

T = TypeVar("T")

Settlement: TypeAlias = tuple[Task[T], Verdict]

logger = logging.getLogger("session_lock.finish")

AT_ONCE = 1000
"""Outcomes in one call, at most."""

ERROR_LENGTH = 4000
"""Characters of an error that are kept."""

LONGEST_DELAY = 1e9
"""Seconds, 32 years; what is released for longer is parked."""

NO_TEXT = "an error that cannot be stored in this database"
"""Kept in place of one whose text the database's encoding lacks."""

LOCKED_PAUSE = 0.05
"""Seconds before a row is tried again that somebody had locked."""


async def finish(hold: Hold[T]) -> None:
    """Record what the execute phase puts, until no more will come and all is recorded, or nothing more can be."""
    clock = asyncio.get_running_loop().time
    # Locked by somebody's transaction: asked again from `due` on, and holding up no other.
    locked: list[Settlement[T]] = []
    due = 0.0
    failures = 0
    while not hold.last_recording.is_set() or hold.outcomes or locked:
        # Fewer after a failure: a call in which many rows refuse may take too long, and its answers are lost with it.
        settlements = _take(hold, locked, again=clock() >= due, most=max(50, AT_ONCE >> (2 * failures)))
        if not settlements:
            hold.outcome_or_end.clear()
            await wait_for(hold.outcome_or_end, max(0.001, due - clock()) if locked else None)
            continue
        try:
            locked += await _record(hold, settlements)
            failures, due = 0, clock() + LOCKED_PAUSE
            hold.freed = True
            if hold.limited:
                hold.look()
        except SessionLost as error:
            hold.lost(error)
            break
        except Exception as error:  # noqa: BLE001 (a SchemaError; a database that does not keep its contract)
            # Tried on in any case, while stopping too: it may pass. Behind the others, so that it holds up none of them.
            if not (isinstance(error, DatabaseError) and error.retryable):
                hold.end(Ending.FAILED, error)
            hold.outcomes.extend(settlements)
            failures += 1
            logger.log(
                level_of(failures), "session %d cannot record outcomes: %s", hold.lease.id, describe(error)
            )
        if (failures or locked) and hold.session.left() <= 0:
            hold.lose("its last outcomes could not be recorded in time")
            break
        if failures:
            await _pause(hold, random.uniform(0.05, 0.1) * min(2**failures, 32))


async def _pause(hold: Hold[Any], seconds: float) -> None:
    """After a failure; not beyond the deadline, when it is tried a last time, and for moments only while all waits for it."""
    seconds = min(seconds, max(hold.session.left(), 0.001))
    if hold.last_recording.is_set():
        await asyncio.sleep(min(seconds, LOCKED_PAUSE * 4))
    else:
        await wait_for(hold.last_recording, seconds)


def _take(hold: Hold[T], locked: list[Settlement[T]], *, again: bool, most: int) -> list[Settlement[T]]:
    """Up to `most` of the next outcomes, each key once, as a call of the database wants it."""
    taken: list[Settlement[T]] = []
    keys: set[TaskKey] = {task.key for task, _ in locked}
    if again:
        taken, locked[:] = [*locked], []
    while hold.outcomes and len(taken) < most and hold.outcomes[0][0].key not in keys:
        taken.append(hold.outcomes.popleft())
        keys.add(taken[-1][0].key)
    return taken


async def _record(hold: Hold[T], settlements: list[Settlement[T]]) -> list[Settlement[T]]:
    """One call for what is finished and one for what is given back; returns what has to be asked again.

    If a call fails, `settlements` is left with what was not answered.
    """
    finished: list[Settlement[T]] = [each for each in settlements if isinstance(each[1], Finish)]
    given_back: list[Settlement[T]] = [each for each in settlements if not isinstance(each[1], Finish)]
    again: list[Settlement[T]] = []
    if finished:
        claims = claims_of(task for task, _ in finished)
        again += await _call(hold, "finish", finished, lambda: hold.database.finish_tasks(hold.lease, claims))
        settlements[:] = [*again, *given_back]  # should the next call fail, these are through
    if given_back:
        handbacks = [_handback(task, verdict) for task, verdict in given_back]
        wake = any(isinstance(verdict, HandOver) for _, verdict in given_back)
        again += await _call(
            hold, "release", given_back, lambda: hold.database.release_tasks(hold.lease, handbacks, wake=wake)
        )
    return again


async def _call(
    hold: Hold[T],
    phase_name: str,
    settlements: list[Settlement[T]],
    verb: Callable[[], Awaitable[Sequence[Settled]]],
) -> list[Settlement[T]]:
    with hold.telemetry.phase(phase_name, session_id=hold.lease.id, tasks=len(settlements)) as phase:
        settled = await hold.call(f"{phase_name}_tasks", _awaited(verb))
        outcomes = {each.key: each for each in settled}
        lost = [task for task, _ in settlements if outcomes[task.key].outcome is Outcome.LOST]
        phase.set(lost=len(lost))
    again = []
    for task, verdict in settlements:
        answer = outcomes[task.key]
        match answer.outcome:
            case Outcome.LOCKED:
                again.append((task, verdict))
            case Outcome.REFUSED:
                if (other := _after_refusal(hold, task, verdict, answer.error or "")) is not None:
                    again.append((task, other))
            case _:
                hold.recorded(task)
    if lost:
        logger.warning(
            "%d tasks of session %d were lost: others have them, or their rows were closed",
            len(lost),
            hold.lease.id,
        )
    return again


async def _awaited(verb: Callable[[], Awaitable[Sequence[Settled]]]) -> Sequence[Settled]:
    return await verb()


def _after_refusal(hold: Hold[T], task: Task[T], verdict: Verdict, error: str) -> Verdict | None:
    """What to do about a row that refuses: a finish becomes a failure, a discard parks. None: it stays held."""
    logger.error("task %r cannot be recorded: %s", task, error)
    match verdict:
        case Finish():
            return hold.after_failure(task, f"finish was refused: {error}")
        case Discard(reason):
            return Park(f"discard was refused: {error}; {reason}")
        case Failure(text) | Park(text) if (
            text != NO_TEXT
        ):  # perhaps it is its own text that cannot be stored
            return replace(verdict, error=NO_TEXT)
        case _:
            return None  # until the session ends; its row is not claimed twice meanwhile


def _handback(task: Task[Any], verdict: Verdict) -> Handback:
    (claim,) = claims_of((task,))
    match verdict:
        case Release(after):
            far = after is not None and after > LONGEST_DELAY
            return Handback(claim, after=math.inf if far else after, give_back_attempt=True)
        case HandOver():
            return Handback(claim, give_back_attempt=True)
        case Discard(reason):
            return Handback(claim, discard=True, error=_storable(reason) or None)
        case Park(error):
            return Handback(claim, after=math.inf, error=_storable(error))
        case Failure(error, after):
            return Handback(claim, after=after, error=_storable(error))
        case Finish():
            raise AssertionError("a finish is no handback")


def _storable(error: object) -> str:
    """A text column takes neither NUL nor half of a surrogate pair; and nobody reads a megabyte."""
    text = text_of(error)[:ERROR_LENGTH].replace("\0", "\\0")
    return text.encode(errors="backslashreplace").decode()
