"""A mapping's functions, called: the connections that it takes, and the server that they lead to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

import asyncpg

from session_lock.asking import why, why_by_hand
from session_lock.connections import Connect, Connection, Connections, place_of, readable
from session_lock.explaining import SessionShare, explained
from session_lock.facts import Backlog, Why
from session_lock.operating import drain, pause, resume
from session_lock.server import Server, Wanted, meet
from session_lock.session import Lease
from session_lock.sqlstate import checked_keys, translated
from session_lock.tasks import TaskKey

WORK_CONNECTIONS = 2
"""For get_work and for recording outcomes, which may be under way at the same time."""

TRANSACTION_CONNECTIONS = 4
"""For `transaction()` where the user gives no pool; opened only when used."""

CLOSED = "the PostgresDatabase of {name!r} was closed: call it within its `async with`, or enter that again"


class Calls:
    """What a `PostgresDatabase` calls its functions by."""

    def __init__(self, connect: Connect, wanted: Wanted) -> None:
        self._wanted = wanted
        self.mapping_name: str = wanted.name
        """Known before the database was asked."""
        self.address: tuple[Connect, str, str] = (connect, wanted.schema, wanted.name)
        """Two with the same one lead to the same sessions."""
        self._place = place_of(connect)
        self._server: Server | None = None
        self._work = Connections(connect, WORK_CONNECTIONS, self._greet)
        self._keepalive = Connections(connect, 1, self._greet)
        self._transactions = Connections(connect, TRANSACTION_CONNECTIONS, self._greet)
        self._pools = (self._work, self._keepalive, self._transactions)
        self._entered = 0

    async def __aenter__(self) -> Self:
        self._entered += 1
        self._refuse(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered == 0:
            await self.close()

    async def close(self) -> None:
        """Close the connections, as leaving `async with database:` does (the last one that is left, if it was entered more than once).
        A Runner does not: several may share them. A call after that is refused, until the database is entered again.
        """
        self._refuse(CLOSED.format(name=self.mapping_name))
        for connections in self._pools:
            await connections.close(timeout=1)

    def _refuse(self, refusal: str | None) -> None:
        for connections in self._pools:
            connections.refusal = refusal

    async def backlog(self, lease: Lease) -> Backlog | None:
        """What waits to be claimed; None if another session is told."""
        rows = await self._call(self._work, "backlog", lease.id)
        return Backlog(*rows[0]) if rows else None

    async def shares(self) -> Sequence[SessionShare]:
        """The sessions of the mapping: what each holds and may hold, and why it got no more."""
        return explained(await self._call(self._work, "shares"))

    async def why(self, key: TaskKey) -> Why:
        """Why the task does not run, or who has it: in a sentence, and the facts. It changes nothing.

        `SettingsError` if this can be no key of the table. Where the functions are written by hand its row is not looked at.
        """
        wanted = self._wanted
        with checked_keys([key], wanted.name), self._translated("why"):
            async with self._work.one() as connection:
                if wanted.table is None:
                    return await why_by_hand(connection, wanted.schema, wanted.name, str(key))
                return await why(connection, wanted.table, str(key))

    # By who operates the service: the rights of the schema's owner, or EXECUTE on the functions -----------------

    async def pause(self) -> bool:
        """From now on no session of the mapping begins a task, and what runs goes on. False if it was paused already.

        Each Runner hears it at its next keepalive, or at once where it listens, and gives back what it has not begun.
        """
        return await self._operate(pause)

    async def resume(self) -> bool:
        """Take `pause` back. False if the mapping was not paused."""
        return await self._operate(resume)

    async def drain(self, session: int) -> bool:
        """Have the Runner of a session stop, as at `stop()`, when it hears so. False if no such session of the mapping lives."""
        return await self._operate(drain, session)

    async def _operate(self, ask: Callable[..., Awaitable[bool]], *arguments: object) -> bool:
        wanted = self._wanted
        with self._translated(ask.__name__):
            async with self._work.one() as connection:
                return await ask(connection, wanted.schema, wanted.name, wanted.remedy, *arguments)

    async def _met(self) -> Server:
        if self._server is None:
            with self._translated("connecting"):
                async with self._work.one():
                    pass
        assert self._server is not None
        return self._server

    async def _greet(self, connection: Connection) -> None:
        self._server = await meet(connection, self._wanted, self._server, self._place)

    def _translated(self, what: str) -> Any:
        return translated(
            f"{what} ({self._wanted.name})",
            self._wanted.remedy,
            read_only=lambda: self._server.read_only if self._server else "",
        )

    async def _call(
        self,
        connections: Connections,
        verb: str,
        *arguments: object,
        columns: str = "*",
        lease: Lease | None = None,
    ) -> list[asyncpg.Record]:
        """With a lease its id and nonce come first."""
        if lease is not None:
            arguments = (lease.id, lease.nonce, *arguments)
        places = ", ".join(f"${i}" for i in range(1, len(arguments) + 1))
        with self._translated(verb):
            async with connections.one() as connection:  # greeted, so the functions' names are known
                assert self._server is not None
                if lease is not None:
                    self._server.check_gave(lease)
                query = (
                    f"SELECT {columns} FROM {self._wanted.function(verb, self._server.functions)}({places})"
                )
                with readable(connection):
                    if self._server.read_committed:
                        return await connection.fetch(query, *arguments)
                    # Some other isolation is the role's or database's default: three round trips instead of one.
                    async with connection.transaction(isolation="read_committed"):
                        return await connection.fetch(query, *arguments)
