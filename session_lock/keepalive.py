"""The keepalive phase: renews the lease, and ends it in time when it cannot."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from session_lock import session
from session_lock.errors import DatabaseError, SessionLost
from session_lock.hold import Ending, Hold
from session_lock.waiting import wait_for
from session_lock.wording import level_of

logger = logging.getLogger("session_lock.keepalive")


async def keepalive(hold: Hold[Any], stop: Callable[[], None]) -> None:
    """Renew the lease until cancelled or lost, and do what others ask of this session in the answers.

    An error of a keepalive says nothing about the lease: the deadline stays, and the next one follows at once.
    """
    settings = hold.settings
    delay = settings.keepalive_interval
    failures = 0
    while hold.ending is not Ending.LOST:
        await wait_for(hold.beat_now, delay * random.uniform(0.9, 1.1))
        hold.beat_now.clear()
        sent_at = session.lease_clock()
        try:
            with hold.telemetry.phase("keepalive", may_be_idle=True, session_id=hold.lease.id) as phase:
                phase.idle = True
                beat = await hold.call(
                    "bump_session",
                    hold.database.bump_session(
                        hold.lease,
                        ttl=settings.lease_ttl,
                        draining=hold.ending is not None,
                        running=sum(map(len, hold.running.values())),
                    ),
                )
        except SessionLost as error:
            hold.lost(error)
            return
        except DatabaseError as error:
            if not error.retryable:
                hold.end(Ending.FAILED, error)
            failures += 1
            logger.log(
                level_of(failures),
                "keepalive of session %d failed, %.1f s are left: %s",
                hold.lease.id,
                hold.session.left(),
                error,
            )
            delay = min(settings.keepalive_interval, 0.2)
            continue
        except Exception as error:  # noqa: BLE001 (a SchemaError; a database that does not keep its contract)
            hold.end(Ending.FAILED, error)
            delay = settings.keepalive_interval
            continue
        delay, failures = settings.keepalive_interval, 0
        hold.renewed(sent_at, beat.left)
        hold.paused = beat.pause
        if beat.give_back:
            hold.hand_over(beat.give_back)
        if beat.cancel:
            hold.cancel_tasks(beat.cancel)
        if beat.drain:
            stop()


async def watch_deadline(hold: Hold[Any]) -> None:
    """Lose the session when `cancel_grace` is left of it: its taskers must have ended before others begin."""
    while True:
        left = hold.session.left() - hold.settings.cancel_grace
        if left <= 0:
            hold.lose(f"its lease was not renewed in time, {hold.session.left():.1f} seconds are left")
            return
        # The deadline's clock goes on in a suspend, the loop's does not: look again now and then.
        await asyncio.sleep(max(0.001, min(left, hold.settings.keepalive_interval)))
