"""The schema in which a demo takes place: the scenario's tables, and beside them what is needed to judge from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from session_lock.cli.common import describe
from session_lock.cli.demo.access import Access, Connection
from session_lock.errors import SessionLockError
from session_lock.migrations import install
from session_lock.names import quote_name

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


@asynccontextmanager
async def demo_schema(access: Access, scenario: Scenario) -> AsyncIterator[Connection]:
    """The demo's own schema with everything in it, dropped at the end."""
    async with access.connection() as connection:
        creation = asyncio.create_task(_create_schema(connection, access))
        try:
            await asyncio.shield(creation)  # cancelled or not, we know whether it is ours
            await _fill_schema(connection, access, scenario)
            yield connection
        finally:
            await asyncio.wait({creation})
            if creation.exception() is None:
                await _drop_schema(access)


async def _fill_schema(connection: Connection, access: Access, scenario: Scenario) -> None:
    await connection.execute(NOTES)
    await connection.execute(scenario.tables)
    await scenario.fill(connection)
    if access.runner_role:
        await _create_runner_role(connection, access, scenario.grants)
    await install(connection, scenario.table, grant_to=access.runner_role)
    await connection.execute(trigger_on(scenario.table.table))


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


async def _drop_schema(access: Access) -> None:
    """On a connection of its own: the other one may have been interrupted in the midst of a statement."""
    async with access.connection() as connection:
        await connection.execute(f"SET lock_timeout = '10s'; DROP SCHEMA {SCHEMA} CASCADE", timeout=20)
