"""A TCP proxy in front of a server, in which the faults of a network take place: on one connection, or on all of them.

async with proxy(dsn) as network:
    network.swallow()              # a black hole: connections stay open and nothing gets through; new ones work
    network.partition()            # nor do new ones, until heal()
    network.links[0].hold("down")  # one way, of one connection, until let_through()
    lost = network.lose_reply("COMMIT")  # the server gets the next one; the client never hears of it
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Way = Literal["up", "down"]
"""To the server, or to the client."""

BOTH: tuple[Way, Way] = ("up", "down")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """One connection through the proxy. What is held is not lost: as with TCP it comes through later, if at all."""

    def __init__(self, network: Proxy, client: Streams, server: Streams) -> None:
        self.delay = network.delay
        """Seconds that all takes, each way."""
        self._network = network
        self._writers: dict[Way, asyncio.StreamWriter] = {"up": server[1], "down": client[1]}
        self._open: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.let_through()
        self._statements: dict[bytes, bytes] = {}  # the prepared ones, by their names
        self._pumps = {
            asyncio.create_task(self._pump("up", client[0], server[1])),
            asyncio.create_task(self._pump("down", server[0], client[1])),
        }
        for pump in self._pumps:
            pump.add_done_callback(self._has_ended)

    def hold(self, *ways: Way) -> None:
        """Let nothing through any more (default: both ways)."""
        for way in ways or BOTH:
            self._open[way].clear()

    @property
    def held(self) -> bool:
        return not all(gate.is_set() for gate in self._open.values())

    def let_through(self) -> None:
        for gate in self._open.values():
            gate.set()

    def cut(self, *, reset: bool = False) -> None:
        """Close it. With `reset` the client gets a RST; the server always an ordinary end, so it reads what has come before."""
        if reset:
            client = self._writers["down"].transport.get_extra_info("socket")
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writers["down"].transport.abort()
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers.values():
            writer.close()

    def _has_ended(self, pump: asyncio.Task[None]) -> None:
        self._pumps.remove(pump)
        if not self._pumps:
            self._network.links.remove(self)

    async def _pump(self, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open[way].wait()
                if way == "up":
                    self._network._listen_to(self, self._asked(data))
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    def _asked(self, data: bytes) -> bytes:
        """The statements that are executed by what a client sends: of its simple queries, and the prepared ones that it binds."""
        asked = []
        for kind, body in _messages(data):
            first, _, rest = body.partition(b"\0")
            match kind:
                case b"Q":
                    asked.append(first)
                case b"P":
                    self._statements[first] = rest.partition(b"\0")[0]
                case b"B":
                    name, _, bound = rest.partition(b"\0")
                    statement = self._statements.get(name, b"")
                    along = (
                        b" " + ALONG.encode() if b"get_work" in statement and _brings_claims(bound) else b""
                    )
                    asked.append(statement + along)
        return b"\n".join(asked)


ALONG = "-- finish_tasks"
"""What is added to the text of a call of get_work that finishes tasks."""


EMPTY_ARRAY = 20
"""Bytes of one of one dimension."""


def _brings_claims(bound: bytes) -> bool:
    """Whether the last of the values that are bound is an array with something in it."""
    at = 2 + 2 * int.from_bytes(bound[:2], "big")  # behind the formats
    count, at = int.from_bytes(bound[at : at + 2], "big"), at + 2
    length = 0
    for _ in range(count):
        length = int.from_bytes(bound[at : at + 4], "big", signed=True)
        at += 4 + max(length, 0)
    return length > EMPTY_ARRAY


def _messages(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Of the protocol's, those that a client sends at once; its first ones are of another form, and none."""
    while len(data) > 5 and data[:1].isalpha():
        end = 1 + int.from_bytes(data[1:5], "big")
        yield data[:1], data[5:end]
        data = data[end:]


class Proxy:
    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._address = (self._parts.hostname, self._parts.port)
        self._held: tuple[Way, ...] = ()
        self._to_lose: list[tuple[bytes, float | None, asyncio.Future[Link]]] = []
        self._ends: set[asyncio.Task[None]] = set()
        self.links: list[Link] = []
        """The open connections, the oldest first."""
        self.delay = 0.0
        """Of connections to come."""
        self.accepted = 0
        self.port = 0

    @property
    def dsn(self) -> str:
        credentials = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()

    def lead_to(self, dsn: str) -> None:
        """New connections go there; the old ones are cut."""
        parts = urlsplit(dsn)
        self._address = (parts.hostname, parts.port)
        self.cut()

    def swallow(self) -> None:
        """From now on nothing gets through on the connections that there are; new ones work."""
        for link in self.links:
            link.hold()

    def partition(self, *ways: Way) -> None:
        """From now on nothing gets through (default: neither way), on no connection, until `heal()`."""
        self._held = ways or BOTH
        for link in self.links:
            link.hold(*self._held)

    def heal(self) -> None:
        self._held = ()
        for link in self.links:
            link.let_through()

    def cut(self, *, reset: bool = False) -> None:
        for link in [*self.links]:
            link.cut(reset=reset)

    def lose_reply(self, statement: str, *, cut_after: float | None = 0.0) -> asyncio.Future[Link]:
        """The next statement with this text reaches the server, and its reply nobody: the connection is reset, or (None) stands still.

        Until the future is cancelled.
        """
        lost: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._to_lose.append((statement.encode(), cut_after, lost))
        return lost

    def _listen_to(self, link: Link, asked: bytes) -> None:
        for wish in [*self._to_lose]:
            text, cut_after, lost = wish
            if lost.cancelled():
                self._to_lose.remove(wish)
            elif text in asked:
                self._to_lose.remove(wish)
                link.hold("down")
                lost.set_result(link)
                if cut_after is not None:
                    self._ends.add(asyncio.create_task(_cut_later(link, cut_after)))
                return

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server = await asyncio.open_connection(*self._address)
        except OSError:
            writer.transport.abort()
            return
        link = Link(self, (reader, writer), server)
        self.links.append(link)
        if self._held:
            link.hold(*self._held)


async def _cut_later(link: Link, seconds: float) -> None:
    await asyncio.sleep(seconds)
    link.cut(reset=True)


@asynccontextmanager
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    it = Proxy(dsn)
    server = await asyncio.start_server(it._accept, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for end in it._ends:
            end.cancel()
        while it.links:
            it.cut()
            await asyncio.sleep(0)
