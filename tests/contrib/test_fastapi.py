"""The README's FastAPI example under uvicorn: stopped by SIGTERM while tasks are under way, and started again."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import asyncpg
import httpx

from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.service import Application
from tests.docs.examples import load_example

TABLES = f"""
CREATE TABLE mail (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, address text NOT NULL, sent_at timestamptz);
GRANT INSERT, SELECT ON mail TO {APP_ROLE};
"""


def uvicorn(port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "uvicorn",
        "fastapi_app:app",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-access-log",
    ]


async def post(client: httpx.AsyncClient, number: int) -> httpx.Response:
    return await client.post("/mails", params={"address": f"a{number}@example.org"})


async def test_each_mail_is_sent_once_over_a_restart(database: TestDatabase, tmp_path: Path) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    mails = load_example("fastapi_app").mails
    app = Application(database, admin, mails, "sent_at", uvicorn, tmp_path / "log")
    try:
        await app.prepare(TABLES)
        async with app.server() as server:
            async with app.visitors(post, server.url):
                await app.at_least(20, "sent_at IS NOT NULL")
                async with app.no_finish_gets_through():
                    await app.at_least(15, "session_id IS NOT NULL")
                    await app.at_least(
                        10, "session_id IS NULL AND sent_at IS NULL"
                    )  # more than one session may hold
                    asked = await app.clock()
                    server.terminate()
                    await app.draining()
            code = await server.exit_code()

        # uvicorn raises the signal again when it has shut down, so that its parent sees what ended it.
        assert code in {0, -signal.SIGTERM}
        await app.assert_handed_over(asked, at_least=10)
        assert await app.count("sent_at IS NULL") > 0, (
            "nothing is left for the next instance: this tests too little"
        )

        async with app.server() as server:
            async with app.visitors(post, server.url):
                await app.at_least(1, f"id > {max(app.posted)} AND sent_at IS NOT NULL")
            await app.all_finished()
            server.terminate()
            assert await server.exit_code() in {0, -signal.SIGTERM}

        await app.assert_each_once()
        await app.assert_each_mail_sent_once()
    finally:
        await admin.close()
