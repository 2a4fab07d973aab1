import asyncio
import os
from contextlib import asynccontextmanager

import asyncpg
from aiohttp import web

from session_lock import PostgresDatabase, Runner, TaskTable, each
from session_lock.contrib.aiohttp import RUNNER, lifespan, probes

pool = web.AppKey("pool", asyncpg.Pool)

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    await asyncio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


@asynccontextmanager
async def runner():
    async with PostgresDatabase(os.environ["DATABASE_URL"], mails) as database:
        yield Runner(database, each(send))


async def connections(app):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1) as app[pool]:
        yield


async def post_mail(request):
    query = "INSERT INTO mail (address) VALUES ($1) RETURNING id"
    id_ = await request.app[pool].fetchval(query, request.query["address"])
    request.app[RUNNER].wake()  # look now, not at the next poll
    return web.json_response({"id": id_}, status=202)


def make_app(_argv=None):
    app = web.Application()
    app.add_routes([web.post("/mails", post_mail), *probes(lambda: app[RUNNER])])
    app.cleanup_ctx.extend([connections, lifespan(runner)])
    return app
