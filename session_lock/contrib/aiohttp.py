"""A Runner in a server of aiohttp, and probes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from session_lock.contrib.probing import HEADERS, PATHS, Probed, Source, answer, finder
from session_lock.contrib.running import Given, needs, once

with needs("aiohttp", "3.10"):
    from aiohttp import web

__all__ = ["RUNNER", "lifespan", "probes"]

RUNNER: web.AppKey[Probed] = web.AppKey("session_lock.runner")
"""Where `lifespan` keeps the Runner, in the app that it is given to.

```python
async def post_mail(request):
    request.app[RUNNER].wake()
    return web.Response(status=202)
```
"""


def lifespan(runner: Given) -> Callable[[web.Application], AsyncIterator[None]]:
    """A context for `app.cleanup_ctx`: the Runner runs for as long as the app serves, and is `app[RUNNER]`.

    `runner` is what `session-lock run` takes: a Runner, a RunnerGroup, or a function with `@asynccontextmanager` that yields one, and
    is called at each start. What the Runner dies of is raised when the app stops. `SettingsError` if `runner` is none of these, or if
    one process starts it twice at once, as that of an app which is added to another one under two prefixes.

    ```python
    @asynccontextmanager
    async def runner():
        async with PostgresDatabase(dsn, mails) as database:
            yield Runner(database, each(send))

    app = web.Application()
    app.cleanup_ctx.append(lifespan(runner))
    ```
    """
    running = once(runner)

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with running(app) as app[RUNNER]:
            yield

    return context


def probes(runner: Source) -> Sequence[web.RouteDef]:
    """Routes for `app.add_routes`, of `GET /livez` and `/readyz`: 200 if it is so, 503 if not.

    `runner` is a Runner or RunnerGroup, or a function that returns it (None, an AttributeError or a KeyError: there is none yet). `SettingsError` if it is none of these.

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
