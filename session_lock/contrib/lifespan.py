"""A lifespan for an ASGI app that has none, as Django's has none."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from session_lock.block import RunningBlock
from session_lock.contrib.asgi import App, Receive, Scope, Send
from session_lock.contrib.running import what_else
from session_lock.errors import SettingsError
from session_lock.wording import describe

__all__ = ["with_lifespan"]

logger: logging.Logger = logging.getLogger("session_lock.contrib")

KIND = "a function with @asynccontextmanager"


def with_lifespan(app: App, running: Callable[[], AbstractAsyncContextManager[object]]) -> App:
    """`app`, and `running()`, an async context manager, entered in each process of the server for as long as that serves.

    What it raises ends the server. That a server, or an app in which this one is mounted, tells of no lifespan is logged as
    CRITICAL at the first request: nothing runs then. `SettingsError` if one process tells of two at once, or `running` is not such a function.

    ```python
    @asynccontextmanager
    async def running():
        async with PostgresDatabase(dsn, mails) as database, Runner(database, each(send)):
            yield

    application = with_lifespan(get_asgi_application(), running)
    ```
    """
    if not callable(app):
        raise SettingsError(
            f"with_lifespan(app, running) takes an ASGI app, such as get_asgi_application(), not {type(app).__name__}"
        )
    given: object = running
    if other := type(given).__name__ if isinstance(given, RunningBlock) else what_else(given):
        raise SettingsError(f"with_lifespan takes {KIND}, not {other}")
    told = live = False  # of a lifespan, or of there being none

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal told, live
        if scope["type"] == "lifespan":
            if live:
                raise SettingsError("this app is started twice in one process: mount it once, and outermost")
            told = live = True
            try:
                await _live(running, receive, send)
            finally:
                live = False
            return
        if not told:
            told = True
            logger.critical(
                "no task is done in this process, which was told of no lifespan: let the server run the app that with_lifespan "
                "returns, outermost, with its lifespan support on"
            )
        await app(scope, receive, send)

    return wrapped


async def _live(
    running: Callable[[], AbstractAsyncContextManager[object]], receive: Receive, send: Send
) -> None:
    phase = "startup"
    await receive()
    try:
        block = running()
        if not hasattr(block, "__aenter__"):
            if inspect.iscoroutine(block):
                block.close()  # or Python warns that nobody has awaited it
            raise SettingsError(f"with_lifespan was given what makes a {type(block).__name__}: write {KIND}")  # noqa: TRY301 -- so that the server is told
        async with block:
            await send({"type": "lifespan.startup.complete"})
            phase = "shutdown"
            await receive()
    except Exception as error:
        await send({"type": f"lifespan.{phase}.failed", "message": describe(error)})
        raise
    await send({"type": "lifespan.shutdown.complete"})
