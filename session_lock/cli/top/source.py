"""Where `top` gets what it shows: one connection, opened anew when it broke."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from session_lock.cli.common import connect, in_sentences
from session_lock.dsn import describe
from session_lock.errors import DatabaseError
from session_lock.overview import Overview, overview
from session_lock.table import TaskTable

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds for one answer: a look has several parts, each of which may take 5."""


class Source:
    """A block: at its end the connection is closed."""

    def __init__(self, dsn: str, table: TaskTable) -> None:
        self.table = table
        self._dsn = dsn
        self._where = describe(dsn)
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_up()

    async def look(self) -> Overview:
        return await self.ask(overview)

    async def ask(self, work: Callable[[Any, TaskTable], Awaitable[T]]) -> T:
        """What `work` makes of the connection and the mapping; one at a time. What goes wrong is a `SessionLockError`."""
        async with self._turn:
            try:
                async with asyncio.timeout(PATIENCE):
                    if self._connection is None:
                        self._connection = await connect(self._dsn)
                    with in_sentences(self._where, "it is opened anew"):
                        return await work(self._connection, self.table)
            except TimeoutError as error:
                self._give_up()
                raise DatabaseError(f"{self._where} did not answer within {PATIENCE:.0f} s") from error
            except BaseException:
                # Refusals leave it as it was. After anything else an answer may be on its way that nobody waits for.
                if self._connection is not None and not _is_fine(self._connection):
                    self._give_up()
                raise

    def _give_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None


def _is_fine(connection: Any) -> bool:
    return not connection.is_closed() and not connection.is_in_transaction()
