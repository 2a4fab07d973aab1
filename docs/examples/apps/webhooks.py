"""Webhooks to hosts of which some are slow and some fail: `python webhooks.py`.

At most two calls of a host are under way at once, in all instances together, so a slow one keeps no slot from the others. A host that
answers 503 is asked again, later and later; one that answers 410 never again. The receiver can tell a repetition by its key.
"""

import asyncio
import random
from collections import Counter

import asyncpg
from aiohttp import ClientSession, ClientTimeout, web
from throwaway import prepared

from session_lock import Discard, Limit, PostgresDatabase, Retry, Runner, Settings, TaskTable, each

TABLES = """
CREATE TABLE IF NOT EXISTS webhook (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, host text NOT NULL, body text NOT NULL, state text NOT NULL DEFAULT 'open'
);
"""
webhooks = TaskTable(
    "webhook",
    key="id",
    pending="state = 'open'",
    finish="state = 'delivered'",
    discard="state = 'refused'",
    columns=["host", "body"],
    limits=[Limit(2, by="host")],
)
HOSTS = ["steady", "slow", "flaky", "gone"]
SETTINGS = Settings(
    concurrency=10, start_jitter=0, poll_interval=0.2, retry=Retry(delay=0.2, factor=1.5, max_attempts=20)
)


class Receiver:
    """The other side: four hosts, of which each is as its name says. It notes how many calls of one were under way at once."""

    def __init__(self):
        self.under_way, self.most, self.accepted = Counter(), Counter(), Counter()

    async def receive(self, request):
        host = request.match_info["host"]
        self.under_way[host] += 1
        self.most[host] = max(self.most[host], self.under_way[host])
        try:
            await asyncio.sleep(0.2 if host == "slow" else 0.01)
            if host == "gone":
                return web.Response(status=410)
            if host == "flaky" and random.random() < 0.5:
                return web.Response(status=503)
            self.accepted[request.headers["Idempotency-Key"]] += 1
            return web.Response()
        finally:
            self.under_way[host] -= 1


async def main():
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{host}", receiver.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async with prepared(TABLES, webhooks) as dsn, ClientSession(timeout=ClientTimeout(5)) as client:

        async def deliver(task):
            url, headers = f"http://127.0.0.1:{port}/{task.data['host']}", {"Idempotency-Key": str(task.key)}
            async with client.post(url, data=task.data["body"], headers=headers) as answer:
                if answer.status == 410:
                    return Discard("the receiver wants no more of them")
                answer.raise_for_status()

        connection = await asyncpg.connect(dsn)
        rows = [(host, f"news {number}") for number in range(15) for host in HOSTS]
        await connection.executemany("INSERT INTO webhook (host, body) VALUES ($1, $2)", rows)
        async with PostgresDatabase(dsn, webhooks) as database, Runner(database, each(deliver), SETTINGS):
            while await connection.fetchval("SELECT count(*) FROM webhook WHERE state = 'open'"):
                await asyncio.sleep(0.1)
        query = "SELECT host, state, count(*) AS n FROM webhook GROUP BY host, state ORDER BY host"
        for row in await connection.fetch(query):
            print(f"{row['host']}: {row['n']} {row['state']}, at most {receiver.most[row['host']]} at once")
        print(f"{sum(number > 1 for number in receiver.accepted.values())} were accepted twice")
        await connection.close()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
