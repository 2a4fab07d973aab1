"""A server process with the code of docs/how-to/probes.md, whose taskers take as long as the address says, under short leases.

`python -m tests.contrib.probed {fastapi,bare,aiohttp} PORT DSN`
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from typing import Any

import uvicorn

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.contrib.asgi import probes
from tests.docs.pages import Page

SETTINGS = Settings(
    lease_ttl=8,
    keepalive_interval=0.5,
    call_timeout=2,
    cancel_grace=2,
    guard=0.5,
    poll_interval=0.2,
    start_jitter=0,
)


async def send(task: Any) -> None:
    await asyncio.sleep(float(task.data["address"]))


def load() -> Page:
    page = Page("probes.md")
    page.run(holding="app.mount(")
    page.run(holding="app.add_routes(")
    assert page.done
    page.names["send"] = send
    page.names["Runner"] = partial(Runner, settings=SETTINGS)
    return page


async def bare(page: Page, dsn: str, port: int) -> None:
    """The ASGI app by itself, which goes on when the Runner has ended."""
    async with (
        PostgresDatabase(dsn, page["mails"]) as database,
        Runner(database, each(send), SETTINGS) as runner,
    ):
        await uvicorn.Server(uvicorn.Config(probes(runner), port=port)).serve()


def main(kind: str, port: int, dsn: str) -> None:
    page = load()
    match kind:
        case "fastapi":
            os.environ["DATABASE_URL"] = dsn
            uvicorn.run(page["app"], port=port)
        case "bare":
            asyncio.run(bare(page, dsn, port))
        case "aiohttp":
            asyncio.run(page["serve"](dsn, port))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
