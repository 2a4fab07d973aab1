import asyncio
import os
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI

from session_lock import PostgresDatabase, Runner, TaskTable, each
from session_lock.contrib.asgi import probes
from session_lock.contrib.fastapi import lifespan

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


app = FastAPI(lifespan=serving)
app.mount("/probes", probes(lambda: app.state.runner))


@app.post("/mails", status_code=202)
async def post_mail(address: str):
    return await app.state.pool.fetchrow("INSERT INTO mail (address) VALUES ($1) RETURNING id", address)
