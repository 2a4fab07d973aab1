"""What there is to see of a session, for whoever collects metrics; and what the database is asked for that."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from session_lock.errors import SchemaError
from session_lock.facts import Counting
from session_lock.hold import Hold
from session_lock.telemetry import words
from session_lock.telemetry.words import Metric
from session_lock.wording import level_of

logger: logging.Logger = logging.getLogger("session_lock.telemetry")

INTERVAL = 15.0
"""Seconds between two questions for the backlog."""


def figures(hold: Hold[Any]) -> dict[Metric, float]:
    """Of now. Called in a thread of who collects: it reads lengths and numbers."""
    told: dict[Metric, float] = {
        words.RUNNING: hold.count_running(),
        words.HELD: len(hold.held),
        words.SHARE: hold.capacity if hold.share is None else hold.share,
        words.SLOTS_FREE: hold.settings.concurrency - hold.busy,
        words.LEASE_LEFT: hold.session.left(),
    }
    if hold.backlog is not None:
        told |= {words.BACKLOG: hold.backlog.tasks, words.OLDEST: hold.backlog.oldest}
    return told


def _counting(database: Any) -> Counting | None:
    """One that hands the question on can tell as well, which `isinstance` does not see from Python 3.12 on."""
    return database if hasattr(database, "backlog") else None


async def measure(hold: Hold[Any]) -> None:
    """Ask for the backlog now and then, if there is a meter and the database can tell."""
    failures = 0
    while hold.telemetry.measures and (counting := _counting(hold.database)) is not None:
        try:
            hold.backlog = await hold.in_time("backlog", counting.backlog(hold.lease))
            failures = 0
        except SchemaError:
            return  # functions of an older version, or by hand
        except Exception as error:  # noqa: BLE001 (nothing depends on it)
            hold.backlog = None
            failures += 1
            logger.log(
                level_of(failures),
                "session %d cannot tell the backlog: %s",
                hold.lease.id,
                type(error).__name__,
                extra=hold.about(),
            )
        await asyncio.sleep(INTERVAL * random.uniform(0.9, 1.1))
