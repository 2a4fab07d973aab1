import asyncio
import os
from contextlib import asynccontextmanager

import asyncpg
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from session_lock import PostgresDatabase, Runner, TaskTable, each

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    await asyncio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


@asynccontextmanager
async def lifespan(app):
    dsn = os.environ["DATABASE_URL"]
    async with (
        asyncpg.create_pool(dsn, min_size=1) as app.state.pool,
        PostgresDatabase(dsn, mails) as database,
        Runner(database, each(send)),
    ):
        yield


async def post_mail(request):
    query = "INSERT INTO mail (address) VALUES ($1) RETURNING id"
    id_ = await request.app.state.pool.fetchval(query, request.query_params["address"])
    return JSONResponse({"id": id_}, status_code=202)


app = Starlette(routes=[Route("/mails", post_mail, methods=["POST"])], lifespan=lifespan)
