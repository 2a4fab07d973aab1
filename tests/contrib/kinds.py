"""Every kind of connection that `finish_in` and `finish_in_sync` take, behind one face: real libraries, real connections.

A synchronous one lives in a thread of its own, as it would under a synchronous tasker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import django
import django.conf
import psycopg
import psycopg2.extras
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as sa

INSERT = "INSERT INTO public.effect VALUES ({})"


def url(dsn: str, driver: str) -> str:
    """For SQLAlchemy."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


# Asynchronous ones ---------------------------------------------------------------------------------------


@asynccontextmanager
async def asyncpg_connection(dsn: str, *, autocommit: bool = False) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def asyncpg_pool(dsn: str, *, autocommit: bool = False) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        yield connection


@asynccontextmanager
async def asyncpg_begun(connection: Any) -> AsyncIterator[Any]:
    async with connection.transaction():
        yield connection


async def asyncpg_write(connection: Any, note: str) -> None:
    await connection.execute(INSERT.format("$1"), note)


@asynccontextmanager
async def psycopg_async(dsn: str, *, autocommit: bool = False) -> AsyncIterator[Any]:
    # What a connection is set up with is its user's matter, and shall not disturb.
    connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=autocommit, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.AsyncRawCursor
    )
    try:
        yield connection
    finally:
        await connection.close()


async def psycopg_async_write(connection: Any, note: str) -> None:
    await connection.execute(INSERT.format("$1"), [note])


def engine_options(autocommit: bool) -> dict[str, Any]:
    return {"isolation_level": "AUTOCOMMIT"} if autocommit else {}


def sa_async(driver: str, kind: str) -> Callable[..., AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def connected(dsn: str, *, autocommit: bool = False) -> AsyncIterator[Any]:
        engine = sa.create_async_engine(url(dsn, driver), echo=True, pool_size=1, max_overflow=0)
        if autocommit and kind != "connection":
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        make = sa.async_sessionmaker(engine)
        try:
            if kind == "connection":
                async with engine.connect() as connection:
                    if autocommit:
                        await connection.execution_options(isolation_level="AUTOCOMMIT")
                    yield connection
            elif kind == "session":
                async with make() as session:
                    yield session
            else:
                registry = sa.async_scoped_session(make, scopefunc=lambda: 1)
                try:
                    yield registry
                finally:
                    await registry.remove()
        finally:
            await engine.dispose()

    return connected


@asynccontextmanager
async def sa_async_begun(connection: Any) -> AsyncIterator[Any]:
    async with connection.begin():
        yield connection


async def sa_async_write(connection: Any, note: str) -> None:
    await connection.execute(sqlalchemy.text(INSERT.format(":note")), {"note": note})


# Synchronous ones ----------------------------------------------------------------------------------------


@contextmanager
def psycopg_sync(dsn: str, *, autocommit: bool = False) -> Iterator[Any]:
    with psycopg.connect(dsn, autocommit=autocommit, row_factory=psycopg.rows.dict_row) as connection:
        yield connection


@contextmanager
def psycopg2_sync(dsn: str, *, autocommit: bool = False) -> Iterator[Any]:
    connection = psycopg2.connect(dsn, cursor_factory=psycopg2.extras.RealDictCursor)
    connection.autocommit = autocommit
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def psycopg_begun(connection: Any) -> Iterator[Any]:
    with connection.transaction():
        yield connection


@contextmanager
def psycopg2_begun(connection: Any) -> Iterator[Any]:
    with connection:
        yield connection


def dbapi_write(connection: Any, note: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(INSERT.format("%s"), [note])


def sa_sync(driver: str, kind: str) -> Callable[..., Any]:
    @contextmanager
    def connected(dsn: str, *, autocommit: bool = False) -> Iterator[Any]:
        options = engine_options(autocommit)
        engine = sqlalchemy.create_engine(url(dsn, driver), echo=True, pool_size=1, max_overflow=0, **options)
        try:
            if kind == "connection":
                with engine.connect() as connection:
                    yield connection
            elif kind == "session":
                with orm.Session(engine) as session:
                    yield session
            else:
                registry = orm.scoped_session(orm.sessionmaker(engine))
                try:
                    yield registry
                finally:
                    registry.remove()
        finally:
            engine.dispose()

    return connected


@contextmanager
def sa_sync_begun(connection: Any) -> Iterator[Any]:
    with connection.begin():
        yield connection


def sa_sync_write(connection: Any, note: str) -> None:
    connection.execute(sqlalchemy.text(INSERT.format(":note")), {"note": note})


def django_databases(dsn: str) -> dict[str, Any]:
    parts = sqlalchemy.make_url(dsn)
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.database, "USER": parts.username,
        "PASSWORD": parts.password, "HOST": parts.host, "PORT": parts.port,
    }  # fmt: skip


def set_up_django() -> None:
    """Once in a process, as Django is; tests point the database "default" at theirs."""
    if not django.conf.settings.configured:
        django.conf.settings.configure(
            DEBUG=True, DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}}, USE_TZ=True
        )
        django.setup()


