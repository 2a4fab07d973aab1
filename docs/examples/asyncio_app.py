import asyncio
import os
import signal

from session_lock import PostgresDatabase, Runner, TaskTable, each

# CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz)
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    await asyncio.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    print("sent to", task.data["address"])


async def main():
    async with PostgresDatabase(os.environ["DATABASE_URL"], mails) as database:
        runner = Runner(database, each(send))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, runner.stop)
        await runner.run()


if __name__ == "__main__":
    asyncio.run(main())
