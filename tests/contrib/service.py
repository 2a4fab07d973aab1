"""The examples' servers as processes of their own, posted to, stopped and started again; and what the database saw of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from session_lock import TaskTable
from session_lock.migrations import install
from tests.conftest import APP_ROLE, TestDatabase

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

AUDIT = """
CREATE TABLE audit (key bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql
  AS 'BEGIN INSERT INTO public.audit (key) VALUES (NEW.id); RETURN NULL; END';
CREATE TRIGGER audit AFTER UPDATE ON {table} FOR EACH ROW
  WHEN (OLD.{flag} IS NULL AND NEW.{flag} IS NOT NULL) EXECUTE FUNCTION audit();
"""

PATIENCE = 20.0
"""Seconds within which whatever a test waits for happens, on a busy machine too."""


@dataclass
class Server:
    """A running server; `log` is what it and the one before it have written."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int:
        await until(self._has_ended, "the server did not end")
        return self.process.returncode

    async def _has_ended(self) -> bool:
        return self.process.poll() is not None


@dataclass
class Application:
    """A task table with its mapping in a fresh database, and how to start the server that works on it."""

    database: TestDatabase
    admin: asyncpg.Connection
    table: TaskTable
    flag: str
    """The column that a finish sets."""
    command: Callable[[int], list[str]]
    """The server's command line for a port."""
    log: Path
    listens: bool = True
    """Whether it is a server, or a process that does tasks and nothing else."""
    posted: list[int] = field(default_factory=list)
    """The keys of tasks that the server has accepted."""

    async def prepare(self, tables: str) -> None:
        """Make the tables, bring the mapping in, and count from here on how often each row is finished."""
        await self.admin.execute(tables)
        await install(self.admin, self.table, grant_to=APP_ROLE)
        await self.admin.execute(AUDIT.format(table=self.table.table, flag=self.flag))

    async def assert_handed_over(self, asked: Any, *, at_least: int) -> None:
        """What an instance was doing when it was asked to stop it has ended, and it has left nothing that is held or begun."""
        assert await self.finished_since(asked) >= at_least, (
            "what was under way at the SIGTERM was not awaited"
        )
        assert await self.count("session_id IS NOT NULL") == 0
        assert await self.count(f"{self.flag} IS NULL AND attempts > 0") == 0
        assert await self.sessions() == ["ended"]

    async def assert_each_once(self) -> None:
        """After two instances: all that was accepted is there, was begun once, and is finished once."""
        assert await self.finished_otherwise_than_once() == []
        there = await self.admin.fetch(f"SELECT id FROM {self.table.table}")
        assert {row["id"] for row in there} >= set(self.posted)
        assert await self.count("attempts <> 1 OR session_id IS NOT NULL") == 0
        assert await self.sessions() == ["ended", "ended"]
        # A visitor that is cut off at the stop is the server's to complain about; of us there is nothing to say.
        assert not re.search(r'File "\S*session_lock/\w+\.py"', self.log.read_text())

    async def assert_each_mail_sent_once(self) -> None:
        """By what the example prints."""
        sent = Counter(re.findall(r"sent to (\S+)", self.log.read_text()))
        rows = await self.admin.fetch(f"SELECT address FROM {self.table.table}")
        assert sent == Counter(row["address"] for row in rows)

    @asynccontextmanager
    async def server(self) -> AsyncIterator[Server]:
        """A server that accepts connections; killed at the end if it still runs."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ, "DATABASE_URL": self.database.app_dsn, "PYTHONPATH": str(EXAMPLES), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command(port), env=environment, stdout=log, stderr=log, start_new_session=True
            )

        async def accepts() -> bool:
            assert process.poll() is None, f"the server did not start:\n{self.log.read_text()}"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        try:
            if self.listens:
                await until(accepts, "the server does not listen")
            yield Server(process, f"http://127.0.0.1:{port}", self.log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with those that it has started
            process.wait()

    @asynccontextmanager
    async def visitors(
        self, post: Callable[[httpx.AsyncClient, int], Awaitable[httpx.Response]], url: str
    ) -> AsyncIterator[None]:
        """Several at once who post work until the server goes away, or the block ends."""
        left = asyncio.Event()

        async def visit(client: httpx.AsyncClient, first: int) -> None:
            for number in range(first, 1_000_000, 4):
                if left.is_set():
                    return
                try:
                    response = await post(client, number)
                except httpx.TransportError:
                    return
                assert response.status_code == 202, response.text
                # It answers. Told to stop, it may leave a request unread and yet wait for it, for as long as the client does.
                client.timeout = httpx.Timeout(PATIENCE / 4)
                self.posted.append(response.json()["id"])
                await asyncio.sleep(0.03)

        # Some listen before they answer, for as long as their imports take on a machine that is busy.
        options: dict[str, Any] = {"base_url": url, "trust_env": False, "timeout": PATIENCE}
        async with httpx.AsyncClient(**options) as client, asyncio.TaskGroup() as group:
            start = len(self.posted)
            for first in range(4):
                group.create_task(visit(client, start + first))
            try:
                yield
            finally:
                left.set()

    @asynccontextmanager
    async def no_finish_gets_through(self) -> AsyncIterator[None]:
        """While the block lasts whoever finishes a task waits, so tasks are under way for sure."""
        other = await asyncpg.connect(self.database.admin_dsn)
        try:
            async with other.transaction():
                await other.execute("LOCK TABLE audit IN EXCLUSIVE MODE")
                yield
        finally:
            await other.close()

    async def count(self, condition: str) -> int:
        return await self.admin.fetchval(f"SELECT count(*) FROM {self.table.table} WHERE {condition}")

    async def at_least(self, number: int, condition: str) -> None:
        async def are_there() -> bool:
            return await self.count(condition) >= number

        await until(are_there, f"there are never {number} rows that are {condition}")

    async def all_finished(self) -> None:
        async def none_is_pending() -> bool:
            return await self.count(self.table.pending) == 0

        await until(none_is_pending, "tasks stay pending")

    async def draining(self) -> None:
        async def drains() -> bool:
            return await self.admin.fetchval(
                "SELECT EXISTS (SELECT FROM session_lock.session WHERE draining AND ended_at IS NULL)"
            )

        await until(drains, "no session drains")

    async def clock(self) -> object:
        return await self.admin.fetchval("SELECT clock_timestamp()")

    async def finished_since(self, moment: object) -> int:
        return await self.admin.fetchval("SELECT count(*) FROM audit WHERE at > $1", moment)

    async def finished_otherwise_than_once(self) -> list[asyncpg.Record]:
        return await self.admin.fetch(
            f"""
            SELECT t.id, count(a.key) AS times FROM {self.table.table} AS t LEFT JOIN audit AS a ON a.key = t.id
             GROUP BY t.id HAVING count(a.key) <> 1
            """
        )

    async def sessions(self) -> list[str]:
        """Of each session: ended by itself, expired, or live."""
        rows = await self.admin.fetch(
            """
            SELECT CASE WHEN ended_at < expires_at THEN 'ended' WHEN ended_at IS NOT NULL THEN 'expired' ELSE 'live' END AS state
              FROM session_lock.session ORDER BY id
            """
        )
        return [row["state"] for row in rows]


async def until(condition: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, otherwise
        await asyncio.sleep(0.02)
