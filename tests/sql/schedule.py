"""What a schedule is made of: a database with a mapping (as shipped, or with one fault put in), and actors.

An actor is one session on one connection of the role `app`, which has EXECUTE and nothing else. A schedule moves on when
the server *says* that somebody waits (`Lab.begin`), or when time was moved (`Lab.advance`); nothing here sleeps and hopes.

Each test of a danger runs twice at least: on the SQL as shipped, and on a mutant, a textual change of our source that puts
the fault in; there the bad thing must be seen to happen (`assert safe is lab.shipped`), so the test is known to see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from uuid import UUID

import asyncpg
import pglast
import pytest

from session_lock import schema
from session_lock.schema import source
from session_lock.table import TaskTable
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

SESSIONS = "sessions.alwaysup.sql"
TASKS = "tasks.alwaysup.sql"


# Faults --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """Our SQL with a fault put in: in `file`, each `old` becomes its `new`, once, and what comes out still parses."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    everywhere: bool = False
    """Whether an `old` may stand there more than once."""

    def source(self, file: str) -> str:
        text = source(file)
        if file != self.file:
            return text
        for old, new in self.changes:
            times = text.count(old)
            assert times == 1 or (self.everywhere and times > 1), (
                f"{self.name}: {old!r} is there {times} times"
            )
            assert old != new
            text = text.replace(old, new)
        pglast.parse_sql(text)
        return text


def fault(name: str, file: str, *changes: tuple[str, str], everywhere: bool = False) -> Mutant:
    return Mutant(name, file, changes, everywhere)


def put_in(*mutants: Mutant) -> AbstractContextManager[Any]:
    """While the block runs, the SQL that is installed has these faults."""
    by_file = {mutant.file: mutant for mutant in mutants}
    return patch.object(
        schema, "source", lambda file: by_file[file].source(file) if file in by_file else source(file)
    )


def seen_to_fail(*mutants: Mutant | tuple[Mutant, ...]) -> pytest.MarkDecorator:
    """Run the test on the SQL as shipped and on each mutant (a tuple of them is one database with several faults)."""
    groups = [each if isinstance(each, tuple) else (each,) for each in mutants]
    params = [pytest.param(group, id=group[0].name) for group in groups]
    return pytest.mark.parametrize("lab", [pytest.param((), id="as shipped"), *params], indirect=True)


# The stage -----------------------------------------------------------------------------------------


@dataclass
class Lab:
    admin: asyncpg.Connection
    """A superuser: what people, migrations and operators do by hand, and the observer."""

    app_dsn: str
    functions: str
    shipped: bool
    opened: list[asyncpg.Connection] = field(default_factory=list)

    async def connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(self.app_dsn)
        self.opened.append(connection)
        return connection

    async def runner(self, *, capacity: int = 100, ttl: float = 30, name: str = "email") -> Actor:
        """A session that has just started, on a connection of its own."""
        return await self.start_session(await self.connect(), capacity=capacity, ttl=ttl, name=name)

    async def start_session(
        self, connection: asyncpg.Connection, *, capacity: int = 100, ttl: float = 30, name: str = "email"
    ) -> Actor:
        row = await connection.fetchrow(
            "SELECT * FROM session_lock.start_session($1, $2, $3, $4, '', '', '')",
            name,
            self.functions,
            capacity,
            ttl,
        )
        return Actor(connection, self.functions, row["id"], row["nonce"])

    async def again(self, actor: Actor) -> Actor:
        """The same session on a second connection, as a Runner has."""
        return Actor(await self.connect(), self.functions, actor.id, actor.nonce)

    async def add(self, count: int) -> list[int]:
        """Insert pending rows; their keys in order."""
        rows = await self.admin.fetch(
            "INSERT INTO public.email (address) SELECT 'a' || g FROM generate_series(1, $1) AS g RETURNING id",
            count,
        )
        return [row["id"] for row in rows]

    async def row(self, key: int) -> asyncpg.Record:
        return await self.admin.fetchrow("SELECT * FROM public.email WHERE id = $1", key)

    async def session(self, actor: Actor) -> asyncpg.Record:
        return await self.admin.fetchrow("SELECT * FROM session_lock.session WHERE id = $1", actor.id)

    async def everything(self) -> list[Any]:
        """All that could be changed, to say that nothing was."""
        return [
            *await self.admin.fetch("SELECT * FROM session_lock.session ORDER BY id"),
            *await self.admin.fetch("SELECT * FROM session_lock.failure ORDER BY id"),
            *await self.admin.fetch("SELECT * FROM public.email ORDER BY id"),
        ]

    async def own_clock(self) -> None:
        """Replace the clock of leases by one that the test moves, as the comment in our SQL invites to."""
        await self.admin.execute(
            """
            CREATE TABLE public.test_clock AS SELECT 0::double precision AS ahead;
            CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql VOLATILE
            AS $$ SELECT clock_timestamp() + make_interval(secs => (SELECT ahead FROM public.test_clock)) $$;
            """
        )

    async def advance(self, seconds: float) -> None:
        await self.admin.execute("UPDATE public.test_clock SET ahead = ahead + $1", seconds)

    async def begin(self, actor: Actor, call: Coroutine[Any, Any, Any]) -> tuple[bool, asyncio.Task[Any]]:
        """Run a call until it is over, or until the server says that it waits for a lock; and which of the two."""
        task = asyncio.ensure_future(call)
        return await self.waits(actor.pid, task), task

    async def waits(self, pid: int, task: asyncio.Future[Any]) -> bool:
        """The same of a call that is under way, by the backend of this pid."""
        while not task.done():
            if await self.admin.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
                return True
        return False

    async def close(self) -> None:
        for connection in [*self.opened, self.admin]:
            connection.terminate()


