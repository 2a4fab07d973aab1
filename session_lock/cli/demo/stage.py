"""The schema in which a demo takes place: the scenario's tables, and beside them what is needed to judge from outside.

Nearly always it takes place in one database; where it does in several, each has that schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from string import ascii_uppercase
from typing import TYPE_CHECKING, cast

import asyncpg

from session_lock.cli.demo.access import REMEDY, Access, Connection, Pool
from session_lock.dsn import describe
from session_lock.errors import SessionLockError
from session_lock.migrations import install
from session_lock.names import quote_name
from session_lock.sqlstate import translate

if TYPE_CHECKING:
    from session_lock.cli.demo.scenario import Scenario

SCHEMA = "session_lock_demo"

RUNNER_ROLE = "session_lock_demo"

NOTES = f"""
-- What the runners say: each call of the tasker, written before it does anything, in a transaction of its own.
CREATE TABLE {SCHEMA}.run (
  task    bigint NOT NULL,
  token   bigint NOT NULL,
  session bigint NOT NULL,
  at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What happened to the rows, whatever the runners say: written by the trigger alone.
CREATE TABLE {SCHEMA}.event (
  task    bigint NOT NULL,
  token   bigint NOT NULL,
  session bigint,
  what    text NOT NULL CHECK (what IN ('claimed', 'finished', 'given back')),
  at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX event_of_task ON {SCHEMA}.event (task, token);
"""


def trigger_on(table: str) -> str:
    """`table` is a scenario's own, written with its schema."""
    return f"""
    CREATE FUNCTION {SCHEMA}.note_event() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
      -- Every time that finished_at becomes a value, or another one, counts as a finish.
      IF NEW.finished_at IS NOT NULL AND NEW.finished_at IS DISTINCT FROM OLD.finished_at THEN
        INSERT INTO {SCHEMA}.event (task, token, session, what) VALUES (NEW.id, NEW.claim_token, OLD.session_id, 'finished');
      ELSIF NEW.claim_token IS DISTINCT FROM OLD.claim_token THEN
        INSERT INTO {SCHEMA}.event (task, token, session, what) VALUES (NEW.id, NEW.claim_token, NEW.session_id, 'claimed');
      ELSIF NEW.session_id IS NULL AND OLD.session_id IS NOT NULL THEN
        INSERT INTO {SCHEMA}.event (task, token, session, what) VALUES (NEW.id, NEW.claim_token, OLD.session_id, 'given back');
      END IF;
      RETURN NULL;
    END $$;
    CREATE TRIGGER note_event AFTER UPDATE ON {table} FOR EACH ROW
      WHEN (NEW.finished_at IS DISTINCT FROM OLD.finished_at OR NEW.claim_token IS DISTINCT FROM OLD.claim_token
            OR NEW.session_id IS DISTINCT FROM OLD.session_id)
      EXECUTE FUNCTION {SCHEMA}.note_event();
    """


@dataclass(eq=False, slots=True)
class Place:
    """One database with the demo's schema in it."""

    name: str
    access: Access
    pool: Pool
    up: bool = True
    """Not while the demo has stopped its server."""

    async def stop(self) -> None:
        """Its server, as in a crash."""
        assert self.access.server is not None
        self.up = False
        await asyncio.to_thread(self.access.server.stop, "immediate")

    async def start(self) -> None:
        assert self.access.server is not None
        await asyncio.to_thread(self.access.server.start)
        self.up = True


@dataclass
class Stage:
    """All of them."""

    places: Sequence[Place]
    opened_at: datetime = field(init=False)
    """When all was there, by the server's clock."""

    @property
    def pool(self) -> Pool:
        """Of the only one."""
        (place,) = self.places
        return place.pool

    async def clock(self) -> datetime:
        """The server's. Several are on one machine, and have the same."""
        at: datetime = await self.places[0].pool.fetchval("SELECT clock_timestamp()")
        return at


@asynccontextmanager
async def set_stage(scenario: Scenario, *accesses: Access) -> AsyncIterator[Stage]:
    """The schema in each database. What a server says against us meanwhile becomes a sentence."""
    try:
        async with AsyncExitStack() as stack:
            schemas = [_demo_schema(*each, scenario) for each in zip(ascii_uppercase, accesses, strict=False)]
            stage = Stage([await stack.enter_async_context(schema) for schema in schemas])
            stage.opened_at = await stage.clock()
            yield stage
    except (
        asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, ConnectionError,
    ) as error:  # fmt: skip
        where = " or ".join(describe(access.dsn) for access in accesses)
        raise translate(error, f"the database {where}", REMEDY) from error


@asynccontextmanager
async def _demo_schema(name: str, access: Access, scenario: Scenario) -> AsyncIterator[Place]:
    """The demo's own schema with everything in it. Where the server is not ours, it is dropped at the end."""
    async with access.pool() as pool:
        creation = asyncio.create_task(_create_schema(pool, access))
        try:
            await asyncio.shield(creation)  # cancelled or not, we know whether it is ours
            async with pool.acquire() as connection:
                await _fill_schema(cast("Connection", connection), access, scenario)  # as good as one
            yield Place(name, access, pool)
        finally:
            await asyncio.wait({creation})
            if access.server is None and creation.exception() is None:
                await _drop_schema(pool)


async def _fill_schema(connection: Connection, access: Access, scenario: Scenario) -> None:
    await connection.execute(NOTES)
    await connection.execute(scenario.tables)
    await scenario.fill(connection)
    if access.runner_role:
        await _create_runner_role(connection, access, scenario.grants)
    await install(connection, scenario.table, grant_to=access.runner_role)
    await connection.execute(trigger_on(scenario.table.table))


async def _create_schema(pool: Pool, access: Access) -> None:
    try:
        await pool.execute(f"CREATE SCHEMA {SCHEMA}")
    except asyncpg.DuplicateSchemaError as error:
        raise SessionLockError(
            f"there is a schema {SCHEMA} in {describe(access.dsn)} already: wait for the demo that runs there, or "
            f"DROP SCHEMA {SCHEMA} CASCADE"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise SessionLockError(
            f"this role may not create a schema in {describe(access.dsn)}: GRANT CREATE ON DATABASE .. TO .."
        ) from error


async def _create_runner_role(connection: Connection, access: Access, grants: str) -> None:
    """As a service should have it: besides EXECUTE, which `install` grants, only what its tasker needs."""
    assert access.runner_role is not None
    role = quote_name(access.runner_role)
    rights = grants.format(role=role)
    await connection.execute(
        f"""
        CREATE ROLE {role} LOGIN PASSWORD '{access.runner_password}';
        GRANT INSERT ON {SCHEMA}.run TO {role};
        {rights}
        """
    )


async def _drop_schema(pool: Pool) -> None:
    await pool.execute(f"SET lock_timeout = '10s'; DROP SCHEMA {SCHEMA} CASCADE", timeout=20)
