"""What `import session_lock` brings along."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import asyncpg

from tests.docs.examples import ROOT
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping


def test_it_brings_no_framework_along() -> None:
    code = "import sys, session_lock, session_lock.testing; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    extras = {"rich", "textual", "starlette", "uvicorn", "fastapi", "aiohttp", "litestar", "django", "sqlalchemy", "alembic", "psycopg", "pytest", "cronsim"}  # fmt: skip
    assert extras & set(said.split()) == set()


AT_ITS_END = """
import asyncio, sys
from session_lock import PostgresDatabase, Runner, Settings, TaskTable, each
from tests.support import EMAILS

async def main():
    begun = asyncio.Event()
    async def send(task):
        begun.set()
        await asyncio.sleep(0.2)
    async with PostgresDatabase(sys.argv[1], EMAILS) as database:
        running = asyncio.create_task(Runner(database, each(send), Settings(start_jitter=0)).run())
        await begun.wait()
        before = set(sys.modules)
        running.cancel()
        await asyncio.wait({running})
    print(*sorted(set(sys.modules) - before))

asyncio.run(main())
"""


async def test_nothing_is_imported_at_the_end_of_a_runner(database: Any) -> None:
    """It may have been upgraded meanwhile: a half of one version does not go with a half of another."""
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS)
        await add_emails(admin, 1)
    finally:
        await admin.close()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AT_ITS_END, database.admin_dsn, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, said.split()) == (0, [])
