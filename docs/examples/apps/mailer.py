"""A web application whose visitors cause e-mails: `python mailer.py`, then `curl -X POST 'localhost:8000/orders?address=ann@example.org'`.

The order and its mail are rows of one transaction: no order without a mail, no mail without an order. The mail server is asked at least
once; the Message-ID is made of the row's key, so a mail that is sent again is seen to be the same. Which it was stands in the table
`sent`, written in the transaction that finishes the task.
"""

import asyncio
import os
import smtplib
from contextlib import asynccontextmanager
from email.message import EmailMessage

import asyncpg
import uvicorn
from aiosmtpd.controller import Controller
from fastapi import FastAPI
from throwaway import prepared

from session_lock import PostgresDatabase, Runner, TaskTable, each

TABLES = """
CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text NOT NULL);
CREATE TABLE IF NOT EXISTS mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, subject text, sent_at timestamptz);
CREATE TABLE IF NOT EXISTS sent (mail bigint PRIMARY KEY, message_id text NOT NULL);
"""
mails = TaskTable(
    "mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address", "subject"]
)


class Inbox:
    """The mail server of this example: it accepts all, and prints what it was given."""

    async def handle_DATA(self, server, session, envelope):
        headers = dict(line.split(": ", 1) for line in envelope.content.decode().splitlines() if ": " in line)
        print(f"accepted {headers['Message-ID']} for {envelope.rcpt_tos[0]}", flush=True)
        return "250 OK"


def deliver(message, port):
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as server:
        server.send_message(message)


def make_app(dsn, smtp_port):
    async def send(task):
        message = EmailMessage()
        message["From"], message["To"] = "shop@example.org", task.data["address"]
        message["Subject"] = task.data["subject"]
        message["Message-ID"] = f"<mail-{task.key}@shop.example.org>"
        message.set_content("Thank you.")
        task.assert_held()  # still ours? Then to the outside:
        await asyncio.to_thread(deliver, message, smtp_port)
        async with task.transaction() as connection:  # what is known of it, and the finish: both, or neither
            await connection.execute("INSERT INTO sent VALUES ($1, $2)", task.key, message["Message-ID"])

    @asynccontextmanager
    async def lifespan(app):
        async with (
            asyncpg.create_pool(dsn, min_size=1, max_size=5) as app.state.pool,
            PostgresDatabase(dsn, mails, pool=app.state.pool) as database,
            Runner(database, each(send)),
        ):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=201)
    async def order(address: str):
        async with app.state.pool.acquire() as connection, connection.transaction():
            number = await connection.fetchval(
                "INSERT INTO orders (address) VALUES ($1) RETURNING id", address
            )
            subject = f"Your order {number}"
            await connection.execute("INSERT INTO mail (address, subject) VALUES ($1, $2)", address, subject)
        return {"order": number}

    return app


async def main():
    port = int(os.environ.get("PORT", "8000"))
    inbox = Controller(Inbox(), hostname="127.0.0.1", port=int(os.environ.get("SMTP_PORT", "8025")))
    inbox.start()
    try:
        async with prepared(TABLES, mails) as dsn:
            config = uvicorn.Config(
                make_app(dsn, inbox.port), host="127.0.0.1", port=port, log_level="warning"
            )
            await uvicorn.Server(config).serve()
    finally:
        inbox.stop()


if __name__ == "__main__":
    asyncio.run(main())
