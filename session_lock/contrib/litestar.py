"""The lifespan of an app of Litestar."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from session_lock.contrib.running import Given, in_state, needs

with needs("Litestar", "2.12"):
    from litestar import Litestar

__all__ = ["lifespan"]


def lifespan(runner: Given) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """A lifespan for an app of Litestar: the Runner runs for as long as it serves, and is `app.state.runner`.

    `runner` is what `session-lock run` takes: a Runner, a RunnerGroup, or a function with `@asynccontextmanager` that yields one, and
    is called at each start. What the Runner dies of is raised when the app stops. Litestar runs none of an app that is only mounted: give it to the
    outermost. `SettingsError` if `runner` is none of these, or if one process starts it twice at once.

    ```python
    @asynccontextmanager
    async def runner():
        async with PostgresDatabase(dsn, mails) as database:
            yield Runner(database, each(send))

    app = Litestar(lifespan=[lifespan(runner)])
    ```
    """
    return in_state(runner)
