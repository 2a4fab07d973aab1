"""`with_lifespan`: what a server tells an app that has none, and what it is told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from session_lock import Runner, SettingsError, each
from session_lock.contrib.asgi import App
from session_lock.contrib.lifespan import with_lifespan
from session_lock.testing import MemoryDatabase


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


async def coroutine() -> None: ...


async def generator() -> AsyncIterator[None]:
    yield


async def run(task: object) -> None: ...


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (block([])(), "what a call of that returns, which serves once: leave its parentheses out"),
        (None, "NoneType"),
        (Runner(MemoryDatabase(), each(run)), "Runner"),
        (run, "run, which is to be called without arguments and cannot be"),
    ],
)
def test_what_is_no_such_function_is_refused_at_once(given: Any, words: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^with_lifespan takes a function with @asynccontextmanager, not {words}"
    ):
        with_lifespan(hello, given)


@pytest.mark.parametrize(("app", "what"), [(None, "NoneType"), ("application", "str")])
def test_what_is_no_app_is_refused_at_once(app: Any, what: str) -> None:
    with pytest.raises(SettingsError, match=rf"an ASGI app, such as get_asgi_application\(\), not {what}$"):
        with_lifespan(app, block([]))


@pytest.mark.parametrize("given", [coroutine, generator])
async def test_what_makes_none_is_refused_in_the_server_s_words(given: Any) -> None:
    server = Server(with_lifespan(hello, given))
    with pytest.raises(SettingsError, match="was given what makes a"):
        await server.ask("lifespan")
    assert server.said[-1]["type"] == "lifespan.startup.failed"
    assert server.said[-1]["message"].endswith("write a function with @asynccontextmanager")
