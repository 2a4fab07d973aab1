"""docs/how-to/upgrade.md, with a version that does not exist yet: installed beside instances that work, which are replaced by it then."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from session_lock.embedded import find_bin_dir
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
        yield Runner(database, each(send), Settings(start_jitter=0, poll_interval=0.05))
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
    following: Path
    admin: asyncpg.Connection
    env: dict[str, str]

    @property
    def dsn(self) -> str:
        return self.env["DATABASE_URL"]

    def environment(self, *, new: bool) -> dict[str, str]:
        paths = [str(self.folder), *([str(self.following)] if new else [str(ROOT)])]
        return self.env | {"PYTHONPATH": os.pathsep.join(paths)}

    async def run(self, command: str, *, new: bool) -> tuple[int, str]:
        words = command.split()
        assert words[0] == "session-lock"
        return await self.program(*COMMAND, *words[1:], new=new)

    async def must(self, *words: str, **env: str) -> str:
        """Beside the new version."""
        code, said = await self.program(*words, new=True, **env)
        assert code == 0, said
        return said

    async def program(self, *words: str, new: bool, **env: str) -> tuple[int, str]:
        """Beside what is fed, so that it has a load to do with."""
        process = await asyncio.create_subprocess_exec(
            *words, cwd=self.folder, env=self.environment(new=new) | env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

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


@pytest.fixture(scope="session")
def following(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_next(tmp_path_factory.mktemp("next"))


@pytest.fixture
async def place(database, tmp_path: Path, following: Path) -> AsyncIterator[Place]:
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(
        "CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text NOT NULL, sent_at timestamptz)"
    )
    (tmp_path / "jobs.py").write_text(JOBS)
    yield Place(tmp_path, following, admin, {**os.environ, "DATABASE_URL": database.admin_dsn})
    await admin.close()


# Step 3 by each of the tools that pages name: what the new version renders, or its operation, run by the tool itself


async def by_the_command(place: Place, install: str) -> None:
    code, said = await place.run(install, new=True)
    assert code == 0, said


async def by_psql(place: Place, _install: str) -> None:
    """What `up`, `index` and `always` print, each as a file."""
    psql = str(find_bin_dir() / "psql")
    for kind in ("up", "index", "always"):
        grants = f" --grant-to {APP_ROLE}" if kind == "always" else ""
        code, said = await place.run(f"session-lock sql {kind} jobs:mails{grants}", new=True)
        assert code == 0, said
        file = place.folder / f"{kind}.sql"
        file.write_text(said)
        await place.must(psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", place.dsn, "-f", str(file))


async def by_dbmate(place: Place, _install: str) -> None:
    """The files of both versions, one after the other: those of the second are more migrations."""
    (place.folder / "migrations").mkdir()
    for start, new in ((20261129120000, False), (20261130120000, True)):
        copy = f"session-lock sql copy migrations --start {start} --dbmate --grant-to {APP_ROLE} jobs:mails"
        code, said = await place.run(copy, new=new)
        assert code == 0, said
        url = f"{place.dsn}?sslmode=disable"
        await place.must("dbmate", "--url", url, "-d", "migrations", "--no-dump-schema", "up")


async def by_alembic(place: Place, _install: str) -> None:
    """Autogenerate finds what the newer library wants, and makes the migration."""
    (place.folder / "env.py").write_text(ALEMBIC_ENV)
    (place.folder / "script.py.mako").write_text(ALEMBIC_REVISION)
    (place.folder / "versions").mkdir()
    url = place.dsn.replace("postgresql:", "postgresql+psycopg:").replace("%", "%%")
    ini = f"[alembic]\nscript_location = {place.folder}\nsqlalchemy.url = {url}\n"
    (place.folder / "alembic.ini").write_text(ini)
    alembic = [sys.executable, "-m", "alembic"]
    await place.must(*alembic, "revision", "--autogenerate", "-m", "upgraded")
    (file,) = (place.folder / "versions").glob("*.py")
    assert "op.install_task_table(" in file.read_text()
    await place.must(*alembic, "upgrade", "head")
    assert "No new upgrade operations detected" in await place.must(*alembic, "check")


async def by_django(place: Place, _install: str) -> None:
    migrations = place.folder / "shop" / "migrations"
    migrations.mkdir(parents=True)
    for folder in (migrations, migrations.parent):
        (folder / "__init__.py").touch()
    (migrations / "0001_upgraded.py").write_text(DJANGO_MIGRATION)
    (place.folder / "settings.py").write_text(DJANGO_SETTINGS)
    migrate = [sys.executable, "-m", "django", "migrate"]
    for target in ([], ["shop", "zero"], []):  # the way back from an update leaves all as it is
        await place.must(*migrate, *target, DJANGO_SETTINGS_MODULE="settings")


TOOLS = [by_the_command, by_psql, by_dbmate, by_alembic, by_django]

ALEMBIC_ENV = f"""
from alembic import context
from jobs import mails
from sqlalchemy import MetaData, create_engine
from session_lock.contrib.alembic import with_task_tables

