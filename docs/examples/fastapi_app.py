import asyncio
import os
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI

from session_lock import PostgresDatabase, Runner, TaskTable, each

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):  # one task: to return is to accomplish it, to raise is to try again later
    await asyncio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


@asynccontextmanager
async def lifespan(app):
    dsn = os.environ["DATABASE_URL"]
    async with (
        asyncpg.create_pool(dsn, min_size=1) as app.state.pool,
        PostgresDatabase(dsn, mails) as database,
    ):
        async with Runner(database, each(send)):
            yield


app = FastAPI(lifespan=lifespan)


@app.post("/mails", status_code=202)
async def post_mail(address: str):
    return await app.state.pool.fetchrow("INSERT INTO mail (address) VALUES ($1) RETURNING id", address)
