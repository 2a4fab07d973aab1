"""The finish phase: records outcomes, many in one call, again and again until the database has them or the lease is over.

What is finished when a look is due goes along with that, in one round trip (`fetch`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from session_lock.database import Settled
from session_lock.errors import DatabaseError, SessionLost
from session_lock.held import claims_of
from session_lock.hold import Ending, Hold
from session_lock.outbox import AT_ONCE, LOCKED_PAUSE, Settlement
from session_lock.recording import answered, handback, settling, tell
from session_lock.tasks import Finish, HandOver
from session_lock.waiting import wait_for
from session_lock.wording import describe, level_of

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.finish")


async def finish(hold: Hold[T]) -> None:
    """Record what the execute phase puts, until no more will come and all is recorded, or nothing more can be."""
    outbox = hold.outbox
    failures = 0
    while not hold.last_recording.is_set() or outbox:
        outbox.filled.clear()  # before it is looked into, and whether more will come
        await asyncio.sleep(0)  # a look that is due comes first, and takes along what is finished
        # Fewer after a failure: a call in which many rows refuse may take too long, and its answers are lost with it.
        settlements = outbox.take(max(50, AT_ONCE >> (2 * failures)))
        if not settlements:
            await wait_for(outbox.filled, outbox.wait())
            continue
        try:
            await _record(hold, settlements)
            outbox.recovered()
            failures = 0
        except SessionLost as error:
            hold.lost(error)
            break
        except Exception as error:  # noqa: BLE001 (a SchemaError; a database that does not keep its contract)
            # Tried on in any case, while stopping too: it may pass.
            if not (isinstance(error, DatabaseError) and error.retryable):
                hold.end(Ending.FAILED, error)
            outbox.put_back(settlements)
            failures += 1
            logger.log(
                level_of(failures), "session %d cannot record outcomes: %s", hold.lease.id, describe(error), extra=hold.about(),
            )  # fmt: skip
        if (failures or outbox.wait()) and hold.session.left() <= 0:
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


async def _record(hold: Hold[T], settlements: list[Settlement[T]]) -> None:
    """One call for what is finished and one for what is given back. If one fails, what was not answered is left in `settlements`."""
    finished = [each for each in settlements if isinstance(each[1], Finish)]
    given_back = [each for each in settlements if not isinstance(each[1], Finish)]
    if finished:
        claims = claims_of(task for task, _ in finished)
        await _call(hold, "finish", finished, lambda: hold.database.finish_tasks(hold.lease, claims))
        settlements[:] = given_back  # should the next call fail, the others are through
    if given_back:
        handbacks = [handback(hold, task, verdict) for task, verdict in given_back]
        wake = any(isinstance(verdict, HandOver) for _, verdict in given_back)
        await _call(
            hold, "release", given_back, lambda: hold.database.release_tasks(hold.lease, handbacks, wake=wake)
        )


async def _call(
    hold: Hold[T],
    phase_name: str,
    settlements: list[Settlement[T]],
    verb: Callable[[], Coroutine[Any, Any, Sequence[Settled]]],
) -> None:
    with settling(hold, phase_name, settlements) as phase:
        try:
            settled = await hold.call(f"{phase_name}_tasks", verb())
        except asyncio.CancelledError as error:  # the time for it is over: nobody knows whether it was done
            phase.error = error
            raise
        tell(hold, phase, settled)
    answered(hold, settlements, settled)
