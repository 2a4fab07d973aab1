"""`session-lock run`: a Runner as a process, what ends it, and what it is refused for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from session_lock.migrations import install
from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.service import until
from tests.support import EMAIL_TABLE, EMAILS, add_emails

MODULE = """
import asyncio, os
from contextlib import asynccontextmanager
from session_lock import PostgresDatabase, Runner, RunnerGroup, Settings, each
from tests.support import EMAILS

async def send(task):
    try:
        await asyncio.sleep(float(os.environ.get("LENGTH", 0)))
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

runner = Runner(PostgresDatabase(os.environ["DATABASE_URL"], EMAILS), each(send), Settings(start_jitter=0))
group = RunnerGroup(runner)

def plain():
    return runner

@asynccontextmanager
async def number():
    yield 5

called = number()

def for_app(app):
    return runner
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(EMAIL_TABLE)
    yield connection
    await connection.close()


@contextmanager
def running(
    database: TestDatabase, folder: Path, name: str, module: str = MODULE, **more: str
) -> Iterator[subprocess.Popen[str]]:
    (folder / "running.py").write_text(module)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DATABASE_URL": database.app_dsn, **more}
    command = [Path(sys.executable).with_name("session-lock"), "run", name]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


async def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=30)
    return process.returncode, out, err


@pytest.mark.fault("P2")
@pytest.mark.parametrize(
    ("name", "number", "status"), [("plain", signal.SIGTERM, 0), ("group", signal.SIGINT, 130)]
)
async def test_a_signal_is_a_graceful_stop(database, admin, tmp_path, name, number, status):
    await install(admin, EMAILS, grant_to=APP_ROLE)
    await add_emails(admin, 3)

    async def all_begun() -> bool:
        return await admin.fetchval("SELECT count(*) = 3 FROM email WHERE session_id IS NOT NULL")

    with running(database, tmp_path, f"running:{name}", LENGTH="1.5") as process:
        await until(all_begun, "the tasks are not begun")
        process.send_signal(number)
        code, out, err = await end_of(process)
    assert (code, out) == (status, "")
    assert "Traceback" not in err
    assert await admin.fetchval("SELECT count(*) FROM email WHERE sent_at IS NOT NULL") == 3
    assert await admin.fetchval("SELECT ended_at < expires_at FROM session_lock.session")


@pytest.mark.fault("P2")
async def test_a_second_signal_cancels_what_runs(database, admin, tmp_path):
    await install(admin, EMAILS, grant_to=APP_ROLE)
    await add_emails(admin, 1)

    async def begun() -> bool:
        return await admin.fetchval("SELECT session_id IS NOT NULL FROM email")

    async def draining() -> bool:
        return await admin.fetchval("SELECT draining FROM session_lock.session")

    with running(database, tmp_path, "running:runner", LENGTH="100") as process:
        await until(begun, "the task is not begun")
        process.send_signal(signal.SIGTERM)
        await until(draining, "it does not drain")
        process.send_signal(signal.SIGTERM)
        code, out, _ = await end_of(process)
    assert (code, out) == (0, "cancelled\n")
    assert await admin.fetchval("SELECT session_id IS NULL AND sent_at IS NULL FROM email")


UVLOOP = """
import asyncio
__version__ = "9.9"

def new_event_loop():
    print("a loop of uvloop's", flush=True)
    return asyncio.new_event_loop()
"""


async def test_the_event_loop_of_uvloop_is_used_where_it_is_installed_and_the_log_says_so(
    database, admin, tmp_path
):
    await install(admin, EMAILS, grant_to=APP_ROLE)
    await add_emails(admin, 1)
    (tmp_path / "uvloop.py").write_text(UVLOOP)

    async def finished() -> bool:
        return await admin.fetchval("SELECT sent_at IS NOT NULL FROM email")

    with running(database, tmp_path, "running:runner", PYTHONPATH=f"{tmp_path}:{ROOT}") as process:
        await until(finished, "the task is not finished")
        process.send_signal(signal.SIGTERM)
        code, out, err = await end_of(process)
    assert (code, out) == (0, "a loop of uvloop's\n")
    assert "INFO:session_lock.cli:the event loop is that of uvloop 9.9" in err


POLICY = """
import asyncio

class Policy(asyncio.DefaultEventLoopPolicy):
    pass

asyncio.set_event_loop_policy(Policy())
"""


@pytest.mark.parametrize(
    ("uvloop", "module", "said"),
    [
        (
            "raise AttributeError('too new a Python')", "",
            "WARNING:session_lock.cli:the event loop is not that of uvloop, which fails: AttributeError: too new a Python",
        ),
        (UVLOOP, POLICY, ""),
    ],
    ids=["fails", "a policy"],
)  # fmt: skip
async def test_the_event_loop_is_that_of_asyncio_where_uvloop_fails_or_the_module_has_a_policy(
    database, admin, tmp_path, uvloop, module, said
):
    await install(admin, EMAILS, grant_to=APP_ROLE)
    await add_emails(admin, 1)
    (tmp_path / "uvloop.py").write_text(uvloop)

    async def finished() -> bool:
        return await admin.fetchval("SELECT sent_at IS NOT NULL FROM email")

    path = f"{tmp_path}:{ROOT}"
    with running(database, tmp_path, "running:runner", MODULE + module, PYTHONPATH=path) as process:
        await until(finished, "the task is not finished")
        process.send_signal(signal.SIGTERM)
        code, out, err = await end_of(process)
    assert (code, out) == (0, "")
    assert said in err
    assert "is that of uvloop" not in err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("running", "'running' does not name a Runner: write MODULE:ATTR"),
        ("running:ruhner", "running has no 'ruhner': write one there: a Runner, a RunnerGroup, or a function with"),
        ("running:EMAILS", "running:EMAILS is to be a Runner, a RunnerGroup, or a function with @asynccontextmanager that yields one, not TaskTable"),
        ("running:called", "that yields one, not what a call of that returns, which serves once: leave its parentheses out"),
        ("running:for_app", "not for_app, which is to be called without arguments and cannot be (missing a required argument: 'app')"),
        ("running:number", "running:number yields a int: yield a Runner or a RunnerGroup"),
        ("running:runner", "session-lock install"),
    ],
)  # fmt: skip
async def test_what_cannot_run_is_said_in_a_sentence(database, admin, tmp_path, name, expected):
    with running(database, tmp_path, name) as process:
        code, _, err = await end_of(process)
    assert code == 2
    (sentence,) = [line for line in err.splitlines() if line.startswith("session-lock: ")]
    assert expected in sentence
    assert "Traceback" not in err
