import asyncio
import os
from contextlib import asynccontextmanager

import asyncpg
from litestar import Litestar, Request, post

from session_lock import PostgresDatabase, Runner, TaskTable, each
from session_lock.contrib.litestar import lifespan

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    await asyncio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


@asynccontextmanager
async def runner():
    async with PostgresDatabase(os.environ["DATABASE_URL"], mails) as database:
        yield Runner(database, each(send))


@asynccontextmanager
async def pool(app):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1) as app.state.pool:
        yield


@post("/mails", status_code=202)
async def post_mail(request: Request) -> dict[str, int]:
    query = "INSERT INTO mail (address) VALUES ($1) RETURNING id"
    return {"id": await request.app.state.pool.fetchval(query, request.query_params["address"])}


app = Litestar([post_mail], lifespan=[pool, lifespan(runner)])
