"""How a verdict is recorded, and what the database's answer makes of it: by the finish phase, or along with a look."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from session_lock.database import STILL_HELD, Handback, Outcome, Settled
from session_lock.errors import RowRefusedError
from session_lock.held import claims_of
from session_lock.hold import Hold
from session_lock.outbox import Settlement
from session_lock.tasks import (
    Discard,
    Failure,
    Finish,
    HandOver,
    IfCommitted,
    Park,
    Release,
    Task,
    TaskKey,
    Verdict,
)
from session_lock.telemetry import Phase, words
from session_lock.wording import NOT_COMMITTED, text_of

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.finish")

ERROR_LENGTH = 4000
"""Characters of an error that are kept."""

FAILED_AFTER_ALL = {Outcome.RELEASED: Failure, Outcome.DISCARDED: Discard, Outcome.PARKED: Discard}
"""What it was for a task whose transaction was not committed."""

LONGEST_DELAY = 1e9
"""Seconds, 32 years; what is released for longer is parked."""

NO_TEXT = "an error that cannot be stored in this database"
"""Kept in place of one whose text the database's encoding lacks."""


def settling(hold: Hold[T], phase_name: str, settlements: Sequence[Settlement[T]]) -> Phase:
    """The span around a call that records verdicts."""
    if not hold.telemetry.traces:
        return hold.telemetry.phase(phase_name)
    tasks = [task for task, _ in settlements]
    phase = hold.telemetry.phase(phase_name, settles=tasks, session_id=hold.lease.id)
    phase.count(len(tasks))
    if handed_over := sum(isinstance(verdict, HandOver) for _, verdict in settlements):
        phase.event(words.HAND_OVER, tasks=handed_over)
    return phase


def tell(hold: Hold[T], phase: Phase, settled: Sequence[Settled]) -> None:
    """What the database's answer makes of that span. A row that refuses is an error, with the SQLSTATE that all of them have."""
    if not hold.telemetry.heard:
        return
    refused = [each for each in settled if each.outcome is Outcome.REFUSED]
    phase.set(lost=sum(each.outcome is Outcome.LOST for each in settled), refused=len(refused))
    if refused:
        phase.error = _refusal(refused)


def _refusal(refused: Sequence[Settled]) -> RowRefusedError:
    error = RowRefusedError(refused[0].error or "")
    if len(states := {each.sqlstate for each in refused}) == 1:
        (error.sqlstate,) = states
    return error


def answered(hold: Hold[T], settlements: Sequence[Settlement[T]], settled: Sequence[Settled]) -> None:
    """What the database has recorded leaves; what it could not is asked again a little later, in other words if it was refused."""
    outcomes = {each.key: each for each in settled}
    if lost := sum(each.outcome is Outcome.LOST for each in settled):
        logger.warning(
            "%d tasks of session %d were lost: others have them, or their rows were closed",
            lost, hold.lease.id, extra=hold.about(),
        )  # fmt: skip
    for task, verdict in settlements:
        if isinstance(verdict, IfCommitted) and outcomes[task.key].outcome in FAILED_AFTER_ALL:
            logger.warning(
                "a task of session %d has failed: %s", hold.lease.id, NOT_COMMITTED, extra=hold.about()
            )
            hold.telemetry.failed(None)
    if hold.telemetry.measures:
        _count(hold, settlements, outcomes)
    hold.recorded([task for task, _ in settlements if outcomes[task.key].outcome not in STILL_HELD])
    if any(each.outcome in STILL_HELD for each in settled):
        hold.outbox.put_off(
            (task, other)
            for task, verdict in settlements
            if (other := _other(hold, task, verdict, outcomes[task.key])) is not None
        )
    hold.freed = True
    if hold.limited:
        hold.look()


def _count(hold: Hold[T], settlements: Sequence[Settlement[T]], outcomes: Mapping[TaskKey, Settled]) -> None:
    """What became of them, in the words of the metric."""
    counts = Counter(
        _word_for(verdict, outcomes[task.key].outcome)
        for task, verdict in settlements
        if outcomes[task.key].outcome not in STILL_HELD
    )
    for outcome, count in counts.items():
        hold.telemetry.settled(outcome, count)


def _word_for(verdict: Verdict, outcome: Outcome) -> str:
    was = FAILED_AFTER_ALL.get(outcome) if isinstance(verdict, IfCommitted) else None
    return COUNTED_AS.get(outcome) or COUNTED_AS[was or type(verdict)]


COUNTED_AS: Mapping[object, str] = {
    Outcome.LOST: "lost",
    Outcome.UNKNOWN: "lost",
    Outcome.PARKED: "parked",
    IfCommitted: "finished",
    Finish: "finished",
    Failure: "retried",
    Release: "released",
    HandOver: "handed_over",
    Discard: "discarded",
    Park: "parked",
}
"""By what the database has answered, else by what was to be recorded."""


def _other(hold: Hold[T], task: Task[T], verdict: Verdict, answer: Settled) -> Verdict | None:
    """What is to be recorded instead, or once more."""
    match answer.outcome:
        case Outcome.LOCKED:
            return verdict
        case Outcome.REFUSED:
            return _after_refusal(hold, task, verdict, answer)
        case _:
            return None


def _after_refusal(hold: Hold[T], task: Task[T], verdict: Verdict, answer: Settled) -> Verdict | None:
    """What to do about a row that refuses: a finish becomes a failure, a discard parks. None: it stays held.

    The breaker does not hear of it: the tasker has succeeded, which has closed it, and the row would refuse any other instance as well.
    """
    error = answer.error or ""
    logger.error("task %r cannot be recorded: %s", task, error, extra=hold.about())
    hold.vitals.went_wrong(f"task {task!r} cannot be recorded: {error}")
    match verdict:
        case Finish():  # the tasker's own failure would have been the verdict, and is counted
            hold.telemetry.failed(_refusal((answer,)))
            return hold.after_failure(task, f"finish was refused: {error}")
        case IfCommitted():
            return Park(f"{NOT_COMMITTED}; and its failure was refused: {error}")
        case Discard(reason):
            return Park(f"discard was refused: {error}; {reason}")
        case Failure(text) | Park(text) if (
            text != NO_TEXT
        ):  # perhaps it is its own text that cannot be stored
            return replace(verdict, error=NO_TEXT)
        case _:
            return None  # until the session ends; its row is not claimed twice meanwhile


def handback(hold: Hold[T], task: Task[T], verdict: Verdict) -> Handback:
    """How a task is given back; nothing comes of that if it was finished by a transaction."""
    (claim,) = claims_of((task,))
    if isinstance(verdict, IfCommitted):
        policy = hold.settings.retry.policy(None)
        gives_up = policy.gives_up(task.attempt)
        verdict = Discard(NOT_COMMITTED) if gives_up else Failure(NOT_COMMITTED, policy.pause(task.attempt))
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
