import os
import signal

import anyio

from session_lock import PostgresDatabase, Runner, TaskTable, each

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    await anyio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


async def cancel_at_signal(scope):
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()  # a Runner that is cancelled stops gracefully, and the group waits for it


async def main():
    async with (
        PostgresDatabase(os.environ["DATABASE_URL"], mails) as database,
        anyio.create_task_group() as group,
    ):
        group.start_soon(cancel_at_signal, group.cancel_scope)
        group.start_soon(Runner(database, each(send)).run)


if __name__ == "__main__":
    anyio.run(main)
