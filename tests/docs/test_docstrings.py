"""Every public name has a docstring with an example, and each example runs: on a PostgreSQL, or in virtual time where it is of the kit for tests.

What an example takes for granted is in `given`. What it defines is used, too: a tasker does tasks, a duty is run, and so is a migration.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import runpy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import alembic
import asyncpg
import psycopg
import pytest
import sqlalchemy
from aiohttp import web
from alembic.migration import MigrationContext
from alembic.operations import Operations
from django.core.asgi import get_asgi_application
from django.db import migrations, models
from django.db.models import Q
from django.db.models.functions import Now
from fastapi import FastAPI
from litestar import Litestar
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.routing import Mount

import session_lock.migrations
from session_lock import Duties, Duty, PostgresDatabase, Runner, Settings, TaskTable, each, every, queue
from session_lock.duties import DUTIES
from session_lock.migrations import install
from session_lock.planning import DutyDatabase
from session_lock.testing import Faults, MemoryDatabase, run_until_idle, run_virtual
from tests.conftest import TestDatabase, fresh_database
from tests.contrib.kinds import django_connection, set_up_django
from tests.docs.examples import ROOT
from tests.support import connected

MODULES = [
    module for modules in runpy.run_path(str(ROOT / "docs" / "site.py"))["API"].values() for module in modules
]
"""Those of the API's page."""

KIT = "session_lock.testing"

GIVEN_BY = {
    "Call": ".calls",
    "Database": "database.get_work(",
    "DatabaseFinder": "def find()",
    "Difference": "check(",
    "Enqueued": "enqueue(",
    "Finding": ".doctor()",
    "GroupHealth": "group.health()",
    "Health": "runner.health()",
    "Instance": ".instance(",
    "MemoryFailure": ".failures",
    "MemorySession": ".sessions",
    "MemoryTask": "MemoryDatabase(",
    "Pending": "pending_summary(",
    "Schedule": "every(",
    "SessionShare": "shares(",
    "StatusPage": "status_app(",
    "Tasker": "def send_all(batch)",
    "Why": ".why(",
}
"""Of what nobody makes himself: what the example has it from."""

MAILS = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])
TABLES = """
CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, sent_at timestamptz);
INSERT INTO mail (address) VALUES ('ann@example.org'), ('bob@example.com');
CREATE TABLE receipt (mail bigint PRIMARY KEY);
CREATE TABLE account (address text PRIMARY KEY);
CREATE TABLE report (due_at timestamptz PRIMARY KEY);
"""

# What there is ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Public:
    module: str
    name: str

    @property
    def value(self) -> Any:
        return getattr(import_module(self.module), self.name)

    @property
    def docstring(self) -> str:
        documented = inspect.isclass(self.value) or inspect.isroutine(self.value)
        return inspect.cleandoc((self.value.__doc__ if documented else below(self.module, self.name)) or "")

    @property
    def examples(self) -> list[str]:
        return re.findall(r"^```python\n(.*?)^```$", self.docstring, flags=re.MULTILINE | re.DOTALL)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Method(Public):
    """One that makes what its class is for."""

    @property
    def value(self) -> Any:
        owner, _, method = self.name.partition(".")
        return getattr(getattr(import_module(self.module), owner), method).__func__


def below(module: str, name: str) -> str:
    """The text below an alias or a constant, where that is assigned."""
    for line in inspect.getsource(import_module(module)).splitlines():
        if (found := re.match(rf"from (session_lock\S*) import .*\b{name}\b", line)) is not None:
            return below(found[1], name)
    body = ast.parse(inspect.getsource(import_module(module))).body
    for assigned, text in zip(body, body[1:], strict=False):
        targets = (
            assigned.targets if isinstance(assigned, ast.Assign) else [getattr(assigned, "target", None)]
        )
        if name in (getattr(target, "id", None) for target in targets) and isinstance(text, ast.Expr):
            return ast.literal_eval(text.value)
    return ""


def names_of(module: str) -> list[str]:
    return import_module(module).__all__


PUBLIC = [Public(module, name) for module in MODULES for name in names_of(module)]
PUBLIC.append(Method("session_lock", "TaskTable.from_model"))
ALL = [(public, code) for public in PUBLIC for code in public.examples]
IN_VIRTUAL_TIME = [each for each in ALL if each[0].module == KIT]
ON_A_DATABASE = [each for each in ALL if each[0].module != KIT]