metadata = with_task_tables(MetaData(), mails, grant_to={APP_ROLE!r})
engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(
        connection=connection, target_metadata=metadata,
        include_name=lambda name, kind, _: kind != "table" or name not in ("mail", "audit"),
    )
    with context.begin_transaction():
        context.run_migrations()
"""
ALEMBIC_REVISION = """
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
"""
DJANGO_MIGRATION = f"""
from django.db import migrations
from jobs import mails
from session_lock.contrib.django import InstallTaskTable

class Migration(migrations.Migration):
    atomic = False
    operations = [InstallTaskTable(mails, update=True, grant_to={APP_ROLE!r})]
"""
DJANGO_SETTINGS = """
import os
from urllib.parse import unquote, urlsplit

at = urlsplit(os.environ["DATABASE_URL"])
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": at.path[1:], "USER": at.username,
    "PASSWORD": unquote(at.password), "HOST": at.hostname, "PORT": at.port,
}}
INSTALLED_APPS = ["shop"]
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("bring", TOOLS)
async def test_two_versions_work_side_by_side_while_one_replaces_the_other(
    place: Place, bring: Callable[[Place, str], Awaitable[None]]
) -> None:
    if bring is by_dbmate and shutil.which("dbmate") is None:
        pytest.skip("there is no dbmate: npm install dbmate")
    page = Page("upgrade.md")
    commands = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```$", page.text)
    check, install, prune = (each.strip().replace("myservice", APP_ROLE) for each in commands)
    assert (await place.run(install, new=False))[0] == 0
    await place.admin.execute(AUDIT)
    processes = [await place.start(new=False)]
    feeding = asyncio.create_task(place.feed())
    try:
        await until(lambda: place.begun(1), "the old one does not start")

        if bring is by_the_command:
            await the_new_one_does_not_start_yet(place, page, check)
        before = await place.admin.fetchval("SELECT count(*) FROM audit")
        await bring(place, install)
        assert not feeding.done()
        assert await place.admin.fetchval("SELECT count(*) FROM audit") > before, "nothing was done meanwhile"
        assert (await place.run(check, new=True))[0] == 0
        if bring is by_the_command:
            await the_old_one_leaves_it_alone(place, check, install)
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
    assert (await place.run(prune, new=True))[0] == 0


async def the_new_one_does_not_start_yet(place: Place, page: Page, check: str) -> None:
    code, said = await place.run("session-lock run jobs:runner", new=True)
    wanted = f"is of version {SCHEMA_VERSION}, this library needs {NEXT}; run: session-lock install "
    assert (code, wanted in said) == (2, True), said
    assert wanted.split(";")[0].replace(f"{SCHEMA_VERSION},", "2,").replace(f"{NEXT}", "3") in page.text

    code, said = await place.run(check, new=True)
    assert code == 1, said
    assert f"has version {SCHEMA_VERSION}, older than this library's {NEXT}" in said


async def the_old_one_leaves_it_alone(place: Place, check: str, install: str) -> None:
    code, said = await place.run(check, new=False)
    assert (code, f"version {NEXT}, newer than this library's {SCHEMA_VERSION}" in said) == (0, True), said
    assert (await place.run(install, new=False))[0] == 0  # as an old instance might that starts late


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
