"""docs/how-to/upgrade.md, with a version that does not exist yet: installed beside instances that work, which are replaced by it then."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from session_lock.schema import SCHEMA_VERSION
from tests.conftest import APP_ROLE
from tests.contrib.service import until
from tests.docs.examples import ROOT
from tests.docs.pages import Page

JOBS = """
import os
from contextlib import asynccontextmanager

from session_lock import PostgresDatabase, Runner, Settings, TaskTable, each

mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])


async def send(task):
    pass


@asynccontextmanager
async def runner():
    async with PostgresDatabase(os.environ["DATABASE_URL"], mails) as database:
        yield Runner(database, each(send), Settings(start_jitter=0))
"""
NEXT = SCHEMA_VERSION + 1

AUDIT = """
CREATE TABLE audit (key bigint NOT NULL, session_id bigint, number bigint GENERATED ALWAYS AS IDENTITY);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql
  AS 'BEGIN INSERT INTO public.audit (key, session_id) VALUES (NEW.id, OLD.session_id); RETURN NULL; END';
CREATE TRIGGER audit AFTER UPDATE ON mail FOR EACH ROW
  WHEN (OLD.sent_at IS NULL AND NEW.sent_at IS NOT NULL) EXECUTE FUNCTION audit();
"""
"""Who has finished what, and how often."""


def make_next(folder: Path) -> Path:
    """The library as it may be one day: of another schema version, with another body of a function of each kind."""
    shutil.copytree(
        ROOT / "session_lock", folder / "session_lock", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "sql", folder / "session_lock" / "sql")
    for path, old, new in [
        ("schema.py", f"SCHEMA_VERSION = {SCHEMA_VERSION}", f"SCHEMA_VERSION = {NEXT}"),
        ("sql/sessions.alwaysup.sql", f"SELECT {SCHEMA_VERSION}, 1 ", f"SELECT {NEXT}, 1 "),
        ("sql/sessions.alwaysup.sql", "v_now := session_lock.clock();", "v_now := session_lock.clock() + interval '0';"),
        ("sql/tasks.alwaysup.sql", "walked     double precision;", "walked     double precision; of_the_next boolean;"),
    ]:  # fmt: skip
        file = folder / "session_lock" / path
        text = file.read_text()
        assert old in text, (path, old)
        file.write_text(text.replace(old, new))
    return folder


COMMAND = [sys.executable, "-c", "import sys; from session_lock.cli import main; sys.exit(main())"]
"""The command of whichever version is found first."""


@dataclass
class Place:
    """A folder with the user's module, and both versions of the library."""

    folder: Path
    admin: asyncpg.Connection
    env: dict[str, str]

    def environment(self, *, new: bool) -> dict[str, str]:
        paths = [str(self.folder), *([str(self.folder / "next")] if new else [str(ROOT)])]
        return self.env | {"PYTHONPATH": os.pathsep.join(paths)}

    def run(self, command: str, *, new: bool) -> tuple[int, str]:
        words = command.split()
        assert words[0] == "session-lock"
        done = subprocess.run(
            [*COMMAND, *words[1:]], cwd=self.folder, env=self.environment(new=new),
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    async def start(self, *, new: bool) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *COMMAND, "run", "jobs:runner", cwd=self.folder, env=self.environment(new=new)
        )  # fmt: skip

    async def begun(self, count: int) -> bool:
        return await self.admin.fetchval("SELECT count(*) FROM session_lock.session") >= count

    async def feed(self) -> None:
        """For ever, on a connection of its own."""
        other = await asyncpg.connect(self.env["DATABASE_URL"])
        try:
            while True:
                await other.execute("INSERT INTO mail (address) SELECT 'a' FROM generate_series(1, 20)")
                await asyncio.sleep(0.05)
        finally:
            other.terminate()


@pytest.fixture
async def place(database, tmp_path: Path) -> AsyncIterator[Place]:
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(
        "CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text NOT NULL, sent_at timestamptz)"
    )
    (tmp_path / "jobs.py").write_text(JOBS)
    make_next(tmp_path / "next")
    yield Place(tmp_path, admin, {**os.environ, "DATABASE_URL": database.admin_dsn})
    await admin.close()


@pytest.mark.timeout(120)
async def test_two_versions_work_side_by_side_while_one_replaces_the_other(place: Place) -> None:
    page = Page("upgrade.md")
    commands = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```$", page.text)
    check, install, prune = (each.strip().replace("myservice", APP_ROLE) for each in commands)
    assert place.run(install, new=False)[0] == 0
    await place.admin.execute(AUDIT)
    processes = [await place.start(new=False)]
    feeding = asyncio.create_task(place.feed())
    try:
        await until(lambda: place.begun(1), "the old one does not start")

        code, said = place.run("session-lock run jobs:runner", new=True)
        wanted = f"is of version {SCHEMA_VERSION}, this library needs {NEXT}; run: session-lock install "
        assert (code, wanted in said) == (2, True), said
        assert wanted.split(";")[0].replace(f"{SCHEMA_VERSION},", "2,").replace(f"{NEXT}", "3") in page.text

        code, said = place.run(check, new=True)
        assert code == 1, said
        assert f"has version {SCHEMA_VERSION}, older than this library's {NEXT}" in said
        code, said = place.run(install, new=True)
        assert code == 0, said
        assert place.run(check, new=True)[0] == 0
        code, said = place.run(check, new=False)
        assert (code, f"version {NEXT}, newer than this library's {SCHEMA_VERSION}" in said) == (0, True), (
            said
        )
        assert place.run(install, new=False)[0] == 0  # as an old instance might that starts late
        assert (await place.admin.fetchrow("SELECT * FROM session_lock.schema_version()"))["version"] == NEXT

        bodies = await place.admin.fetch("SELECT prosrc FROM pg_proc WHERE proname LIKE 'get_work_mail%'")
        assert ["of_the_next" in row["prosrc"] for row in bodies] == [True]

        processes.append(await place.start(new=True))
        await until(lambda: place.begun(2), "the new one does not start")
        await until(lambda: works(place, 2), "they do not work side by side")
        await stop(processes[0])
        assert not feeding.done()
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

        async def all_finished() -> bool:
            return not await place.admin.fetchval("SELECT EXISTS (SELECT FROM mail WHERE sent_at IS NULL)")

        await until(all_finished, "not all is done")
        await stop(processes[1])
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert await place.admin.fetch("SELECT key FROM audit GROUP BY key HAVING count(*) > 1") == []
    tasks, finished, twice = await place.admin.fetchrow(
        "SELECT count(*), (SELECT count(DISTINCT key) FROM audit), count(*) FILTER (WHERE attempts <> 1) FROM mail"
    )
    assert (finished, twice) == (tasks, 0)
    assert await place.admin.fetchval("SELECT count(*) FROM session_lock.failure") == 0
    assert place.run(prune, new=True)[0] == 0


async def works(place: Place, count: int) -> bool:
    """So many sessions have finished some of the last ones."""
    return (
        await place.admin.fetchval(
            "SELECT count(DISTINCT a.session_id) FROM (SELECT session_id FROM audit ORDER BY number DESC LIMIT 200) AS a"
        )
        == count
    )


async def stop(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        assert await process.wait() in {0, 143}
