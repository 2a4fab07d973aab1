"""Where the database is: what becomes of a lease whose `DatabaseFinder` names another one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from session_lock.database import Database
from session_lock.errors import DatabaseError
from session_lock.hold import Ending, Hold
from session_lock.waiting import wait_for
from session_lock.wording import level_of

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.runner")

BETWEEN = 1.0
"""Seconds between two questions that `follow` asks, at least."""


async def still_here(hold: Hold[T], find: Callable[[], Coroutine[Any, Any, Database[T]]]) -> bool:
    """Ask the finder: another database ends this lease, another object for the same database is used from now on."""
    try:
        database = await hold.in_time("the database finder", find())
    except DatabaseError as error:
        hold.failed_finds += 1
        logger.log(
            level_of(hold.failed_finds),
            "session %d stays where it is: %s",
            hold.lease.id,
            error,
            extra=hold.about(),
        )
        return True
    hold.failed_finds = 0
    if database is hold.database:
        return True
    identity = await hold.in_time("identity", database.identity())
    if identity != hold.identity:
        if hold.ending is None:
            logger.info(
                "session %d moves to database %s", hold.lease.id, identity.database,
                extra=hold.about(),
            )  # fmt: skip
        hold.end(Ending.MOVED)
        return False
    hold.database = database
    hold.replaced.set()
    return True


async def follow(hold: Hold[T], find: Callable[[], Coroutine[Any, Any, Database[T]]]) -> None:
    """Ask at each keepalive too, since who has no room does not look; and at once when the database does not answer."""
    failures = 0
    while True:
        await wait_for(hold.in_doubt, hold.settings.keepalive_interval)
        hold.in_doubt.clear()
        try:
            await still_here(hold, find)
        except Exception as error:  # noqa: BLE001 (as in fetch: what the other database says of itself)
            failures += 1
            logger.log(
                level_of(failures), "session %d cannot move to another database: %s", hold.lease.id, error, extra=hold.about(),
            )  # fmt: skip
            if hold.ending is None and not (isinstance(error, DatabaseError) and error.retryable):
                hold.end(Ending.FAILED, error)
        else:
            failures = 0
        await asyncio.sleep(min(BETWEEN, hold.settings.keepalive_interval))
