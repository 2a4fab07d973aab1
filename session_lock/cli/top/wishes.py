"""What the keys ask of the database: each with the question that comes first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from session_lock.cli.common import printable
from session_lock.cli.requests import BECAME
from session_lock.glance import Failure, LiveSession
from session_lock.migrations import cancel, retry
from session_lock.names import quote_name
from session_lock.operating import drain, pause, resume
from session_lock.table import TaskTable, install_command


@dataclass(frozen=True, slots=True)
class Wish:
    """Something that is done when it was said yes to."""

    question: str
    work: Callable[[Any, TaskTable], Awaitable[str]]
    """Of a connection and the mapping; returns what came of it, in a sentence."""


def to_drain(one: LiveSession) -> Wish:
    async def work(connection: Any, table: TaskTable) -> str:
        if await drain(connection, *_operated(table), one.session):
            return f"Session {one.session} is asked to drain."
        return f"No session {one.session} of this mapping lives."

    return Wish(
        f"Drain session {one.session} ({printable(one.label)})? It takes no more tasks, and its Runner stops when those that run "
        "have ended.",
        work,
    )


def to_pause(table: TaskTable) -> Wish:
    async def work(connection: Any, table: TaskTable) -> str:
        return "It is paused." if await pause(connection, *_operated(table)) else "It was paused already."

    return Wish(
        f"Pause {printable(table.name)}? No session begins a task until it is resumed; what runs goes on.",
        work,
    )


def to_resume(table: TaskTable) -> Wish:
    async def work(connection: Any, table: TaskTable) -> str:
        return "It is resumed." if await resume(connection, *_operated(table)) else "It was not paused."

    return Wish(f"Resume {printable(table.name)}? Its sessions begin tasks again.", work)


def to_retry(one: Failure) -> Wish:
    key = printable(one.key, 40)

    async def work(connection: Any, table: TaskTable) -> str:
        if await retry(connection, table, [one.key]):
            return f"Task {key} will be tried again, with all its attempts."
        return f"Task {key} is not parked: it is tried again by itself, or is done with."

    return Wish(f"Retry task {key}? If it is parked, it runs again, with all its attempts.", work)


def to_discard(one: Failure) -> Wish:
    async def work(connection: Any, table: TaskTable) -> str:
        return BECAME[await cancel(connection, table, one.key)]

    key = printable(one.key, 40)
    return Wish(f"Discard task {key}? It is not to be done any more; if it runs, it is cancelled.", work)


def _operated(table: TaskTable) -> tuple[str, str, str]:
    """What `operating` takes of a mapping."""
    return quote_name(table.schema), table.name, install_command(table)
