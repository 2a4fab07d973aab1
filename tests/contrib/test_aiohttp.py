"""The README's aiohttp example: stopped by SIGTERM in its finishing transactions, and started again."""

from __future__ import annotations

import sys
from pathlib import Path

import asyncpg
import httpx

from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.service import Application
from tests.docs.examples import load_example

TABLES = f"""
CREATE TABLE sale (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount integer NOT NULL, done_at timestamptz);
CREATE TABLE invoice (sale bigint NOT NULL REFERENCES sale (id), amount integer NOT NULL);
GRANT INSERT, SELECT ON sale TO {APP_ROLE};
GRANT INSERT ON invoice TO {APP_ROLE};
"""


def aiohttp_web(port: int) -> list[str]:
    return [sys.executable, "-m", "aiohttp.web", "-H", "127.0.0.1", "-P", str(port), "aiohttp_app:make_app"]


async def post(client: httpx.AsyncClient, number: int) -> httpx.Response:
    return await client.post("/sales", json={"amount": number})


async def test_each_sale_gets_one_invoice_over_a_restart(database: TestDatabase, tmp_path: Path) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    sales = load_example("aiohttp_app").sales
    app = Application(database, admin, sales, "done_at", aiohttp_web, tmp_path / "log")
    try:
        await app.prepare(TABLES)
        async with app.server() as server:
            async with app.visitors(post, server.url):
                await app.at_least(20, "done_at IS NOT NULL")
                async with app.no_finish_gets_through():
                    await app.at_least(20, "session_id IS NOT NULL")
                    asked = await app.clock()
                    server.terminate()
                    await app.draining()
            code = await server.exit_code()

        assert code == 0
        await app.assert_handed_over(asked, at_least=4)

        async with app.server() as server:
            async with app.visitors(post, server.url):
                await app.at_least(1, f"id > {max(app.posted)} AND done_at IS NOT NULL")
            await app.all_finished()
            server.terminate()
            assert await server.exit_code() == 0

        await app.assert_each_once()
        invoices = await admin.fetch("SELECT sale, amount FROM invoice ORDER BY sale")
        assert invoices == await admin.fetch("SELECT id AS sale, amount FROM sale ORDER BY id")
    finally:
        await admin.close()
