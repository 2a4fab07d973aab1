import asyncio
import os
from contextlib import asynccontextmanager

from session_lock import PostgresDatabase, Runner, TaskTable, each

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    await asyncio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


@asynccontextmanager
async def runner():
    async with PostgresDatabase(os.environ["DATABASE_URL"], mails) as database:
        yield Runner(database, each(send))
