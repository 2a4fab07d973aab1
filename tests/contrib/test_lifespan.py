"""`with_lifespan`: what a server tells an app that has none, and what it is told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from session_lock import SettingsError
from session_lock.contrib.asgi import App
from session_lock.contrib.lifespan import with_lifespan


class Server:
    """What a server tells an app, all of it there from the start, and what the app has said."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.said: list[Any] = []

    async def ask(self, kind: str) -> list[Any]:
        told = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(told)

        async def send(message: Any) -> None:
            self.said.append(message)

        await self.app({"type": kind}, receive, send)
        return self.said


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send(f"hello, {scope['type']}")


def block(log: list[str], *, at_start: str = "", at_end: str = "") -> Any:
    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        log.append("begins")
        if at_start:
            raise RuntimeError(at_start)
        yield
        log.append("ends")
        if at_end:
            raise RuntimeError(at_end)

    return running


async def test_the_block_lasts_as_long_as_the_server(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    server = Server(with_lifespan(hello, block(log)))
    assert await server.ask("lifespan") == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
    ]
    assert log == ["begins", "ends"]
    assert (await server.ask("http"))[2:] == ["hello, http"]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("phase", "words"), [("startup", {"at_start": "wrong"}), ("shutdown", {"at_end": "wrong"})]
)
async def test_the_server_hears_that_the_block_has_failed(phase: str, words: dict[str, str]) -> None:
    server = Server(with_lifespan(hello, block([], **words)))
    with pytest.raises(RuntimeError, match="wrong"):
        await server.ask("lifespan")
    assert server.said[-1] == {"type": f"lifespan.{phase}.failed", "message": "RuntimeError: wrong"}


async def test_where_nobody_tells_of_a_lifespan_it_is_said_once_that_nothing_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []
    server = Server(with_lifespan(hello, block(log)))
    await server.ask("http")
    await server.ask("websocket")
    assert server.said == ["hello, http", "hello, websocket"]
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert "with its lifespan support on" in record.getMessage()
    assert log == []


async def test_it_is_started_once_at_a_time() -> None:
    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        with pytest.raises(SettingsError, match="started twice in one process: mount it once"):
            await Server(app).ask("lifespan")
        yield

    app = with_lifespan(hello, running)
    for _ in range(2):
        said = await Server(app).ask("lifespan")
        assert said[-1] == {"type": "lifespan.shutdown.complete"}
