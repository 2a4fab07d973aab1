"""A storm: instances as processes, each behind a proxy of its own, tasks that come all the time, and a nemesis."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from session_lock.embedded import Server
from tests.chaos.forks import Forks, forks
from tests.chaos.storm.checkers import c7
from tests.chaos.storm.evidence import Evidence
from tests.chaos.storm.ledger import read
from tests.chaos.storm.nemesis import AWAY, Nemesis, Plan
from tests.chaos.storm.tables import Beside, create
from tests.conftest import TestDatabase
from tests.proxy import Proxy, proxy

WAYS = ("batch", "transaction", "outside", "batch", "transaction", "one")
"""Of the instances."""

MODULE = "tests.chaos.storm.instance"


@dataclass
class Instance:
    way: str
    network: Proxy
    pid: int = 0


class Resource:
    """Outside of the database, and it takes no token after a newer one."""

    def __init__(self) -> None:
        self.accepted: list[tuple[int, int]] = []
        self._newest: dict[int, int] = {}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                task, token = map(int, line.split())
                fresh = token >= self._newest.get(task, 0)
                if fresh:
                    self._newest[task] = token
                    self.accepted.append((task, token))
                writer.write(b"yes\n" if fresh else b"no\n")
        writer.close()


class Storm:
    def __init__(
        self, beside: Beside, folder: Path, seed: int, *, lease: float, broken: str, server: Server | None
    ) -> None:
        self.beside, self.folder, self.lease, self.server = beside, folder, lease, server
        self._broken = broken
        self._dice = random.Random(seed)
        self.instances: list[Instance] = []
        self.nemesis = Nemesis(self, random.Random(seed + 1))
        self.resource = Resource()
        self.forks: Forks  # as soon as the storm is entered
        self.fed: set[int] = set()
        self.lost = 0  # finishes that a fail-over has lost
        self._evidence = Evidence(lease=lease, poll=lease / 10)
        self._standby: str | None = None

    async def start(self, instance: Instance) -> None:
        """A new process in this place."""
        instance.pid = await self.forks.start(
            dsn=instance.network.dsn,
            way=instance.way,
            folder=str(self.folder),
            lease=self.lease,
            broken=self._broken,
        )

    async def blow(self, plan: Plan, tasks: int) -> None:
        """The nemesis does its work, while so many tasks come."""
        feeding = asyncio.create_task(self._feed(tasks, plan.seconds))
        await self.nemesis.rage(plan)
        await feeding

    async def _feed(self, tasks: int, seconds: float) -> None:
        """Evenly, and a few of them take half a lease. What is refused while the server is away comes later."""
        begin, fed = time.perf_counter(), 0
        while fed < tasks:
            due = min(tasks, int(tasks * (time.perf_counter() - begin + 0.2) / seconds)) - fed
            naps = [
                self.lease / 2 if self._dice.random() < 0.002 else 0.02 * self._dice.random()
                for _ in range(due)
            ]
            with suppress(*AWAY):
                self.fed |= {*await self.beside.feed(naps)}
                fed += due
            await asyncio.sleep(0.2)

    async def clear(self, within: float) -> None:
        """Let them do what is left. What they have not done within so many seconds is lost (C6)."""
        give_up = time.perf_counter() + within
        while time.perf_counter() < give_up:
            with suppress(*AWAY):
                self._evidence.pending = await self.beside.ask(
                    "SELECT coalesce(array_agg(id), '{}') FROM public.chore WHERE done_at IS NULL"
                )
                if not self._evidence.pending:
                    return
            await asyncio.sleep(0.05)

    async def look_at_shares(self, tasks: int, seconds: float) -> None:
        """While nothing befalls them: scarce tasks that take their time, and who holds how many of them; again, if one was late for its share."""
        for _ in range(4):
            await self.beside.feed([seconds / 2] * tasks)
            give_up = time.perf_counter() + seconds
            while time.perf_counter() < give_up:
                self._evidence.shares = [*self._evidence.shares, await self.beside.held()]
                await asyncio.sleep(self.lease / 10)
            if not c7(self._evidence):
                return

    async def end(self) -> Evidence:
        """All instances are asked to end; what is known of them, and of what they have done."""
        evidence = self._evidence
        evidence.to_end = frozenset(one.pid for one in self.instances)
        for pid in evidence.to_end:
            os.kill(pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                for pid in evidence.to_end:
                    while not await self.forks.has_ended(pid):
                        await asyncio.sleep(0.02)
        written = read(self.folder)
        evidence.runs, evidence.pauses, evidence.left = written.runs, written.pauses, written.left
        evidence.events, evidence.accepted, evidence.fed = (
            self.nemesis.events,
            self.resource.accepted,
            frozenset(self.fed),
        )
        evidence.logs = {file.name: file.read_text(errors="replace") for file in self.folder.glob("*.log")}
        if self.server is not None:
            evidence.health = await self.beside.health()
            logs = [self.server.log, *self.server.log.parent.glob("standby.log")]
            evidence.logs["server"] = "".join(log.read_text(errors="replace") for log in logs)
        evidence.secrets = frozenset({urlsplit(self.instances[0].network.dsn).password or ""})
        await self.beside.tell(evidence)
        return evidence

    # Another server ----------------------------------------------------------------------------------------

    async def fail_over(self, standby: str, *, losing: float = 0.0) -> None:
        """The primary dies and the standby is promoted; before that the standby hears nothing for so many seconds."""
        assert self.server is not None
        promoted = Beside(TestDatabase(standby, self.beside.database.name))
        if losing:
            access = self.server.data / "pg_hba.conf"
            access.write_text("host replication all all reject\n" + access.read_text())
            await self.beside.ask("SELECT pg_reload_conf()")
            await self.beside.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            await asyncio.sleep(losing)
            self._evidence.lossy = True
        done = "SELECT count(*) FROM public.chore WHERE done_at IS NOT NULL"
        before = await self.beside.ask(done)
        await asyncio.to_thread(self.server.stop, "kill")
        self.lost = before - await promoted.ask(done)
        await promoted.ask("SELECT pg_promote()")
        for instance in self.instances:
            instance.network.lead_to(standby)
        await self.beside.close()
        self.beside = promoted
        self.nemesis.times["D3" if losing else "D2"] += 1


@asynccontextmanager
async def storm(
    database: TestDatabase,
    folder: Path,
    seed: int,
    *,
    lease: float = 1.0,
    ways: Sequence[str] = WAYS,
    mother: Forks | None = None,
    mutations: Mapping[str, Mapping[str, str]] | None = None,
    broken: str = "",
    server: Server | None = None,
) -> AsyncIterator[Storm]:
    """With an instance for each of the ways, of a library that is `broken` so. `server` is that of the database, if it may be harmed."""
    beside = Beside(database)
    it = Storm(beside, folder, seed, lease=lease, broken=broken, server=server)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(lambda: it.beside.close())
        await create(await beside.connection(), mutations or {})
        resource = await asyncio.start_unix_server(it.resource.answer, folder / "resource")
        stack.callback(resource.close)
        it.forks = mother or await stack.enter_async_context(forks(MODULE))
        for way in ways:
            it.instances.append(Instance(way, await stack.enter_async_context(proxy(database.app_dsn))))
            await it.start(it.instances[-1])
        stack.push_async_callback(it.nemesis.calm)
        yield it
