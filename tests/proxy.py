"""A TCP proxy in front of a server, which can become a black hole: connections stay open and nothing gets through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.accepted = 0
        self.port = 0

    @property
    def dsn(self) -> str:
        credentials = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()

    def swallow(self) -> None:
        """From now on nothing gets through on the connections that there are; new ones work."""
        for pump in self._pumps:
            pump.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._writers += [writer, there[1]]
        for source, target in ((reader, there[1]), (there[0], writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, target)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
            target.close()
        except OSError:
            target.close()


@asynccontextmanager
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    it = Proxy(dsn)
    server = await asyncio.start_server(it._accept, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        it.swallow()
        for writer in it._writers:
            writer.close()
        await asyncio.gather(*it._pumps, return_exceptions=True)
