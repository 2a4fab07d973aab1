"""docs/how-to/migrations.md: its env.py with Alembic's commands, its migration with Django's, and its files with psql and dbmate."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path
from textwrap import dedent

import asyncpg
import pytest

from session_lock import TaskTable
from session_lock.embedded import find_bin_dir
from session_lock.migrations import check
from tests.conftest import TestDatabase
from tests.docs.pages import Page

PAGE = Page("migrations.md")

MODELS = """
from datetime import datetime
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from session_lock import TaskTable

class Base(DeclarativeBase): ...

class Mail(Base):
    __tablename__ = "mail"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str]
    sent_at: Mapped[datetime | None]

mails = TaskTable.from_model(Mail, pending=Mail.sent_at.is_(None), finish={Mail.sent_at: func.now()}, columns=[Mail.address])
"""
TABLE = "CREATE TABLE mail (id serial PRIMARY KEY, address varchar NOT NULL, sent_at timestamp)"
MAILS = TaskTable(
    "mail", key="id", pending="sent_at IS NULL", finish='"sent_at" = now()', columns=("address",)
)


async def run(folder: Path, *command: str, status: int = 0, **env: str) -> str:
    """A program as in a shell, in a folder; what it printed."""
    path = f"{Path(sys.executable).parent}:{find_bin_dir()}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(folder), **env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == status, said.decode()
    return said.decode()


async def differences(database: TestDatabase, table: TaskTable) -> list[str]:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        return [str(each) for each in await check(connection, table) if not each.note]
    finally:
        await connection.close()


async def execute(database: TestDatabase, statement: str) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def schema(database: TestDatabase) -> str:
    """As it is dumped, but for the tool's own table."""
    said = await run(
        Path("/"), "pg_dump", "--schema-only", "--exclude-table=schema_migrations*", database.admin_dsn
    )
    return re.sub(r"(?m)^(\\(un)?restrict .*|--.*)\n", "", said)