@asynccontextmanager
async def open_lab(
    database: Any, mutants: Sequence[Mutant] = (), table: TaskTable = EMAILS, ddl: str = EMAIL_TABLE
):
    """A fresh database with the task table and the mapping's SQL, faults included, brought in as a migration would."""
    admin = await asyncpg.connect(database.admin_dsn)
    lab = Lab(admin, database.app_dsn, "", shipped=not mutants)
    try:
        await admin.execute(ddl)
        with put_in(*mutants):
            lab.functions = await apply_mapping(admin, table, grant_to="app")
        yield lab
    finally:
        await lab.close()


# The actors ----------------------------------------------------------------------------------------


@dataclass
class Work:
    """What one get_work returned."""

    claims: dict[int, int]
    """Key to token, in claim order."""

    attempts: dict[int, int]
    outcomes: dict[int, str]
    position: str | None
    next_due: float | None
    left: float
    share: int | None

    @property
    def keys(self) -> list[int]:
        return list(self.claims)


@dataclass
class Actor:
    """One session on one connection."""

    connection: asyncpg.Connection
    functions: str
    id: int
    nonce: UUID

    @property
    def pid(self) -> int:
        return self.connection.get_server_pid()

    async def bump(self, ttl: float = 30, *, draining: bool = False) -> asyncpg.Record:
        return await self.connection.fetchrow(
            "SELECT * FROM session_lock.bump_session($1, $2, $3, $4, 0)", self.id, self.nonce, ttl, draining
        )

    async def get_work(
        self,
        limit: int = 100,
        *,
        held: Sequence[int] = (),
        position: str | None = None,
        until: str | None = None,
        over_share: bool = True,
        at_once: int | None = None,
        finished: Mapping[int, int] | None = None,
    ) -> Work:
        done = finished or {}
        rows = await self.connection.fetch(
            f"SELECT * FROM session_lock.get_work_{self.functions}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            self.id, self.nonce, limit, list(held), position, until, over_share, at_once, list(done), list(done.values()),
        )  # fmt: skip
        tasks = [row for row in rows if row["kind"] == "task"]
        state = rows[-1]
        assert state["kind"] == "state"
        return Work(
            claims={row["task_key"]: row["task_token"] for row in tasks},
            attempts={row["task_key"]: row["task_attempt"] for row in tasks},
            outcomes={row["task_key"]: row["outcome"] for row in rows if row["kind"] == "outcome"},
            position=tasks[-1]["task_position"] if tasks else None,
            next_due=state["next_due"],
            left=state["lease_left"],
            share=state["task_share"],
        )

    async def finish(self, claims: Mapping[int, int]) -> dict[int, str]:
        rows = await self.connection.fetch(
            f"SELECT * FROM session_lock.finish_tasks_{self.functions}($1, $2, $3, $4)",
            self.id, self.nonce, list(claims), list(claims.values()),
        )  # fmt: skip
        return {row["task_key"]: row["outcome"] for row in rows}

    async def finish_in(self, claims: Mapping[int, int]) -> None:
        await self.connection.execute(
            f"SELECT session_lock.finish_in_{self.functions}($1, $2, $3, $4)",
            self.id, self.nonce, list(claims), list(claims.values()),
        )  # fmt: skip

    async def release(
        self,
        claims: Mapping[int, int],
        *,
        after: float | None = None,
        give_back: bool = True,
        discard: bool = False,
        error: str | None = None,
    ) -> dict[int, str]:
        count = len(claims)
        rows = await self.connection.fetch(
            f"SELECT * FROM session_lock.release_tasks_{self.functions}($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            self.id, self.nonce, list(claims), list(claims.values()),
            [after] * count, [give_back] * count, [discard] * count, [error] * count, False,
        )  # fmt: skip
        return {row["task_key"]: row["outcome"] for row in rows}

    async def end(self, claims: Mapping[int, int] | None = None) -> bool:
        claims = claims or {}
        return await self.connection.fetchval(
            f"SELECT session_lock.end_session_{self.functions}($1, $2, $3, $4)",
            self.id, self.nonce, list(claims), list(claims.values()),
        )  # fmt: skip

    async def execute(self, statement: str) -> None:
        await self.connection.execute(statement)


async def sqlstate(call: Awaitable[Any]) -> str | None:
    """What the call is refused with; None if it is not."""
    try:
        await call
    except asyncpg.PostgresError as error:
        return error.sqlstate
    return None
