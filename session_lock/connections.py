"""Connections of asyncpg: few, opened when needed, given up on any doubt."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from session_lock.dsn import NO_DSN, describe
from session_lock.errors import DatabaseError, SessionLockError, SettingsError

Connection: TypeAlias = "asyncpg.Connection[Any]"
Connect: TypeAlias = str | Callable[[], Awaitable[Any]]
"""A DSN, or an async callable that returns a new connection (so that credentials may rotate)."""


def place_of(connect: Connect) -> tuple[str, int] | None:
    """The host and port that a DSN leads to, if it names one host. Of a function, and of a socket's folder, it is not known."""
    try:
        parts = urlsplit(connect if isinstance(connect, str) else "")
        host, port = parts.hostname or "", parts.port or int(os.environ.get("PGPORT", "5432"))
    except ValueError:  # several, or none: to connect says so
        return None
    elsewhere = re.search(r"(?:^|&)(?:host|port|service)=", parts.query)
    return None if elsewhere or not re.fullmatch(r"[\w.:-]+", host) else (host, port)


async def open_connection(connect: Connect, **options: Any) -> Connection:
    """A new connection; `options` are for the driver where a DSN leaves them open."""
    if not getattr(asyncio.get_running_loop(), "waits_for_sockets", True):
        raise SettingsError(
            "virtual time does not wait for a server: give a MemoryDatabase to what runs in it, or run this in real time, by asyncio.run"
        )
    if isinstance(connect, str):
        describe(connect)  # or says why it leads nowhere
        settings = {"application_name": "session_lock"} | options.pop("server_settings", {})
        try:
            connection: Connection = await asyncpg.connect(connect, server_settings=settings, **options)
        except (ValueError, OverflowError) as error:
            if isinstance(error, DRIVER_ERRORS):
                raise
            raise DatabaseError(
                NO_DSN, retryable=False
            ) from None  # its text may quote a part of the password
        return connection
    try:
        connection = await connect()
    except (SessionLockError, *DRIVER_ERRORS):
        raise
    except Exception as error:  # the user's: no credentials now is a database that is away
        raise DatabaseError(f"connect() failed: {type(error).__name__}: {error}") from error
    return connection


class _InLoop:
    """What `Connections` has in one event loop."""

    def __init__(self, size: int) -> None:
        self.free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._given_up: list[tuple[int, float]] = []  # backend's pid, loop's time

    def take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def put(self, connection: Connection) -> None:
        if not connection.is_closed():
            self._idle.append(connection)

    def give_up(self, connection: Connection, pid: int) -> None:
        self._given_up.append((pid, asyncio.get_running_loop().time()))
        connection.terminate()

    async def end_given_up(self, connection: Connection) -> None:
        """End the backends of connections that were given up.

        Behind a pooler the pid that a client is told is no backend's: nothing is found then, and nothing is ended.
        """
        if self._given_up:
            ended = [*self._given_up]
            now = asyncio.get_running_loop().time()
            # Where the role may not see who is connected none is found, as behind a pooler.
            with suppress(asyncpg.InsufficientPrivilegeError):
                await connection.execute(
                    END_BACKENDS, [pid for pid, _ in ended], [now - at for _, at in ended]
                )
            # Others may have been given up meanwhile, or ended beside this.
            self._given_up = [each for each in self._given_up if each not in ended]

    def terminate(self) -> None:
        while self._idle:
            self._idle.pop().terminate()


class Connections:
    """At most `size` connections in an event loop, each in one pair of hands at a time.

    A connection whose call was cancelled, timed out or broke is terminated, not reused: its answer may still come, and
    a late cancel request may hit the next statement. And before anything else is asked, its backend is ended as well: a
    statement that stands still there must not be carried out behind the back of its successor. Nothing here waits for a
    server without the caller's timeout.
    """

    def __init__(
        self, connect: Connect, size: int, greet: Callable[[Connection], Awaitable[None]], **options: Any
    ) -> None:
        self._connect = connect
        self._options = options
        self._greet = greet
        self._size = size
        self._lock = threading.Lock()
        self._in_loops: dict[asyncio.AbstractEventLoop, _InLoop] = {}
        self.refusal: str | None = None
        """Why there are none any more, as long as that is so."""

    def _here(self) -> _InLoop:
        """What there is in the running loop. A second asyncio.run begins anew: what the first has left is dead."""
        loop = asyncio.get_running_loop()
        with self._lock:  # there is the thread for keepalives
            if loop not in self._in_loops:
                self._in_loops = {each: here for each, here in self._in_loops.items() if not each.is_closed()}
                self._in_loops[loop] = _InLoop(self._size)
            return self._in_loops[loop]

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """A connection, opened and greeted if none is idle."""
        here = self._here()
        async with here.free:
            if self.refusal is not None:
                raise DatabaseError(self.refusal, retryable=False)
            connection = here.take() or await self._open()
            pid = connection.get_server_pid()  # which a connection that is lost cannot tell any more
            try:
                await here.end_given_up(connection)
                yield connection
            except Exception as error:
                if connection.is_closed() or isinstance(error, BROKEN) or connection.is_in_transaction():
                    here.give_up(connection, pid)
                raise
            except BaseException:
                here.give_up(connection, pid)
                raise
            finally:
                if self.refusal is not None:  # since it was taken
                    connection.terminate()
                here.put(connection)

    async def _open(self) -> Connection:
        connection = await open_connection(self._connect, **self._options)
        try:
            await self._greet(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 (asyncpg's own, per connection)
        """Say goodbye to the idle ones, `timeout` seconds for each at most; those of other loops are given up."""
        here = self._here()
        for loop, other in [*self._in_loops.items()]:
            if other is not here and not loop.is_closed():
                loop.call_soon_threadsafe(other.terminate)
        while (connection := here.take()) is not None:
            try:
                await connection.close(timeout=timeout)
            except (Exception, asyncio.CancelledError) as error:
                connection.terminate()
                if isinstance(error, asyncio.CancelledError):
                    raise


END_BACKENDS = """
SELECT pg_terminate_backend(a.pid)
  FROM unnest($1::integer[], $2::double precision[]) AS given_up (pid, ago)
  JOIN pg_catalog.pg_stat_activity AS a
    ON a.pid = given_up.pid AND a.backend_start < clock_timestamp() - make_interval(secs => given_up.ago)
 WHERE a.usename = current_user AND a.datname = current_database() AND a.pid <> pg_backend_pid()
"""
"""One that started after the connection was given up has got its pid anew, and is left alone."""

BROKEN = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class UnreadableError(DatabaseError):
    """A value is beyond what the driver can read, such as a date in the year 20000."""


@contextmanager
def readable(connection: Connection) -> Iterator[None]:
    """An error of the driver's decoders within, as `UnreadableError`. What the connection thinks after it is unsure."""
    try:
        yield
    except DRIVER_ERRORS:
        raise
    except (ArithmeticError, ValueError) as error:
        connection.terminate()
        raise UnreadableError(f"the driver cannot read a value: {type(error).__name__}") from error
