"""What the looks of `doctor` are given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import wraps
from typing import TypeAlias

from session_lock.connections import Connect, Connection
from session_lock.errors import SessionLockError
from session_lock.findings import Finding
from session_lock.migrations.sandbox import rolled_back
from session_lock.server import Wanted
from session_lock.sqlstate import is_driver_error
from session_lock.table import TaskTable
from session_lock.wording import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is looked at, and by which ways."""

    connection: Connection
    """That looks: best of the role that owns the table."""

    service: Connection
    """Made as the service makes its own."""

    wanted: Wanted
    connect: Connect
    """How the service connects."""

    listen: Connect | None
    """How it listens for wake-ups; None: it does not."""

    role: str | None
    """The service's, where that is another one than that of `connection`."""

    @property
    def table(self) -> TaskTable | None:
        """None: its functions are written by hand."""
        return self.wanted.table

    @property
    def qualified(self) -> tuple[str, str]:
        """The schema and name of the task table; of none, where there is no mapping."""
        return self.table.qualified if self.table is not None else ("", "")


Look: TypeAlias = Callable[[Case], AsyncIterator[Finding]]


def said(error: Exception) -> str:
    """What we, or the driver, say of it, in a line. What is neither is a mistake, and raised."""
    if not isinstance(error, SessionLockError) and not is_driver_error(error):
        raise error
    return " ".join((str(error) if isinstance(error, SessionLockError) else describe(error)).split())


def hurried(look: Look) -> Look:
    """A look in a transaction, which waits for no lock for long."""

    @wraps(look)
    async def within(case: Case) -> AsyncIterator[Finding]:
        async with rolled_back(case.connection):
            async for finding in look(case):
                yield finding

    return within
