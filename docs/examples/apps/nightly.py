"""A report on the day before, once a night in whatever instance is alive: `python nightly.py`, or `python nightly.py 2s` for one every 2 seconds.

The report and the run of the duty are one transaction: there is never a night with two reports, nor one with none.
"""

import asyncio
import signal
import sys

import asyncpg
from throwaway import prepared

from session_lock import Duties, Duty, cron, every
from session_lock.duties import DUTIES

TABLES = """
CREATE TABLE IF NOT EXISTS sale (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, amount numeric NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS report (due_at timestamptz PRIMARY KEY, sales bigint NOT NULL, total numeric NOT NULL);
"""


async def report(task):
    async with task.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO report
            SELECT $1::timestamptz, count(*), coalesce(sum(amount), 0) FROM sale WHERE at >= $1::timestamptz - interval '1 day' AND at < $1
            """,
            task.data.due_at,
        )
    print(f"reported on what was sold until {task.data.due_at:%Y-%m-%d %H:%M:%S}", flush=True)


async def main(interval):
    async with prepared(TABLES, DUTIES) as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute("INSERT INTO sale (amount) SELECT i FROM generate_series(1, 100) AS i")
        await connection.close()
        when = every(interval) if interval else cron("30 3 * * *", tz="Europe/Berlin")
        duties = Duties(dsn, Duty("nightly-report", when, report))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, duties.stop)
        await duties.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
