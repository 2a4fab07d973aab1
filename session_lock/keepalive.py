"""The keepalive phase: renews the lease, and ends it in time when it cannot."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from session_lock import session
from session_lock.beats import keepalive_loop
from session_lock.errors import DatabaseError, SessionLost
from session_lock.hold import Ending, Hold
from session_lock.pulse import Pulse
from session_lock.telemetry import words
from session_lock.waiting import wait_for
from session_lock.wording import level_of

logger: logging.Logger = logging.getLogger("session_lock.keepalive")


RETRY_AFTER = 0.2
"""Seconds from a keepalive that came to nothing to the next one, at most."""

Tell: TypeAlias = Callable[..., object]
"""Has a function called in the event loop of the Runner."""


async def keepalive(hold: Hold[Any], stop: Callable[[], None]) -> None:
    """Renew the lease until cancelled or lost, here or in the thread for it, and do what others ask of this session."""
    if hold.settings.keepalive == "loop" or session.in_virtual_time():
        await _renew(hold, stop, hold.beat_now, lambda call, *args: call(*args))
        return
    here = asyncio.get_running_loop()
    there = keepalive_loop()
    beat_now = asyncio.Event()  # of that loop
    tell = partial(_tell, here)
    renewing = asyncio.run_coroutine_threadsafe(
        _carried(hold, _renew(hold, stop, beat_now, tell, Pulse(here)), tell), there
    )
    renewing.add_done_callback(lambda _: _tell(here, hold.beat_now.set))
    try:
        while not renewing.done():
            await hold.beat_now.wait()
            hold.beat_now.clear()
            there.call_soon_threadsafe(beat_now.set)
        renewing.result()
    finally:
        renewing.cancel()


async def _carried(hold: Hold[Any], renewing: Coroutine[Any, Any, None], tell: Tell) -> None:
    """An exit that the user's `connect` asks for is no business of the thread's: the Runner stops, and raises it then."""
    try:
        await renewing
    except (KeyboardInterrupt, SystemExit) as error:
        tell(hold.end, Ending.FAILED, error)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
        loop.call_soon_threadsafe(call, *args)


async def _renew(
    hold: Hold[Any], stop: Callable[[], None], beat_now: asyncio.Event, tell: Tell, pulse: Pulse | None = None
) -> None:
    """Keepalive after keepalive. In a thread all but the deadline is told to the event loop, whose `pulse` must be felt.

    An error of a keepalive says nothing about the lease: the deadline stays, and the next one follows at once.
    """
    settings = hold.settings
    delay = settings.keepalive_interval
    failures = 0
    while hold.ending is not Ending.LOST and hold.session.left() > 0:
        planned = delay * random.uniform(0.9, 1.1)
        due_at = session.lease_clock() + planned
        await wait_for(beat_now, planned)
        beat_now.clear()
        hold.telemetry.record(words.KEEPALIVE_DELAY, max(0.0, session.lease_clock() - due_at))
        if pulse is not None:
            silence = pulse.silence()
            pulse.ask()
            if silence >= settings.loop_stall:  # who does nothing shall not keep its tasks from others
                failures += 1
                logger.log(
                    level_of(failures),
                    "session %d is not kept alive: the event loop is blocked, no turn for %.1f s",
                    hold.lease.id, silence, extra=hold.about(),
                )  # fmt: skip
                delay = min(settings.keepalive_interval, RETRY_AFTER)
                continue
        sent_at = session.lease_clock()
        try:
            with hold.telemetry.phase("keepalive", may_be_idle=True, session_id=hold.lease.id) as phase:
                beat = await hold.in_time(
                    "bump_session",
                    hold.database.bump_session(
                        hold.lease,
                        ttl=settings.lease_ttl,
                        draining=hold.ending is not None,
                        running=hold.count_running(),
                    ),
                )
                if beat.give_back:
                    phase.event(words.HAND_OVER, asked=beat.give_back)
                phase.idle = not beat.give_back
        except SessionLost as error:
            hold.gone()  # for who asks before the loop turns
            tell(hold.lost, error)
            return
        except DatabaseError as error:
            tell(hold.in_doubt.set)
            if not error.retryable:
                tell(hold.end, Ending.FAILED, error)
            failures += 1
            logger.log(
                level_of(failures),
                "keepalive of session %d failed, %.1f s are left: %s",
                hold.lease.id, hold.session.left(), error, extra=hold.about(),
            )  # fmt: skip
            delay = min(settings.keepalive_interval, RETRY_AFTER)
            continue
        except Exception as error:  # noqa: BLE001 (a SchemaError; a database that does not keep its contract)
            tell(hold.end, Ending.FAILED, error)
            delay = settings.keepalive_interval
            continue
        delay, failures = settings.keepalive_interval, 0
        hold.telemetry.record(words.LEASE_MARGIN, hold.session.left())
        hold.renewed(sent_at, beat.left)
        tell(hold.heard, beat)
        if beat.drain:
            tell(stop)


async def watch_deadline(hold: Hold[Any]) -> None:
    """Lose the session when `cancel_grace` is left of it: its taskers must have ended before others begin."""
    clock = asyncio.get_running_loop().time
    while True:
        margin = hold.margin()
        if margin <= 0:
            hold.lose(f"its lease was not renewed in time, {hold.session.left():.1f} seconds are left")
            return
        # The deadline's clock goes on in a suspend, the loop's does not: look again now and then.
        seconds = max(0.001, min(margin, hold.settings.keepalive_interval))
        turn_at = clock() + seconds
        await asyncio.sleep(seconds)
        hold.telemetry.record(words.LOOP_LAG, max(0.0, clock() - turn_at))
