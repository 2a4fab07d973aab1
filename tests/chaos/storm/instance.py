"""One instance of the service in a storm: `python -m tests.chaos.storm.instance` forks them."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from session_lock import Batch, PostgresDatabase, Retry, Runner, Settings, Task, each
from session_lock.session import Lease, Session, boottime
from tests.chaos.forks import be_mother
from tests.chaos.storm.ledger import Ledger
from tests.chaos.storm.tables import CHORES

STANDS_STILL = 0.1
"""Seconds without a turn of the loop that count as a pause."""


def settings(lease: float) -> Settings:
    return Settings(
        lease_ttl=lease, keepalive_interval=0.08 * lease, call_timeout=0.5 * lease, cancel_grace=0.15 * lease, guard=0.1 * lease,
        poll_interval=0.1 * lease, patience=0.2 * lease, start_jitter=0, batch_size=50, concurrency=2,
        drain_timeout=1, shutdown_timeout=2, retry=Retry(max_attempts=None, delay=0.1, factor=1), breaker_failures=None,
    )  # fmt: skip


class Refused(Exception):  # noqa: N818
    """The resource has seen a newer token."""


class Taskers:
    """The ways to do a task, by name."""

    def __init__(self, ledger: Ledger, resource: str) -> None:
        self._ledger, self._resource = ledger, resource
        self._asking = asyncio.Lock()
        self._streams: Any = None

    def way(self, name: str) -> Any:
        tasker = getattr(self, name)
        return tasker if name == "batch" else each(tasker)

    async def batch(self, batch: Batch[dict[str, Any]]) -> Batch[dict[str, Any]]:
        with self._run(batch):
            await asyncio.sleep(batch[0].data["nap"])
        return batch

    async def one(self, task: Task[dict[str, Any]]) -> None:
        with self._run([task]):
            await asyncio.sleep(task.data["nap"])

    async def transaction(self, task: Task[dict[str, Any]]) -> None:
        with self._run([task]):
            await asyncio.sleep(task.data["nap"])
            async with task.transaction() as connection:
                await connection.execute(f"INSERT INTO public.effect (task) VALUES ({task.key})")
                query = f"UPDATE public.account SET total = total + 1 WHERE id = {os.getpid() % 8}"
                await connection.execute(query)

    async def outside(self, task: Task[dict[str, Any]]) -> None:
        with self._run([task]):
            await asyncio.sleep(task.data["nap"])
            task.assert_held()
            if not await self._accepted(task):
                raise Refused
            self._ledger.effect([task])

    @contextmanager
    def _run(self, tasks: Iterable[Task[Any]]) -> Iterator[None]:
        self._ledger.begin(tasks)
        try:
            yield
        finally:
            self._ledger.end(tasks)

    async def _accepted(self, task: Task[Any]) -> bool:
        async with self._asking:
            if self._streams is None:
                self._streams = await asyncio.open_unix_connection(self._resource)
            reader, writer = self._streams
            self._streams = None  # whoever is cancelled leaves an answer in it
            writer.write(f"{task.key} {task.token}\n".encode())
            answer = await reader.readline()
            self._streams = reader, writer
        return answer == b"yes\n"


async def watch_the_loop(ledger: Ledger) -> None:
    before = boottime()
    while True:
        await asyncio.sleep(0.03)
        now = boottime()
        if now - before > STANDS_STILL:
            ledger.pause(before)
        before = now


def tell_what_runs() -> None:
    """Into the log, for who wonders why a process does not end."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


# Libraries that are broken, for who wants to see that it is found ---------------------------------------------


def believes() -> None:
    """In its leases, for ever."""
    Session.left = lambda self: 10.0  # type: ignore[method-assign]


def leaks() -> None:
    """An asyncio task with each session that it ends."""
    end, left = PostgresDatabase.end_session, set[asyncio.Task[Any]]()

    async def end_session(self: Any, *arguments: Any, **options: Any) -> None:
        left.add(asyncio.create_task(asyncio.sleep(3600)))
        await end(self, *arguments, **options)

    PostgresDatabase.end_session = end_session  # type: ignore[method-assign]


def tells() -> None:
    """Of each session, to the log, by what it proves to be its own."""
    start = PostgresDatabase.start_session

    async def start_session(self: Any, **arguments: Any) -> Lease:
        lease = await start(self, **arguments)
        logging.getLogger("session_lock").info("session %d has %s", lease.id, lease.nonce)
        return lease

    PostgresDatabase.start_session = start_session  # type: ignore[method-assign, assignment]


BROKEN = {broken.__name__: broken for broken in (believes, leaks, tells)}


async def main(dsn: str, way: str, folder: str, lease: float, broken: str) -> None:
    log = os.open(Path(folder) / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("session_lock").setLevel(logging.DEBUG)
    if broken:
        BROKEN[broken]()

    async def connect() -> asyncpg.Connection:
        name = {"application_name": f"storm {way} {os.getpid()}"}
        return await asyncpg.connect(dsn, server_settings=name)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, tell_what_runs)
    ledger = Ledger(Path(folder))
    watching = asyncio.create_task(watch_the_loop(ledger))
    tasker = Taskers(ledger, f"{folder}/resource").way(way)
    async with PostgresDatabase(connect, CHORES) as database:
        runner = Runner(database, tasker, settings(lease))
        loop.add_signal_handler(signal.SIGTERM, runner.stop)
        await runner.run()
    watching.cancel()
    await asyncio.wait({watching})
    await asyncio.sleep(0)
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while threading.active_count() > 1:  # the watch ends at the first look after the last lease
                await asyncio.sleep(0.02)
    ledger.leave(len(asyncio.all_tasks()) - 1 + threading.active_count() - 1)


if __name__ == "__main__":
    random.seed()
    be_mother(main)
