"""The status page of a demo, while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from session_lock import TaskTable
from session_lock.cli.demo.stage import Stage
from session_lock.cli.serving import address_of, is_installed, listen, serving


@asynccontextmanager
async def status_page(stage: Stage, table: TaskTable, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Served while the block lasts, for each database one, and its address said; where starlette and uvicorn are missing, neither."""
    if not is_installed():
        yield
        return
    from starlette.applications import Starlette  # noqa: PLC0415 (an extra)
    from starlette.routing import Mount  # noqa: PLC0415

    from session_lock.contrib.status import status_app  # noqa: PLC0415

    apps = {place.name: status_app({table.name: table}, place.access.dsn) for place in stage.places}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        """Of those that are mounted, which hear of no end by themselves."""
        async with AsyncExitStack() as stack:
            for app in apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    only = next(iter(apps.values())) if len(apps) == 1 else None
    app = only or Starlette(routes=[Mount(f"/{name}", each) for name, each in apps.items()], lifespan=lifespan)  # fmt: skip
    with listen("127.0.0.1", 0) as sock:
        async with serving(app, sock, *apps.values()):
            address = address_of(sock)
            say(f"status page: {address if only else ' and '.join(f'{address}{name}/' for name in apps)}")
            yield
