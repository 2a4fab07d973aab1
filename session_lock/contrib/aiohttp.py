"""Probes for a server of aiohttp."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from session_lock.contrib.probing import HEADERS, PATHS, Source, answer, finder

__all__ = ["probes"]


def probes(runner: Source) -> Sequence[web.RouteDef]:
    """Routes for `app.add_routes`, of `GET /livez` and `/readyz`: 200 if it is so, 503 if not.

    `runner` is a Runner or RunnerGroup, or a function that returns it (None: there is none yet). `SettingsError` if it is none of these.

    ```python
    app = web.Application()
    app.add_routes(probes(runner))
    ```
    """
    find = finder(runner)

    def route(path: str) -> web.RouteDef:
        async def handle(_: web.Request) -> web.Response:
            status, body = answer(path, find())
            return web.Response(status=status, body=body, headers=HEADERS)

        return web.get(path, handle)

    return [route(path) for path in PATHS]