@contextmanager
def django_connection(dsn: str, *, autocommit: bool = False) -> Iterator[Any]:
    set_up_django()
    from django.db import connection, connections

    with suppress(AttributeError):  # that of who has read a model in this thread, where there is no database
        del connections["default"]
    connections.settings["default"] = connections.configure_settings({"default": django_databases(dsn)})[
        "default"
    ]
    try:
        yield connection
    finally:
        connections.close_all()
        with suppress(AttributeError):  # not used in this thread
            del connections["default"]


def django_create(dsn: str, *models: Any) -> None:
    """The tables of models, as their migrations would make them; in a thread."""
    with django_connection(dsn) as connection, connection.schema_editor() as editor:
        for model in models:
            editor.create_model(model)


@contextmanager
def django_begun(connection: Any) -> Iterator[Any]:
    from django.db import transaction

    with transaction.atomic():
        yield connection


# The face ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    name: str
    connected: Callable[..., Any]
    begun: Callable[[Any], Any]
    insert: Callable[[Any, str], Any]
    sync: bool = False

    def __str__(self) -> str:
        return self.name

    @asynccontextmanager
    async def connect(self, dsn: str, *, autocommit: bool = False) -> AsyncIterator[Hand]:
        """`autocommit`: a connection on which no transaction is open, and none is begun by itself."""
        if not self.sync:
            async with self.connected(dsn, autocommit=autocommit) as connection:
                yield Hand(self, connection, None)
            return
        with ThreadPoolExecutor(1) as thread:
            hand = Hand(self, None, thread)
            async with hand.entered(self.connected(dsn, autocommit=autocommit)) as hand.connection:
                yield hand


class Hand:
    """A hand on a connection."""

    def __init__(self, kind: Kind, connection: Any, thread: ThreadPoolExecutor | None) -> None:
        self.kind = kind
        self.connection = connection
        self._thread = thread

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """In the connection's thread, or awaited."""
        if self._thread is None:
            return await function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    @asynccontextmanager
    async def entered(self, context: Any) -> AsyncIterator[Any]:
        value = await self.call(context.__enter__)
        try:
            yield value
        except BaseException as error:
            if not await self.call(context.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await self.call(context.__exit__, None, None, None)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        context = self.kind.begun(self.connection)
        async with self.entered(context) if self._thread else context:
            yield

    async def write(self, note: str) -> None:
        await self.call(self.kind.insert, self.connection, note)

    async def finish_in(self, holder: Any, *arguments: Any) -> None:
        """Of a task, a batch or a database."""
        name = "finish_in_sync" if self.kind.sync else "finish_in"
        await self.call(getattr(holder, name), self.connection, *arguments)


KINDS = [
    Kind("asyncpg", asyncpg_connection, asyncpg_begun, asyncpg_write),
    Kind("asyncpg of a pool", asyncpg_pool, asyncpg_begun, asyncpg_write),
    Kind("psycopg AsyncConnection", psycopg_async, asyncpg_begun, psycopg_async_write),
    *[
        Kind(f"SQLAlchemy async {kind} {driver}", sa_async(driver, kind), sa_async_begun, sa_async_write)
        for driver in ("asyncpg", "psycopg")
        for kind in ("connection", "session")
    ],
    Kind("SQLAlchemy async scoped", sa_async("asyncpg", "scoped"), sa_async_begun, sa_async_write),
    Kind("psycopg Connection", psycopg_sync, psycopg_begun, dbapi_write, sync=True),
    Kind("psycopg2", psycopg2_sync, psycopg2_begun, dbapi_write, sync=True),
    *[
        Kind(f"SQLAlchemy {kind} {driver}", sa_sync(driver, kind), sa_sync_begun, sa_sync_write, sync=True)
        for driver, kind in (("psycopg", "connection"), ("psycopg", "session"), ("psycopg2", "session"))
    ],
    Kind("SQLAlchemy scoped", sa_sync("psycopg", "scoped"), sa_sync_begun, sa_sync_write, sync=True),
    Kind("Django", django_connection, django_begun, dbapi_write, sync=True),
]
