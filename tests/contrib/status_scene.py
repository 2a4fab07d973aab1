"""A mapping with sessions, tasks and failures, and its status page: asked as an app, or served over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
from starlette.applications import Starlette

from session_lock import PostgresDatabase
from session_lock.cli.serving import address_of, listen, serving
from session_lock.contrib.status import StatusPage
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

LOCAL = ("127.0.0.1", 50_000)
URL = "http://127.0.0.1:8000"


@dataclass
class Scene:
    """Two sessions: 17 holds three tasks, two of them run; one task has failed twice; three wait."""

    database: TestDatabase
    admin: asyncpg.Connection
    keys: list[int]

    @property
    def dsn(self) -> str:
        return self.database.admin_dsn

    async def fail(self, key: object, error: str, attempt: int = 1) -> None:
        await self.admin.execute(
            "INSERT INTO session_lock.failure (name, task_key, attempt, at, session, error) VALUES ('email', $1, $2, clock_timestamp(), 17, $3)",
            str(key),
            attempt,
            error,
        )

    async def lookers(self) -> int:
        """Connections of the page."""
        return await self.admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'session_lock status'"
        )


@asynccontextmanager
async def scene(database: TestDatabase) -> AsyncIterator[Scene]:
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
        await admin.execute("ALTER TABLE session_lock.session ALTER id RESTART WITH 17")
        keys = await add_emails(admin, 6)
        async with PostgresDatabase(database.app_dsn, EMAILS) as emails:
            for label, count, running in (("web-1:212", 3, 2), ("web-2:7", 0, 0)):
                lease = await emails.start_session(capacity=8, ttl=600, label=label, app_version="2.4")
                if count:
                    await emails.get_work(lease, limit=count, over_share=True)
                await emails.bump_session(lease, ttl=600, draining=False, running=running)
        made = Scene(database, admin, keys)
        await made.fail(keys[5], "ConnectionError: no route to the mail server", 1)
        await made.fail(keys[5], "ConnectionError: still none", 2)
        yield made
    finally:
        await admin.close()


@asynccontextmanager
async def asked(
    app: Any, *, client: Any = LOCAL, url: str = URL, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The app without a server; from this machine, unless told otherwise. Its end is that of an app by itself."""
    transport = httpx.ASGITransport(app, client=client, **options)
    async with (
        lasting(app),
        httpx.AsyncClient(transport=transport, base_url=url) as asking,
    ):
        yield asking


@asynccontextmanager
async def lasting(app: Any) -> AsyncIterator[None]:
    if isinstance(app, Starlette):
        async with app.router.lifespan_context(app):
            yield
    else:
        yield


@asynccontextmanager
async def served(app: Any, *pages: StatusPage) -> AsyncIterator[str]:
    with listen("127.0.0.1", 0) as sock:
        async with serving(app, sock, *pages):
            yield address_of(sock)


@dataclass
class Event:
    kind: str
    number: str
    data: Any


async def events(
    url: str, *, last: str = "", headers: dict[str, str] | None = None, alive: bool = False
) -> AsyncIterator[Event]:
    """What a browser hears, until it leaves; with `alive` also that the server is there."""
    given = {**(headers or {}), **({"last-event-id": last} if last else {})}
    async with (
        httpx.AsyncClient(timeout=20, trust_env=False) as client,
        client.stream("GET", url, headers=given) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            kind = fields.pop("event", "message")
            if "data" in fields and (data := json.loads(fields.pop("data"))) is not None and (kind != "alive" or alive):  # fmt: skip
                yield Event(kind, fields.get("id", ""), data)


async def first(stream: AsyncIterator[Event]) -> Event:
    async for event in stream:
        return event
    raise AssertionError("it ended without a word")


async def until_event(stream: AsyncIterator[Event], holds: Any, what: str) -> Event:
    async with asyncio.timeout(15):
        async for event in stream:
            if holds(event.data):
                return event
    raise AssertionError(what)


def without(texts: Iterable[str], page: str) -> bool:
    return not any(text in page for text in texts)