@pytest.mark.parametrize("public", PUBLIC, ids=str)
def test_it_has_a_docstring_with_an_example(public: Public) -> None:
    prose = re.sub(r"```.*?```", "", public.docstring, flags=re.DOTALL)
    assert len(prose.split()) >= 4, "it does not say what it is"
    assert public.examples, "it has no example"
    assert not re.search(r"\n\n {4}\S", prose), "code that is only indented is shown, and not run"
    for code in public.examples:
        shown_by = GIVEN_BY.get(public.name, public.name.rpartition(".")[2])
        if public.module == "session_lock.contrib.alembic":
            shown_by = re.sub(r"(?<!^)(?=[A-Z])", "_", shown_by).lower()  # as its operations are called
        assert shown_by in code, "the example is of something else"
        assert max(map(len, code.splitlines())) <= 130


@pytest.mark.parametrize("public", [each for each in PUBLIC if inspect.isclass(each.value)], ids=str)
def test_each_of_its_methods_says_what_it_does(public: Public) -> None:
    """The verbs of a database are told by the protocol, and what asyncio asks of a loop is told by asyncio."""
    told_elsewhere = {
        name for name in dir(DutyDatabase) if getattr(getattr(DutyDatabase, name), "__doc__", None)
    }
    told_elsewhere |= set(dir(asyncio.AbstractEventLoop))
    silent = []
    for name in set(dir(public.value)) - told_elsewhere:
        member = inspect.getattr_static(public.value, name)
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        ours = inspect.isfunction(function) and function.__module__.startswith("session_lock")
        if ours and not name.startswith("_") and not inspect.getdoc(getattr(public.value, name)):
            silent.append(name)
    assert silent == []


def test_no_module_is_passed_over() -> None:
    folder = Path(session_lock.__path__[0], "contrib")
    found = {path.stem for path in folder.iterdir()} - {
        "__init__",
        "__pycache__",
        "commands",
        "probing",
        "running",
    }
    assert {f"session_lock.contrib.{name}" for name in found} <= set(MODULES)


# They run --------------------------------------------------------------------------------------------------


async def send(task: Any) -> None:
    print("sent to", task.data)


async def report(task: Any) -> None:
    print("the report of", task.data.due_at)


async def serve() -> None:
    await asyncio.sleep(0.1)


class Base(DeclarativeBase):
    pass


class Mail(Base):
    __tablename__ = "mail"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str]
    sent_at: Mapped[datetime | None]


@cache  # Django takes a model once
def letter() -> type[models.Model]:
    set_up_django()

    class Letter(models.Model):
        sent_at = models.DateTimeField(null=True)

        class Meta:
            app_label = "docstrings"

        def __str__(self) -> str:
            return f"letter {self.pk}"

    return Letter


def given(public: Public) -> dict[str, Any]:
    """All that is public, what is imported everywhere, and what a reader has of his own."""
    names: dict[str, Any] = {"__name__": "example"}
    for module in ("session_lock.migrations", KIT, "session_lock", public.module):
        names |= {name: getattr(import_module(module), name) for name in names_of(module)}
    own = {
        "send": send,
        "welcome": send,
        "report": report,
        "ping": report,
        "serve": serve,
        "mails": MAILS,
        "jobs": queue("jobs"),
    }
    layers = {
        "Base": Base,
        "Mail": Mail,
        "Letter": letter(),
        "Q": Q,
        "Now": Now,
        "func": sqlalchemy.func,
        "migrations": migrations,
    }
    frameworks = {
        "web": web,
        "FastAPI": FastAPI,
        "Litestar": Litestar,
        "Starlette": Starlette,
        "Mount": Mount,
        "get_asgi_application": get_asgi_application,
        "op": alembic.op,
    }
    imports = {"asyncio": asyncio, "datetime": datetime, "timedelta": timedelta, "UTC": UTC, "psycopg": psycopg, "asynccontextmanager": asynccontextmanager}  # fmt: skip
    return {**names, **own, **layers, **frameworks, **imports, public.name: public.value}


