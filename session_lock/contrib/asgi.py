"""Probes for an ASGI server: an app by itself, or mounted in one of Starlette, FastAPI or another framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from session_lock.contrib.probing import HEADERS, PATHS, Source, answer, finder

__all__ = ["probes"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def probes(runner: Source) -> App:
    """An app that answers `GET /livez` and `/readyz`: 200 if it is so, 503 if not. It needs no framework.

    `runner` is a Runner or RunnerGroup, or a function that returns it (None, an AttributeError or a KeyError: there is none yet). `SettingsError` if it is none of these.

    ```python
    app = Starlette(routes=[Mount("/probes", probes(lambda: app.state.runner))])
    ```
    """
    find = finder(runner)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a server takes this for "no lifespan here", as ASGI has it
            raise ValueError(f"probes answer http, not {scope['type']}")
        # Where it is mounted is a part of the path, or is not: servers and frameworks differ.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        headers, body = HEADERS, b""
        if path not in PATHS:
            status = 404
        elif scope["method"] not in {"GET", "HEAD"}:
            status, headers = 405, {**HEADERS, "allow": "GET, HEAD"}
        else:
            status, body = answer(path, find())
        headers = {**headers, "content-length": str(len(body))}
        await send({
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": body})

    return app
