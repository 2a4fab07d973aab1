"""Server-sent events: what is new, sent to a browser as long as it stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import anyio
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from session_lock.contrib.status.told import summary, told
from session_lock.contrib.status.watching import Reader

LASTS = 8.0
"""Seconds, after which a browser comes again by itself: whether it may look is asked anew, and a server that is told to stop, which waits
for its answers to end, is not held up for longer."""

RETRY = 100
"""Milliseconds after which it does."""

HURRY = 5.0
"""Seconds beyond `LASTS` after which one that does not read what it is sent is left."""

ALIVE = 2.0
"""Seconds, after which a browser is told that we are there, though the database has said nothing."""

TOGETHER = 0.1
"""Seconds within which looks at several mappings are told of at once."""

MOST = 100
"""Browsers that look at the same time."""


class Audience:
    """Those that look on at the moment."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self.dismissed: bool = False
        """Nobody is to look on any more: the server ends."""

    @contextmanager
    def one(self) -> Iterator[None]:
        """One of them; whom the whole audience is dismissed with leaves the block as well, and so does one that does not listen."""
        with anyio.move_on_after(LASTS + HURRY) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    @property
    def refusal(self) -> str | None:
        """Why there is no place for another one."""
        if self.dismissed:
            return "This page is about to end."
        if len(self._scopes) >= MOST:
            return f"{MOST} browsers look at this page already: close one, and this one goes on."
        return None

    def dismiss(self) -> None:
        self.dismissed = True
        for scope in [*self._scopes]:
            scope.cancel()


class Stream(Response):
    """An answer that goes on until `events` end, or whoever asked has left."""

    media_type = "text/event-stream"

    def __init__(self, audience: Audience, readers: Sequence[Reader], events: AsyncIterator[str]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"  # nginx would keep it until it is long enough
        self._audience = audience
        self._readers = readers
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := self._audience.refusal) is not None:
            await PlainTextResponse(refusal, 503)(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # nobody looks on
            await send(self._start)
            await send({"type": "http.response.body", "body": b""})
            return
        with ExitStack() as stack:
            for reader in self._readers:
                stack.enter_context(reader.watched())
            async with anyio.create_task_group() as group:

                async def leave() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(leave)
                with suppress(OSError):  # it has left: some servers say so this way
                    await self._send(send)
                group.cancel_scope.cancel()

    @property
    def _start(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}

    async def _send(self, send: Send) -> None:
        await send(self._start)
        with self._audience.one():
            await _part(send, f"retry: {RETRY}\n\n{HERE}")
            async for event in self._events:
                await _part(send, event)
        with anyio.move_on_after(HURRY):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _part(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


HERE = "event: alive\ndata: 1\n\n"
"""Without data a browser would not hear it."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a browser has got, which it says when it comes again."""

    epoch: str = ""
    number: int = 0

    @classmethod
    def of(cls, text: str) -> Place:
        epoch, _, number = text.partition("-")
        return cls(epoch, int(number)) if number.isascii() and number.isdecimal() and len(number) < 16 else cls()  # fmt: skip


async def of_mapping(reader: Reader, last: Place, session: int | None) -> AsyncIterator[str]:
    """Each look at it, with what the plots lack: at first all that is kept, or what has come since `last`."""
    known = last.number if last.epoch == reader.epoch else 0
    number, plotted = 0 if known == 0 else known, known
    loop = asyncio.get_running_loop()
    until = loop.time() + LASTS
    while (left := until - loop.time()) > 0:
        try:
            look = await asyncio.wait_for(reader.after(number), min(left, ALIVE))
        except TimeoutError:
            yield HERE
            continue
        points = reader.points(plotted)
        kind = "more" if plotted else "whole"
        yield f"id: {reader.epoch}-{look.number}\nevent: {kind}\ndata: {told(reader.name, look, points, session=session)}\n\n"
        number = plotted = look.number


async def of_all(readers: Mapping[str, Reader]) -> AsyncIterator[str]:
    """A few numbers of each mapping, as often as one of them has been looked at."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LASTS
    numbers = dict.fromkeys(readers, 0)
    while (left := until - loop.time()) > 0:
        waiting = [asyncio.ensure_future(each.after(numbers[name])) for name, each in readers.items()]
        try:
            done, _ = await asyncio.wait(
                waiting, timeout=min(left, ALIVE), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waiting:
                each.cancel()
        looks = [(name, each.latest) for name, each in readers.items() if each.latest is not None]
        if not done or not looks:
            yield HERE
            continue
        numbers |= {name: look.number for name, look in looks}
        yield f"data: {summary(looks)}\n\n"
        await asyncio.sleep(TOGETHER)
