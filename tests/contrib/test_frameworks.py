"""The other examples, each under its real server or as its own process: stopped by SIGTERM while tasks are under way, and started again."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import asyncpg
import pytest

from session_lock import TaskTable
from tests.conftest import TestDatabase
from tests.contrib.kinds import set_up_django
from tests.contrib.service import Application, Server
from tests.contrib.test_fastapi import TABLES, post
from tests.docs.examples import load_example

SESSION_LOCK = str(Path(sys.executable).with_name("session-lock"))


@dataclass(frozen=True)
class Kind:
    example: str
    command: Callable[[int], list[str]]
    listens: bool = True
    under: str = ""

    def __str__(self) -> str:
        return f"{self.example}{self.under and f'-{self.under}'}"


def module(*words: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-m", *(word.format(port=port) for word in words)]


KINDS = [
    Kind("fastapi_jobs_app", module("uvicorn", "--port", "{port}", "fastapi_jobs_app:app")),
    Kind(
        "aiohttp_jobs_app",
        module("aiohttp.web", "-H", "127.0.0.1", "-P", "{port}", "aiohttp_jobs_app:make_app"),
    ),
    Kind("starlette_app", module("uvicorn", "--port", "{port}", "starlette_app:app")),
    Kind("litestar_app", module("granian", "--interface", "asgi", "--port", "{port}", "litestar_app:app")),
    Kind(
        "starlette_app",
        lambda _: [SESSION_LOCK, "run", "starlette_app:runner"],
        listens=False,
        under="session-lock",
    ),
    Kind(
        "django_app",
        module("gunicorn", "-k", "asgi", "--bind", "127.0.0.1:{port}", "django_app:application"),
        under="gunicorn",
    ),
    Kind("django_app", module("uvicorn", "--port", "{port}", "django_app:application"), under="uvicorn"),
    Kind("asyncio_app", module("asyncio_app"), listens=False),
    Kind("anyio_app", module("anyio_app"), listens=False),
    Kind("process_app", lambda _: [SESSION_LOCK, "run", "process_app:runner"], listens=False),
]


@cache
def mapping_of(example: str) -> TaskTable:
    """Of a module that is loaded once: Django knows each model once."""
    mails: TaskTable = load_example(example).mails
    return mails


@asynccontextmanager
async def inserting(app: Application) -> AsyncIterator[None]:
    """What visitors of a server do, done by somebody else."""

    async def insert() -> None:
        async with asyncpg.create_pool(app.database.admin_dsn, min_size=1, max_size=1) as pool:
            while True:
                number = len(app.posted)
                query = "INSERT INTO mail (address) VALUES ($1) RETURNING id"
                app.posted.append(await pool.fetchval(query, f"a{number}@example.org"))
                await asyncio.sleep(0.01)

    task = asyncio.create_task(insert())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def work(app: Application, server: Server) -> AbstractAsyncContextManager[None]:
    return app.visitors(post, server.url) if app.listens else inserting(app)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_each_mail_is_sent_once_over_a_restart(
    database: TestDatabase, tmp_path: Path, kind: Kind
) -> None:
    if kind.example == "django_app":
        set_up_django()
    admin = await asyncpg.connect(database.admin_dsn)
    mails = mapping_of(kind.example)
    app = Application(database, admin, mails, "sent_at", kind.command, tmp_path / "log", kind.listens)
    try:
        await app.prepare(TABLES)
        async with app.server() as server:
            async with work(app, server):
                await app.at_least(20, "sent_at IS NOT NULL")
                async with app.no_finish_gets_through():
                    await app.at_least(4, "session_id IS NOT NULL")
                    asked = await app.clock()
                    server.terminate()
                    await app.draining()
            assert await server.exit_code() in {0, -signal.SIGTERM}

        await app.assert_handed_over(asked, at_least=4)

        async with app.server() as server:
            async with work(app, server):
                await app.at_least(1, f"id > {max(app.posted)} AND sent_at IS NOT NULL")
            await app.all_finished()
            server.terminate()
            assert await server.exit_code() in {0, -signal.SIGTERM}

        await app.assert_each_once()
        await app.assert_each_mail_sent_once()
    finally:
        await admin.close()
