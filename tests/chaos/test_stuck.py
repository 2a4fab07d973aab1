"""Who goes on past the deadline of its lease is ended before others begin its tasks: blocked, stopped, or stubborn."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.session import boottime
from session_lock.watch import EX_TEMPFAIL
from tests.chaos.stuck import LEASE
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping


class Stage:
    """A table, instances that get stuck, and one that does not."""

    def __init__(self, dsn: str, admin: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.admin = admin
        self.processes: list[Process] = []
        self.taken: dict[int, float] = {}
        """When the instance that does not get stuck began a task."""

    async def start(self, way: str, **settings: Any) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.stuck", way, json.dumps(settings),
            env={**os.environ, "DSN": self.dsn}, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    async def begun(self, process: Process) -> int:
        """The task that it has begun."""
        return int((await process.stdout.readline()).split()[1])

    @asynccontextmanager
    async def another(self) -> AsyncIterator[None]:
        async def take(task: Any) -> None:
            self.taken[task.key] = boottime()

        async with (
            PostgresDatabase(self.dsn, EMAILS) as emails,
            Runner(emails, each(take), Settings(**LEASE)),
        ):
            yield

    async def attempts(self) -> dict[int, int]:
        rows = await self.admin.fetch("SELECT id, attempts FROM email WHERE sent_at IS NOT NULL ORDER BY id")
        return {row["id"]: row["attempts"] for row in rows}

    async def until_finished(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(await self.attempts()) < count:
                await asyncio.sleep(0.02)


@pytest.fixture
async def stage(database) -> AsyncIterator[Stage]:
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(EMAIL_TABLE)
    await apply_mapping(admin, EMAILS, grant_to="app")
    stage = Stage(database.app_dsn, admin)
    try:
        yield stage
    finally:
        for process in stage.processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            process._transport.close()  # a watchdog that is left holds the other ends of its pipes
        await admin.close()


WAYS = [
    ("stubborn", "exit", EX_TEMPFAIL),
    ("stubborn_in_a_thread", "exit", EX_TEMPFAIL),
    ("blocking", "exit", EX_TEMPFAIL),
    ("computing", "exit", EX_TEMPFAIL),
    ("stubborn", "kill", -signal.SIGKILL),
    ("holding_the_lock", "kill", -signal.SIGKILL),
    ("waiting", "kill", -signal.SIGKILL),  # and stopped
    ("stubborn", "abandon", None),
    ("waiting", "abandon", None),  # and stopped
]
"""Of being stuck, what is set to become of it, and the status that the process ends with."""


async def test_who_goes_on_past_the_deadline_is_ended_before_others_begin(stage: Stage) -> None:
    await add_emails(stage.admin, len(WAYS))
    processes = [await stage.start(way, on_stuck=on_stuck) for way, on_stuck, _ in WAYS]
    tasks = [await stage.begun(process) for process in processes]
    for process, (way, *_) in zip(processes, WAYS, strict=True):
        if way == "waiting":
            process.send_signal(signal.SIGSTOP)
    ended: dict[Process, float] = {}

    async def note_end(process: Process) -> None:
        await process.wait()
        ended[process] = boottime()

    async with asyncio.TaskGroup() as group:
        ends = [group.create_task(note_end(process)) for process in processes]
        async with stage.another():
            await stage.until_finished(len(WAYS))
        seen = [
            (way, on_stuck, process.returncode)
            for process, (way, on_stuck, _) in zip(processes, WAYS, strict=True)
        ]
        for end in ends:
            end.cancel()
    assert seen == WAYS
    overlaps = [
        case
        for case, process, task in zip(WAYS, processes, tasks, strict=True)
        if case[2] is not None and stage.taken[task] < ended[process]
    ]
    assert overlaps == []


async def test_a_process_that_is_stopped_while_nothing_runs_goes_on_and_its_watchdog_ends_with_it(
    stage: Stage,
) -> None:
    process = await stage.start("quick", on_stuck="kill")
    (first,) = await add_emails(stage.admin, 1)
    assert await stage.begun(process) == first
    await stage.until_finished(1)
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(LEASE["lease_ttl"] + 0.5)
    process.send_signal(signal.SIGCONT)
    (second,) = await add_emails(stage.admin, 1)
    assert await stage.begun(process) == second
    await stage.until_finished(2)
    watchdog = await watchdog_of(process)
    process.kill()
    async with asyncio.timeout(10):
        while is_running(watchdog):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("keepalive", "attempts"), [("thread", 1), ("loop", 2)])
async def test_keepalives_in_a_thread_go_on_beside_a_blocked_loop(
    stage: Stage, keepalive: str, attempts: int
) -> None:
    (task,) = await add_emails(stage.admin, 1)
    process = await stage.start("blocking_for_a_while", keepalive=keepalive)
    assert await stage.begun(process) == task
    async with stage.another():
        await stage.until_finished(1)
    assert await stage.attempts() == {task: attempts}


async def test_a_loop_that_is_blocked_for_good_is_said_to_be_and_its_lease_runs_out(stage: Stage) -> None:
    (task,) = await add_emails(stage.admin, 1)
    process = await stage.start("blocking", keepalive="thread", loop_stall=1)
    assert await stage.begun(process) == task
    async with stage.another():
        await stage.until_finished(1)
    assert await stage.attempts() == {task: 2}
    process.kill()
    told = (await process.stderr.read()).decode()
    assert told.count("the event loop is blocked: no turn for") == 1
    assert "in wait_in_the_loop" in told
    assert "is not kept alive: the event loop is blocked" in told


async def test_the_watchdog_is_started_again(stage: Stage) -> None:
    process = await stage.start("waiting", on_stuck="kill")
    await add_emails(stage.admin, 1)
    await stage.begun(process)
    first = await watchdog_of(process)
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(10):
        while await watchdog_of(process) == first:
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    assert await process.wait() == -signal.SIGKILL, "the second one knows the deadlines too"


async def watchdog_of(process: Process) -> int:
    async with asyncio.timeout(10):
        while True:
            for children in Path(f"/proc/{process.pid}/task").glob("*/children"):  # of each thread
                for pid in map(int, children.read_text().split()):
                    if b"watchdog_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
            await asyncio.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_runners_of_both_kinds_share_a_database_which_leaves_no_connection(stage: Stage) -> None:
    keys = await add_emails(stage.admin, 40)
    began: dict[int, int] = {}

    async def note(task: Any) -> None:
        began[task.key] = task.session_id
        await asyncio.sleep(0.02 if task.key in keys else 0.5)

    async with PostgresDatabase(stage.dsn, EMAILS) as emails:
        runners = [
            Runner(emails, each(note), Settings(**LEASE, keepalive=kind)) for kind in ("loop", "thread")
        ]
        async with runners[0], runners[1]:
            await stage.until_finished(len(keys))
            await asyncio.sleep(LEASE["lease_ttl"] + 0.5)  # both live on
            assert (
                await stage.admin.fetchval("SELECT count(*) FROM session_lock.session WHERE ended_at IS NULL")
                == 2
            )
            await add_emails(stage.admin, 2)
            await asyncio.sleep(
                0.3
            )  # both have one to drain, and no keepalive under way when they have ended
    assert len(set(began.values())) == 2
    async with asyncio.timeout(10):
        while await stage.admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()"
        ):
            await asyncio.sleep(0.02)
