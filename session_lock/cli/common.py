"""What the commands share: output, the mapping that is named, the connection, and errors as sentences."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import asyncpg

from session_lock.dsn import describe, why_not_connected
from session_lock.errors import DatabaseError, SessionLockError, SettingsError
from session_lock.migrations.sandbox import first_line
from session_lock.table import TaskTable

T = TypeVar("T")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 (argparse has no other name for it)

WIDEST = 40
"""Characters of a column that is shown."""

CONNECT_TIMEOUT = 10.0
"""Seconds."""


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def say_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of text under the names of their columns."""
    lines = [list(rows[0].keys()), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: str | None) -> str:
    if value is None:
        return "NULL"
    return printable(value, WIDEST)


def printable(text: str, widest: int | None = None) -> str:
    """What was told by others, without what would command a terminal, and cut."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if widest is None or len(text) <= widest else f"{text[: widest - 1]}…"


def complain(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"session-lock: {' '.join(text.split())}\n")


def with_target(text: str, arguments: argparse.Namespace) -> str:
    """A remedy, with the mapping that the command was given in place of MODULE:ATTRIBUTE."""
    return text.replace("MODULE:ATTRIBUTE", getattr(arguments, "mapping", "MODULE:ATTRIBUTE"))


def at_least_one(text: str) -> int:
    """A word of the command line, as a number of things to show."""
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 10,000")
    return int(text)


def library_version() -> str:
    try:
        return version("session-lock")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def add_mapping_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mapping", metavar="MODULE:ATTR", help="where the TaskTable is, such as myapp.jobs:emails"
    )
    parser.add_argument(
        "--dsn", help="postgresql://user:password@host:port/database (else SESSION_LOCK_DSN or DATABASE_URL)"
    )


def with_database(arguments: argparse.Namespace, work: Callable[[Any, TaskTable], Awaitable[T]]) -> T:
    """Run `work(connection, table)` for the mapping and database of the command line."""
    table = load_mapping(arguments.mapping)

    async def connected() -> T:
        async with _connection(find_dsn(arguments.dsn)) as connection:
            return await work(connection, table)

    return asyncio.run(connected())


# The mapping ---------------------------------------------------------------------------------------


def load(name: str, what: str, else_: Callable[[Any], str]) -> Any:
    """What is at MODULE:ATTR, imported with the current folder in reach, as `python -m` would.

    `else_` says of the module what there is if it has no such attribute.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise SettingsError(f"{name!r} does not name {what}: write MODULE:ATTR, such as myapp.jobs:emails")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 (sys.path holds text)
        sys.path.insert(0, here)
    try:
        if "DJANGO_SETTINGS_MODULE" in os.environ and importlib.util.find_spec("django"):
            importlib.import_module("django").setup()  # before its models can be imported
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise SettingsError(
                f"there is no module {missing!r}: run this where {name!r} can be imported"
            ) from error
        raise SettingsError(
            f"importing {module_name} failed ({type(error).__name__}: {first_line(str(error))}): mend it"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SettingsError(f"{module_name} has no {attribute!r}: {else_(sys.modules[module_name])}")
        found = getattr(found, part)
    return found


def load_mapping(name: str) -> TaskTable:
    found = load(name, "a mapping", _mappings_in)
    if not isinstance(found, TaskTable):
        module = sys.modules[name.partition(":")[0]]
        raise SettingsError(f"{name} is a {type(found).__name__}, not a TaskTable: {_mappings_in(module)}")
    return found


def _mappings_in(module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, TaskTable))
    return f"its mappings are {', '.join(names)}" if names else "it has no mapping, define a TaskTable there"


# The connection ------------------------------------------------------------------------------------


def find_dsn(given: str | None) -> str:
    dsn = given or os.environ.get("SESSION_LOCK_DSN") or os.environ.get("DATABASE_URL")
    if not dsn:
        raise SettingsError(
            "no database: give --dsn postgresql://user@host/database, or set SESSION_LOCK_DSN or DATABASE_URL"
        )
    return dsn


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[Any]:
    connection = await connect(dsn)
    try:
        with in_sentences(describe(dsn)):
            yield connection
    finally:
        # It may be given up already: a check that is cancelled does so.
        if not connection.is_closed() and connection.is_in_transaction():
            connection.terminate()
        else:
            await _close(connection)


@contextmanager
def in_sentences(where: str, remedy: str = "run the command again") -> Iterator[None]:
    """What a connection to there says against us, within, as one of our errors; `remedy` is for one that broke."""
    try:
        yield
    except (
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        raise DatabaseError(f"the connection to {where} broke ({type(error).__name__}): {remedy}") from error
    except asyncpg.PostgresError as error:
        raise DatabaseError(
            f"the server at {where} refused: {first_line(error.message or str(error))}"
        ) from error


async def connect(dsn: str) -> Any:
    """A connection, or in a sentence why there is none."""
    where = describe(dsn)
    try:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT,
            statement_cache_size=0,  # behind a pooler too, and after DDL
            server_settings={"application_name": "session-lock"},
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, OverflowError) as error:
        raise DatabaseError(why_not_connected(error, where, CONNECT_TIMEOUT), retryable=False) from error


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=2)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        connection.terminate()


def refuse_if(condition: object, text: str) -> None:
    if condition:
        raise SessionLockError(text)
