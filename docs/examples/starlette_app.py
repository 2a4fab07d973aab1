import asyncio
import os
from contextlib import asynccontextmanager

import asyncpg
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from session_lock import PostgresDatabase, Runner, TaskTable, each
from session_lock.contrib.starlette import lifespan

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    await asyncio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


@asynccontextmanager
async def runner():
    async with PostgresDatabase(os.environ["DATABASE_URL"], mails) as database:
        yield Runner(database, each(send))


tasks = lifespan(runner)


@asynccontextmanager
async def serving(app):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1) as app.state.pool, tasks(app):
        yield


async def post_mail(request):
    query = "INSERT INTO mail (address) VALUES ($1) RETURNING id"
    id_ = await request.app.state.pool.fetchval(query, request.query_params["address"])
    request.app.state.runner.wake()  # look now, not at the next poll
    return JSONResponse({"id": id_}, status_code=202)


app = Starlette(routes=[Route("/mails", post_mail, methods=["POST"])], lifespan=serving)
