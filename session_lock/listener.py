"""Wake-ups from PostgreSQL: one connection listens for all Runners of an event loop that share a database.

A notification is a hint and polling is the truth: whatever goes wrong here is logged, tried again, and ends or delays nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from session_lock.connections import DRIVER_ERRORS, Connect, Connection, Connections, open_connection
from session_lock.dsn import describe as describe_dsn
from session_lock.errors import DatabaseError, SettingsError
from session_lock.names import quote_name
from session_lock.waiting import wait_for, wait_through
from session_lock.wording import describe, level_of

logger: logging.Logger = logging.getLogger("session_lock.listener")

PROBE_INTERVAL = 5.0
"""Seconds between two probes of whether the connection still hears. Varied by a tenth."""

TIMEOUT = 3.0
"""Seconds within which a connection is opened and listens, and within which a probe is answered."""

ECHO = 1.0
"""Seconds within which a notification that the server has taken is heard."""

LONGEST_PAUSE = 10.0
"""Seconds between two attempts, when many have failed."""

GOODBYE = 0.5
"""Seconds that the last one to leave waits at most, for what is under way to end and for the server to take leave."""

OPTIONS: dict[str, Any] = {
    "server_settings": {"application_name": "session_lock listener"},
    "statement_cache_size": 0,
}
"""Of connections by a DSN. There may be a pooler in between, so no statement has a name that it could mix up."""

DEAF = (
    "nothing is heard on a connection that listens; is a transaction pooler in between? "
    "Then give PostgresDatabase(listen=) a DSN that leads to the server itself. No echo"
)

NOT_HEARD = "what is sent on the service's connection is not heard where it listens; do both lead to one database? No echo"


def check_listen(listen: object) -> None:
    """At the call, since nobody may look into the log of a listener."""
    if listen is None or listen is False or (callable(listen) and not isinstance(listen, type)):
        return
    if not isinstance(listen, str):
        raise SettingsError(
            "listen is a DSN or an async function that connects, for wake-ups where connect goes through a pooler, or False "
            f"for none; not {listen!r}"
        )
    describe_dsn(listen, "the DSN in listen=")


def asked_of(session_id: int) -> str:
    """What is sent when something is asked of a session (`tell` in sql/sessions.alwaysup.sql)."""
    return f"\t{session_id}"


async def round_trip(connect: Connect, sender: Connection) -> None:
    """Send a notification from `sender` to who listens by `connect`. `DatabaseError` says why none is heard."""
    listener = Listener(connect, "session_lock", lambda: None)
    async with listener.connected():
        await listener.probe(sender, NOT_HEARD)


@asynccontextmanager
async def listening(
    connect: Connect, schema: str, calls: Mapping[str, Callable[[], None]]
) -> AsyncIterator[Callable[[], bool]]:
    """Within the block each of `calls` is made when its payload is heard, and whenever that may have been missed. Yields a function
    that tells whether the last probe was heard.

    A mapping's name is a wake-up, `asked_of(id)` is for a session alone. `schema` is the name of the channel. Entering waits for
    nothing. The last one to leave closes the connection.
    """
    listener = _listener(connect, schema)
    token = listener.join(calls)
    try:
        yield lambda: listener.hears
    finally:
        await listener.leave(token)


def _listener(connect: Connect, channel: str) -> Listener:
    """The one of this event loop for this database and channel."""
    loop = asyncio.get_running_loop()
    for key in [key for key in _listeners if key[0].is_closed()]:  # its tasks have gone with it
        _listeners.pop(key, None)
    key = (loop, connect if isinstance(connect, Hashable) else id(connect), channel)
    if key not in _listeners:
        _listeners[key] = Listener(connect, channel, lambda: _listeners.pop(key, None))
    return _listeners[key]


_listeners: dict[tuple[asyncio.AbstractEventLoop, Hashable, str], Listener] = {}


class Listener:
    """One connection that listens, and those who share it."""

    def __init__(self, connect: Connect, channel: str, forget: Callable[[], object]) -> None:
        self._channel = channel
        self._forget = forget
        self._connect = connect
        self._connections = Connections(connect, 1, self._listen, **OPTIONS)
        self._wakes: dict[object, Mapping[str, Callable[[], None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._left = asyncio.Event()  # by the last one
        self._lost = asyncio.Event()  # the connection; or, so that nobody sleeps, it is not needed any more
        self._probe_channel = ""
        self._echo: asyncio.Future[int] | None = None  # the pid of the backend that a probe went through
        self._failures = 0
        self.hears: bool = False
        """Whether notifications come through, as far as is known: the last probe was heard."""

    # Those who share it ----------------------------------------------------------------------------------

    def join(self, calls: Mapping[str, Callable[[], None]]) -> object:
        token = object()
        self._wakes[token] = calls
        if self._task is None:
            self._task = asyncio.create_task(self._live(), name="session_lock listener")
        return token

    async def leave(self, token: object) -> None:
        del self._wakes[token]
        if self._wakes or self._task is None:
            return
        self._forget()  # who comes while we wait here has another one
        self._left.set()
        self._lost.set()
        # Not cancelled at once: the driver complains of a connection that is not made to its end.
        hurry = asyncio.get_running_loop().call_later(GOODBYE, self._task.cancel)
        try:
            await wait_through({self._task}, self._task.cancel)
        finally:
            hurry.cancel()

    def _wake_all(self, payload: str | None = None) -> None:
        for calls in list(self._wakes.values()):
            for heard, call in calls.items():
                if payload in {None, heard}:
                    call()

    # The connection --------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Connection after connection, as long as somebody listens."""
        while self._wakes:
            try:
                await self._hear()
            except Exception as error:  # noqa: BLE001 (whatever it is, tasks are polled for)
                if not self._wakes:
                    return
                self._failures += 1
                logger.log(
                    level_of(self._failures),
                    "no wake-ups on channel %r, new tasks wait for the next poll: %s",
                    self._channel, " ".join(describe(error).split()),
                )  # fmt: skip
            longest = min(0.2 * 2 ** min(self._failures, 10), LONGEST_PAUSE)
            await wait_for(self._left, random.uniform(0.5, 1.0) * longest)

    async def _hear(self) -> None:
        """One connection, until it is lost, or nobody listens any more."""
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self.connected())
            stack.callback(self._is_deaf)
            self.hears = True
            self._wake_all()  # for what was not heard until now
            while self._wakes:
                await wait_for(self._lost, PROBE_INTERVAL * random.uniform(0.9, 1.1))
                if not self._wakes:
                    break
                if connection.is_closed():
                    raise ConnectionResetError("the connection was lost")
                async with _within(TIMEOUT, "no answer"):
                    await self.probe(connection, "no echo")
                if self._failures:  # not before: a connection that never lives long has not mended anything
                    logger.info("wake-ups on channel %r are heard again", self._channel)
                self._failures = 0
            with suppress(*DRIVER_ERRORS):
                await connection.close(timeout=GOODBYE)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        async with AsyncExitStack() as stack:
            async with _within(TIMEOUT, "no connection"):
                connection = await stack.enter_async_context(self._connections.one())
            stack.callback(connection.terminate)  # however it is left, it is not used again
            yield connection

    def _is_deaf(self) -> None:
        """Who has not looked for tasks because they would be told of them must do so now."""
        self.hears = False
        self._wake_all()

    async def _listen(self, connection: Connection) -> None:
        """Make a new connection listen. Behind a pooler that gives it another backend for each transaction it is deaf."""
        self._lost = lost = asyncio.Event()
        self._probe_channel = f"session_lock_probe_{secrets.token_hex(8)}"
        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(self._probe_channel, self._on_echo)
        backend = await self.probe(connection, DEAF)
        if backend != connection.get_server_pid():
            await self._probe_from_elsewhere()
        await connection.add_listener(self._channel, self._on_wake_up)

    async def probe(self, connection: Connection, otherwise: str) -> int:
        """Send a notification to the listening connection; returns the backend that it came from."""
        self._echo = asyncio.get_running_loop().create_future()
        await connection.execute(f"NOTIFY {quote_name(self._probe_channel)}")
        async with _within(ECHO, otherwise):
            return await self._echo

    async def _probe_from_elsewhere(self) -> None:
        """With a pooler in between, the echo may have come on the back of the answer alone: ask over a second connection."""
        connection = await open_connection(self._connect, **OPTIONS)
        try:
            await self.probe(connection, DEAF)
        finally:
            connection.terminate()

    def _on_echo(self, _connection: object, pid: int, _channel: str, _payload: object) -> None:
        if self._echo is not None and not self._echo.done():
            self._echo.set_result(pid)

    def _on_wake_up(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._wake_all(str(payload))


@asynccontextmanager
async def _within(seconds: float, otherwise: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise DatabaseError(f"{otherwise} within {seconds:g} s") from error
