"""What is to be done in the demo: a table of files, and beside it what is needed to judge the runners from outside."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from session_lock.cli.common import describe
from session_lock.connections import translate, translated
from session_lock.errors import SessionLockError, SettingsError
from session_lock.migrations import install
from session_lock.names import quote_name
from session_lock.table import TaskTable

Connection: TypeAlias = "asyncpg.Connection[Any]"

SCHEMA = "session_lock_demo"

RUNNER_ROLE = "session_lock_demo"

REMEDY = "session-lock demo"

FILES = TaskTable(
    f"{SCHEMA}.file",
    key="id",
    pending="finished_at IS NULL",
    finish="finished_at = now()",
    columns=("path",),
    schema=SCHEMA,
)

TABLES = f"""
CREATE TABLE {SCHEMA}.file (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  path        text NOT NULL,
  size        bigint NOT NULL,
  digest      text,                                    -- SHA-256, written by the tasker in its finishing transaction
  finished_at timestamptz
) WITH (fillfactor = 50);

-- What the runners say: each call of the tasker, written before it does anything, in a transaction of its own.
CREATE TABLE {SCHEMA}.run (
  file    bigint NOT NULL,
  token   bigint NOT NULL,
  session bigint NOT NULL,
  at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What happened to the rows, whatever the runners say: written by the trigger alone.
CREATE TABLE {SCHEMA}.event (
  file    bigint NOT NULL,
  token   bigint NOT NULL,
  session bigint,
  what    text NOT NULL CHECK (what IN ('claimed', 'finished', 'given back')),
  at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX event_of_file ON {SCHEMA}.event (file, token);
"""

TRIGGER = f"""
CREATE FUNCTION {SCHEMA}.note_event() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Every time that finished_at becomes a value, or another one, counts as a finish.
  IF NEW.finished_at IS NOT NULL AND NEW.finished_at IS DISTINCT FROM OLD.finished_at THEN
    INSERT INTO {SCHEMA}.event (file, token, session, what) VALUES (NEW.id, NEW.claim_token, OLD.session_id, 'finished');
  ELSIF NEW.claim_token IS DISTINCT FROM OLD.claim_token THEN
    INSERT INTO {SCHEMA}.event (file, token, session, what) VALUES (NEW.id, NEW.claim_token, NEW.session_id, 'claimed');
  ELSIF NEW.session_id IS NULL AND OLD.session_id IS NOT NULL THEN
    INSERT INTO {SCHEMA}.event (file, token, session, what) VALUES (NEW.id, NEW.claim_token, OLD.session_id, 'given back');
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER note_event AFTER UPDATE ON {SCHEMA}.file FOR EACH ROW
  WHEN (NEW.finished_at IS DISTINCT FROM OLD.finished_at OR NEW.claim_token IS DISTINCT FROM OLD.claim_token
        OR NEW.session_id IS DISTINCT FROM OLD.session_id)
  EXECUTE FUNCTION {SCHEMA}.note_event();
"""


# The files -----------------------------------------------------------------------------------------


def standard_library() -> Path:
    folder = Path(sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        raise SettingsError(
            f"this Python's standard library is no folder ({folder}): name another one with --dir"
        )
    return folder


@dataclass(frozen=True, slots=True)
class File:
    path: str
    size: int
    changed: int
    """Nanoseconds."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files as they were at the beginning."""

    root: Path
    files: tuple[File, ...]

    def __len__(self) -> int:
        return len(self.files)


def list_files(root: Path, *, most: int | None) -> Listing:
    """The readable regular files below a folder, in order, without what is made of others or installed by others."""
    if not root.is_dir():
        raise SettingsError(f"{root} is no folder: name one with --dir")
    files: list[File] = []
    for file in _walk(root.absolute()):
        files.append(file)
        if len(files) == most:
            break
    if not files:
        raise SettingsError(f"there are no readable files in {root}: name another folder with --dir")
    return Listing(root, tuple(files))


def _walk(root: Path) -> Iterator[File]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - {"__pycache__", "site-packages", "dist-packages"})
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118 (thousands of them)
            if (file := look_at(path)) and os.access(path, os.R_OK) and _is_text(path):
                yield file


def look_at(path: str) -> File | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return File(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _is_text(path: str) -> bool:
    """Whether the name can be kept in a column of type text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def digest(path: str) -> str | None:
    """SHA-256 in hex; None if the file is gone."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (a plain string is what we have)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


# The database --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Access:
    """How the demo and its runners get in."""

    dsn: str = field(repr=False)
    runner_role: str | None = None
    """None: the runners use the same role as the demo. On a server that is not ours we make no roles."""

    runner_password: str = field(default="", repr=False)

    @classmethod
    def with_role_for_runners(cls, dsn: str, role: str) -> Access:
        return cls(dsn, role, secrets.token_hex(16))

    @property
    def runner_dsn(self) -> str:
        if self.runner_role is None:
            return self.dsn
        parts = urlsplit(self.dsn)
        where = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self.runner_role}:{self.runner_password}@{where}").geturl()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """An open connection; what the server says against us becomes a sentence."""
        where = f"the database {describe(self.dsn)}"
        with translated(where, REMEDY):
            connection = await asyncpg.connect(
                self.dsn, timeout=10, server_settings={"application_name": "session-lock demo"}
            )
        try:
            yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise translate(error, where, REMEDY) from error
        finally:
            connection.terminate()


@asynccontextmanager
async def demo_schema(access: Access, files: Listing) -> AsyncIterator[Connection]:
    """The demo's own schema with everything in it, dropped at the end."""
    async with access.connection() as connection:
        creation = asyncio.create_task(_create_schema(connection, access))
        try:
            await asyncio.shield(creation)  # cancelled or not, we know whether it is ours
            await _fill_schema(connection, access, files)
            yield connection
        finally:
            await asyncio.wait({creation})
            if creation.exception() is None:
                await _drop_schema(access)


async def _fill_schema(connection: Connection, access: Access, files: Listing) -> None:
    await connection.execute(TABLES)
    rows = [(file.path, file.size) for file in files.files]
    await connection.copy_records_to_table("file", schema_name=SCHEMA, columns=["path", "size"], records=rows)
    if access.runner_role:
        await _create_runner_role(connection, access.runner_role, access.runner_password)
    await install(connection, FILES, grant_to=access.runner_role)
    await connection.execute(TRIGGER)


async def _create_schema(connection: Connection, access: Access) -> None:
    try:
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    except asyncpg.DuplicateSchemaError as error:
        raise SessionLockError(
            f"there is a schema {SCHEMA} in {describe(access.dsn)} already: wait for the demo that runs there, or "
            f"DROP SCHEMA {SCHEMA} CASCADE"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise SessionLockError(
            f"this role may not create a schema in {describe(access.dsn)}: GRANT CREATE ON DATABASE .. TO .."
        ) from error


async def _create_runner_role(connection: Connection, role: str, password: str) -> None:
    """As a service should have it: besides EXECUTE, which `install` grants, only what its tasker writes."""
    name = quote_name(role)
    await connection.execute(
        f"""
        CREATE ROLE {name} LOGIN PASSWORD '{password}';
        GRANT SELECT (id), UPDATE (digest) ON {SCHEMA}.file TO {name};
        GRANT INSERT ON {SCHEMA}.run TO {name};
        """
    )


async def _drop_schema(access: Access) -> None:
    """On a connection of its own: the other one may have been interrupted in the midst of a statement."""
    async with access.connection() as connection:
        await connection.execute(f"SET lock_timeout = '10s'; DROP SCHEMA {SCHEMA} CASCADE", timeout=20)