async def sets(database: TestDatabase) -> list[str]:
    """The versions of all mappings that have functions."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        rows = await connection.fetch(
            "SELECT right(proname, 8) AS hash FROM pg_proc WHERE proname ~ '_[0-9a-f]{8}$'"
        )
        return sorted({row["hash"] for row in rows})
    finally:
        await connection.close()


def shell(number: int) -> list[list[str]]:
    """The commands of the page's block of shell."""
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```$", PAGE.text)
    return [re.findall(r'"[^"]*"|\S+', line) for line in blocks[number].splitlines()]


@pytest.mark.timeout(120)
async def test_alembic(database: TestDatabase, tmp_path: Path) -> None:
    await run(tmp_path, "alembic", "init", "alembic")
    ini = tmp_path / "alembic.ini"
    dsn = database.admin_dsn.replace("postgresql:", "postgresql+psycopg:").replace("%", "%%")
    ini.write_text(re.sub(r"(?m)^sqlalchemy.url = .*$", lambda _: f"sqlalchemy.url = {dsn}", ini.read_text()))
    (tmp_path / "models.py").write_text(MODELS)
    env, _ = PAGE.blocks
    (tmp_path / "alembic" / "env.py").write_text(env)
    for command in shell(0):
        said = await run(tmp_path, *command)
    assert "No new upgrade operations detected." in said
    assert await differences(database, MAILS) == []
    await run(tmp_path, "alembic", "downgrade", "base")


@pytest.mark.timeout(120)
async def test_django(database: TestDatabase, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "migrations").mkdir(parents=True)
    (shop / "__init__.py").touch()
    (shop / "migrations" / "__init__.py").touch()
    (shop / "models.py").write_text(
        dedent("""
            from django.db import models

            class Sale(models.Model):
                amount = models.IntegerField()
                done_at = models.DateTimeField(null=True)
            """)
    )
    (shop / "jobs.py").write_text(
        dedent("""
            from django.db.models import Q
            from django.db.models.functions import Now
            from session_lock import TaskTable
            from shop.models import Sale

            sales = TaskTable.from_model(Sale, pending=Q(done_at=None), finish={"done_at": Now()}, columns=["amount"])
            """)
    )
    (tmp_path / "settings.py").write_text(
        dedent("""
            import os
            from urllib.parse import unquote, urlsplit

            at = urlsplit(os.environ["DATABASE_URL"])
            DATABASES = {"default": {
                "ENGINE": "django.db.backends.postgresql", "NAME": at.path[1:], "USER": at.username,
                "PASSWORD": unquote(at.password), "HOST": at.hostname, "PORT": at.port,
            }}
            INSTALLED_APPS = ["shop"]
            DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
            """)
    )
    env = {"DJANGO_SETTINGS_MODULE": "settings", "DATABASE_URL": database.admin_dsn}
    django = [sys.executable, "-m", "django"]
    await run(tmp_path, *django, "makemigrations", "shop", **env)
    await run(tmp_path, *django, "migrate", **env)
    await execute(database, "INSERT INTO shop_sale (amount) VALUES (3)")
    before = await schema(database)
    _, migration = PAGE.blocks
    file = shop / "migrations" / "0002_tasks.py"

    file.write_text(migration.replace("    atomic = False", "    atomic = True"))
    said = await run(tmp_path, *django, "migrate", status=1, **env)
    assert re.search(r"SchemaError: .*shop_sale has rows, and to build its index", said)
    assert "Traceback" not in said
    assert "(Django: atomic = False in the class of the migration)" in said
    assert await schema(database) == before

    file.write_text(migration)
    said = await run(tmp_path, *django, "sqlmigrate", "shop", "0002", **env)
    assert "-- Install the task table shop_sale\n--\n-- THIS OPERATION CANNOT BE WRITTEN AS SQL" in said
    await run(tmp_path, *django, "migrate", **env)
    bin_dir = Path(sys.executable).parent
    said = await run(tmp_path, str(bin_dir / "session-lock"), "check", "shop.jobs:sales", **env)
    assert "is missing" not in said
    update = migration.replace(
        "            )\n        ),\n    ]", "            ),\n            update=True,\n        ),\n    ]"
    ).replace("0001_initial", "0002_tasks")
    (shop / "migrations" / "0003_again.py").write_text(update)
    await run(tmp_path, *django, "migrate", **env)
    await run(tmp_path, *django, "migrate", "shop", "0002", **env)
    await run(tmp_path, str(bin_dir / "session-lock"), "check", "shop.jobs:sales", **env)
    assert "No changes detected" in await run(tmp_path, *django, "makemigrations", "--check", **env)
    await run(tmp_path, *django, "migrate", "shop", "0001", **env)
    await execute(database, "DROP SCHEMA session_lock CASCADE")  # other mappings may share it, so it stays
    assert await schema(database) == before

    changed = update.replace('"done_at" IS NULL', '"done_at" IS NULL AND "amount" > 0')
    assert changed != update
    (shop / "migrations" / "0003_again.py").write_text(changed)
    await run(tmp_path, *django, "migrate", **env)
    await run(tmp_path, *django, "migrate", "shop", "0002", **env)
    assert len(await sets(database)) == 2  # instances of both may be at work
    await run(tmp_path, *django, "migrate", "shop", "0001", **env)
    assert await sets(database) == []
    await execute(database, "DROP SCHEMA session_lock CASCADE")
    assert await schema(database) == before
    (shop / "migrations" / "0003_again.py").write_text(update)
    squash = [*django, "squashmigrations", "shop", "0002", "--noinput"]
    await run(tmp_path, *squash, **env)
    (squashed,) = (shop / "migrations").glob("0001_squashed_*.py")
    assert "session_lock.contrib.django.InstallTaskTable(" in squashed.read_text()
    compile(squashed.read_text(), squashed, "exec")


@pytest.mark.timeout(120)
async def test_files_by_psql_and_by_dbmate(database: TestDatabase, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    await execute(database, TABLE)
    before = await schema(database)
    pairs, single = shell(1)
    for folder, command in (("by_psql", pairs), ("by_dbmate", single)):
        (tmp_path / folder).mkdir()
        command[command.index("migrations")] = folder
        await run(tmp_path, *command, DATABASE_URL=database.admin_dsn)

    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.admin_dsn, "-f"]
    for _ in range(2):  # and again: nothing changes
        for file in sorted((tmp_path / "by_psql").glob("*.up.sql")):
            await run(tmp_path, *psql, str(file))
        assert await differences(database, MAILS) == []
    for file in sorted((tmp_path / "by_psql").glob("*.down.sql"), reverse=True):
        await run(tmp_path, *psql, str(file))
    assert await schema(database) == before

    for file in sorted((tmp_path / "by_psql").glob("*.up.sql")):
        await run(tmp_path, *psql, str(file))
    (tmp_path / "models.py").write_text(
        MODELS.replace("pending=Mail", "pending=Mail.address.is_not(None) & Mail")
    )
    pairs[pairs.index("12")] = "20"
    written = (await run(tmp_path, *pairs, DATABASE_URL=database.admin_dsn)).split()
    for name in written:
        if name.endswith(".up.sql"):
            await run(tmp_path, *psql, name)
    ways_back = sorted((tmp_path / "by_psql").glob("*.down.sql"), reverse=True)
    assert len(ways_back) == 3
    for number, file in enumerate(ways_back):
        await run(tmp_path, *psql, str(file))
        if number == 0:  # that of the change
            assert len(await sets(database)) == 2
            assert await differences(database, MAILS) == []
    assert await schema(database) == before
    single[single.index("20261129120000")] = "20261130120000"
    for file in sorted((tmp_path / "by_psql").glob("*.up.sql")):
        await run(tmp_path, *psql, str(file))
    (tmp_path / "models.py").write_text(MODELS.replace("pending=Mail", "pending=Mail.id.is_not(None) & Mail"))
    (tmp_path / "by_dbmate_changed").mkdir()
    single[single.index("by_dbmate")] = "by_dbmate_changed"
    await run(tmp_path, *single, DATABASE_URL=database.admin_dsn)
    for file in (tmp_path / "by_dbmate_changed").iterdir():
        assert "DROP" not in file.read_text().partition("-- migrate:down\n")[2]
    for file in ways_back:
        await run(tmp_path, *psql, str(file))
    assert await schema(database) == before

    if shutil.which("dbmate") is None:
        pytest.skip("there is no dbmate: npm install dbmate")
    dbmate = [
        "dbmate",
        "--url",
        f"{database.admin_dsn}?sslmode=disable",
        "-d",
        "by_dbmate",
        "--no-dump-schema",
    ]
    await run(tmp_path, *dbmate, "up")
    assert await differences(database, MAILS) == []
    for _ in (tmp_path / "by_dbmate").iterdir():
        await run(tmp_path, *dbmate, "rollback")
    assert await schema(database) == before