async def run(code: str, names: dict[str, Any]) -> None:
    compiled = compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if asyncio.iscoroutine(running := eval(compiled, names)):
        await running


def awaits(code: str) -> bool:
    compiled = compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return bool(compiled.co_flags & inspect.CO_COROUTINE)


@pytest.mark.parametrize(
    ("public", "code"), IN_VIRTUAL_TIME, ids=[str(public) for public, _ in IN_VIRTUAL_TIME]
)
def test_it_runs_in_virtual_time(public: Public, code: str) -> None:
    names = given(public) | {"make_runner": lambda database: Runner(database, each(send))}
    names["faults"] = Faults(MemoryDatabase({1: "ann@example.org"}))
    if awaits(code):
        run_virtual(run(code, names))
    else:
        exec(code, names)
    if names["send"] is not send:
        mails = MemoryDatabase({1: {"address": "ann@example.org"}})
        assert run_virtual(run_until_idle(mails, each(names["send"]))) == 1
        assert mails.finished == [1]


@pytest.fixture(scope="session")
async def installed(server_dsn: str, template: str) -> AsyncIterator[str]:
    """The name of a database with tables and mappings, to be copied for each example."""
    async with fresh_database(server_dsn, template) as made:
        async with connected(made.admin_dsn) as connection:
            await connection.execute(TABLES)
            for table in (MAILS, queue("jobs"), DUTIES):
                await install(connection, table)
        yield made.name


@pytest.fixture
async def mailing(server_dsn: str, installed: str) -> AsyncIterator[TestDatabase]:
    async with fresh_database(server_dsn, installed) as fresh:
        yield fresh


@pytest.mark.parametrize(("public", "code"), ON_A_DATABASE, ids=[str(public) for public, _ in ON_A_DATABASE])
async def test_it_runs_on_a_database(mailing: TestDatabase, public: Public, code: str) -> None:
    dsn = mailing.admin_dsn
    async with (
        connected(dsn) as connection,
        asyncpg.create_pool(dsn, min_size=1) as pool,
        PostgresDatabase(dsn, MAILS) as database,
    ):
        names = given(public) | {"dsn": dsn, "connection": connection, "pool": pool, "database": database}
        names |= {"shards": {"eu": database}, "runner": Runner(database, each(send))}
        if "decode=" in code:
            names["Mail"] = dict
        await run(code, names)
        await use(names, dsn)


async def use(names: dict[str, Any], dsn: str) -> None:
    """What the example has defined."""
    quick, database, connection = (
        Settings(retry=session_lock.Retry(delay=0, max_attempts=1)),
        names["database"],
        names["connection"],
    )
    if names["send"] is not send:
        with django_connection(dsn):
            assert await run_until_idle(database, each(names["send"]), quick) == 2
        assert (
            await connection.fetchval("SELECT count(*) FROM session_lock.failure WHERE error !~ 'no address'")
            == 0
        )
    if "send_all" in names:
        assert await run_until_idle(database, names["send_all"], quick) == 2
        assert await connection.fetchval("SELECT count(*) FROM mail WHERE sent_at IS NULL") == 0
    if names["report"] is not report:
        await done_once(dsn, names["report"], connection)
    if "find" in names:
        assert await names["find"]() is database
    if names["cancel"] is not session_lock.migrations.cancel:
        assert await names["cancel"](database, 4711) == "unknown"
    for name in {"upgrade", "downgrade"} & names.keys():
        await connection.execute("TRUNCATE mail")
        await asyncio.to_thread(migrate, names[name], dsn)
    if "running" in names:
        async with names["running"]():
            await serve()


async def done_once(dsn: str, function: Callable[..., Any], connection: asyncpg.Connection) -> None:
    done = "SELECT EXISTS (SELECT FROM session_lock.duty_run WHERE finished_at IS NOT NULL)"
    async with Duties(dsn, Duty("of the example", every(1), function), settings=Settings(start_jitter=0)):
        async with asyncio.timeout(20):
            while not await connection.fetchval(done):
                await asyncio.sleep(0.05)


def migrate(step: Callable[[], None], dsn: str) -> None:
    """As Alembic does."""
    engine = sqlalchemy.create_engine(dsn.replace("postgresql:", "postgresql+psycopg:", 1))
    try:
        with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
            step()
    finally:
        engine.dispose()
