"""The fetch phase: claims tasks while there is room for them and work to be had."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, TypeVar

from session_lock import session
from session_lock.database import Database, Work
from session_lock.errors import DatabaseError, SessionLost
from session_lock.held import claims_of
from session_lock.hold import Ending, Hold
from session_lock.moving import still_here
from session_lock.pieces import WHOLE, Stretch
from session_lock.recording import answered, settling, tell
from session_lock.scarcity import Patience
from session_lock.telemetry import Phase, words
from session_lock.waiting import wait_for
from session_lock.whence import Whence
from session_lock.wording import describe, level_of

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.fetch")

SLOTS_FIRST = 3
"""Turns of the loop in which free slots begin with what a look has brought, before the next look takes the processor."""

SETTLED_AFTER = 0.05
"""Seconds after it has become idle until a session looks once more: a quiet wake-up that was on its way when the session had
no room was not sent."""


async def fetch(hold: Hold[T], find: Callable[[], Coroutine[Any, Any, Database[T]]]) -> None:
    """Claim until the lease comes to its end. As long as tasks come it does not sleep."""
    settings = hold.settings
    clock = asyncio.get_running_loop().time
    whence = Whence(settings.poll_interval)
    unsettled = False  # it has had no room since it was last idle
    patience = Patience(settings.patience)

    while hold.ending is None:
        room = await _room(hold)
        if room == 0:
            patience.forget()
            continue

        at_once, along = hold.at_once(), hold.along()
        sure = room if hold.is_alone else min(room, at_once)  # beside others a look may be for no more
        stretch = whence.begin(clock(), asked=hold.asked.is_set(), sure=sure)
        whole = stretch == WHOLE
        hold.asked.clear()  # who asks from here on may have seen what this look does not
        hold.room.clear()
        hold.may_begin.clear()
        over_share = patience.is_over(clock(), whole=whole)
        if along and whence.walks(stretch):  # what is finished does not wait for that
            room, along = max(1, room - along), 0
            sure = min(sure, room)
        held, hold.freed = len(hold.held) - along, False
        began_at = clock()
        work = await _look(hold, find, room, stretch, along, at_once=at_once, over_share=over_share)
        if work is None:
            whence.failed(stretch, clock() - began_at)
            pause = random.uniform(0.1, 1.0) * settings.poll_interval * min(2**hold.failed_looks, 10)
            await _wait(hold.asked, hold, pause)
            continue
        whence.found(work, stretch, (sure, room), clock(), clock() - began_at)
        unsettled = unsettled or len(work.tasks) == room
        spent = work.share is not None and work.share <= held + len(work.tasks)  # the rest is for others
        if work.tasks:
            await _let_slots_begin()
        goes_on = bool(work.tasks) and (not spent or whole)
        if stretch.end is None:  # who was merely idle keeps to its share: what comes next is for all
            held_back = spent and not goes_on and len(work.tasks) < at_once
            patience.looked(clock(), whole=whole, held_back=held_back)
        if goes_on:
            continue
        wake_at = [clock() + _poll_interval(hold, work), whence.again_at, patience.ends_at(clock())]
        if unsettled and whole:
            wake_at.append(clock() + SETTLED_AFTER)
            unsettled = False
        # Room alone is no reason to look again; unless there may be tasks that could not begin, or that the share held back.
        for_room = spent or at_once == 0 or patience.counts
        await _wait(hold.may_begin if for_room else hold.asked, hold, max(min(wake_at) - clock(), 0.001))


async def _room(hold: Hold[T]) -> int:
    """How many tasks may be claimed now; 0: none, and it has waited until there may be some."""
    clock = asyncio.get_running_loop().time
    if hold.breaker.open and clock() < hold.try_again_at:
        hold.healed.clear()
        await _wait(hold.healed, hold, hold.try_again_at - clock())
        return 0
    room = hold.room_for()
    if hold.paused or room <= 0 or len(hold.ready) > hold.ahead() // 2:
        hold.room.clear()
        await _wait(hold.room, hold, hold.settings.poll_interval if hold.paused else hold.scarcity.left())
        return 0
    return room


async def listen(hold: Hold[T]) -> None:
    """Beside it: look at once when the database says that there may be new tasks. What goes wrong with that ends nothing."""
    while True:
        database = hold.database
        hold.replaced.clear()
        try:
            async with database.listening(
                hold.woken, lease=hold.lease, asked=hold.beat_now.set
            ) as hold.hears:
                await hold.replaced.wait()
        except Exception as error:  # noqa: BLE001 (a database that does not keep its contract)
            logger.warning(
                "session %d hears of no wake-ups: %s", hold.lease.id, describe(error), extra=hold.about()
            )
            await hold.replaced.wait()
        finally:
            hold.hears = None


async def _look(
    hold: Hold[T],
    find: Callable[[], Coroutine[Any, Any, Database[T]]],
    room: int,
    stretch: Stretch,
    along: int,
    **scarce: Any,
) -> Work[T] | None:
    """One cycle: where is the database, and what has it for us? None if it could not be asked, or the lease ends."""
    settings = hold.settings
    try:
        if not await still_here(hold, find):
            return None
        if hold.session.left() <= settings.cancel_grace + settings.call_timeout:
            return None  # a keepalive comes first
        work = await _get_work(hold, room, stretch, along, **scarce)
    except SessionLost as error:
        hold.lost(error)
    except DatabaseError as error:
        if not error.retryable:
            hold.end(Ending.FAILED, error)
        hold.failed_looks += 1
        logger.log(
            level_of(hold.failed_looks),
            "session %d gets no work: %s",
            hold.lease.id,
            error,
            extra=hold.about(),
        )
    except Exception as error:  # noqa: BLE001 (a SchemaError; a database that does not keep its contract)
        hold.end(Ending.FAILED, error)
    else:
        hold.failed_looks = 0
        return work
    return None


async def _get_work(hold: Hold[T], room: int, stretch: Stretch, along: int, **scarce: Any) -> Work[T]:
    """The look, and in the same call what is finished."""
    settlements = hold.outbox.take_along() if along else []
    options: dict[str, Any] = {
        "limit": room, "held": [*hold.held], "position": stretch.start, "until": stretch.end,
        "finished": claims_of(task for task, _ in settlements), **scarce,
    }  # fmt: skip
    sent_at = session.lease_clock()
    woken_at, hold.woken_at = hold.woken_at, None
    try:
        with (
            settling(hold, "finish", settlements) if settlements else nullcontext(Phase()) as recording,
            hold.telemetry.phase("receive", may_be_idle=True, session_id=hold.lease.id, room=room) as phase,
        ):
            work = await hold.call("get_work", hold.database.get_work(hold.lease, **options))
            tell(hold, recording, work.settled)
            phase.idle = not work.tasks
            phase.count(len(work.tasks))
            if hold.telemetry.heard and (rescued := sum(task.rescued for task in work.tasks)):
                phase.event(words.RESCUE, tasks=rescued)
                hold.telemetry.count(words.RESCUED, rescued)
    except BaseException:
        if settlements:  # it may be done: that is found when they are asked again
            hold.outbox.put_back(settlements)
        raise
    if settlements:
        answered(hold, settlements, work.settled)
    hold.renewed(sent_at, work.left)
    hold.limited = work.limited
    if work.tasks:
        hold.begins_since = woken_at
        hold.telemetry.consumed(len(work.tasks))
    if stretch == WHOLE or (work.share is not None and work.walked is not None):  # else it is of a part
        hold.share = work.share
    hold.is_alone = work.sharing == 1
    if work.share is not None:
        hold.scarcity.found()
    elif work.tasks:
        hold.scarcity.ended()
    if work.limited and hold.freed:  # what held it back may be gone: this look did not see that
        hold.look()
    hold.take(work.tasks)
    return work


async def _let_slots_begin() -> None:
    for _ in range(SLOTS_FIRST):
        await asyncio.sleep(0)


def _poll_interval(hold: Hold[Any], work: Work[Any]) -> float:
    """Seconds until the next look, if nobody says anything before."""
    seconds = hold.settings.poll_interval
    if work.heard and hold.hears is not None and hold.hears():
        seconds = max(seconds, hold.settings.idle_poll_interval)
    return seconds * random.uniform(0.8, 1.2)


async def _wait(event: asyncio.Event, hold: Hold[Any], seconds: float | None) -> None:
    """Sleep, or until the event is set, or the lease comes to its end."""
    if hold.ending is None:
        await wait_for(event, seconds)
