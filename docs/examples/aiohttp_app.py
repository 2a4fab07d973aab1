import os

import asyncpg
from aiohttp import web

from session_lock import PostgresDatabase, Runner, TaskTable

# CREATE TABLE sale (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, amount numeric, done_at timestamptz); CREATE TABLE invoice (sale bigint, amount numeric)
sales = TaskTable("sale", key="id", pending="done_at IS NULL", finish="done_at = now()", columns=["amount"])
state = web.AppKey("state", tuple[asyncpg.Pool, Runner])


async def write_invoices(batch):  # up to Settings.batch_size tasks; returns those that it has accomplished
    rows = [(task.key, task.data["amount"]) for task in batch]
    async with batch.transaction() as connection:  # what it writes and the finish: both, or neither
        await connection.executemany("INSERT INTO invoice (sale, amount) VALUES ($1, $2)", rows)
    return batch


async def run_tasks(app):
    dsn = os.environ["DATABASE_URL"]
    async with asyncpg.create_pool(dsn, min_size=1) as pool, PostgresDatabase(dsn, sales) as database:
        async with Runner(database, write_invoices) as runner:
            app[state] = pool, runner
            yield


async def post_sale(request):
    pool, runner = request.app[state]
    query = "INSERT INTO sale (amount) VALUES ($1) RETURNING id"
    key = await pool.fetchval(query, (await request.json())["amount"])
    runner.wake()  # look now, not at the next poll
    return web.json_response({"id": key}, status=202)


def make_app(_argv=None):
    app = web.Application()
    app.add_routes([web.post("/sales", post_sale)])
    app.cleanup_ctx.append(run_tasks)
    return app
