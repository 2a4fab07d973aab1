"""What a new connection's server is asked before it is used: is it the primary, and does it serve this mapping and library?"""

from __future__ import annotations

from dataclasses import dataclass

from session_lock.catalog import check_name_is_free, read_shape
from session_lock.connections import Connection
from session_lock.database import Identity
from session_lock.errors import DatabaseError, SchemaError, SessionLost
from session_lock.names import quote_name
from session_lock.objects import function_set
from session_lock.read_only import FACTS, remedy
from session_lock.schema import SCHEMA_VERSION
from session_lock.session import Lease
from session_lock.table import TaskTable, install_command

SHARED_FUNCTIONS = ("start_session", "bump_session", "plan_duties")
"""Those that all mappings of a schema have in common."""

OWN_FUNCTIONS = ("get_work", "finish_tasks", "finish_in", "release_tasks", "end_session")
"""The functions that a mapping has of its own: their names end in its set."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a `PostgresDatabase` needs of a server."""

    name: str
    schema: str
    """Quoted."""

    table: TaskTable | None
    functions: str
    """The set that is called, where it is written by hand and named by the user."""

    def function(self, verb: str, functions: str) -> str:
        """The function of a verb, as SQL calls it; `functions` is the mapping's set."""
        name = verb if verb in SHARED_FUNCTIONS else f"{verb}_{functions}"
        return f"{self.schema}.{quote_name(name)}"

    @property
    def remedy(self) -> str:
        return install_command(self.table) if self.table else "your migration of the functions"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that will do."""

    identity: Identity
    functions: str
    key_type: str
    """Of the mapping's keys, as `format_type` prints it."""

    read_committed: bool
    """Whether that is the default isolation. Else each call is put into a transaction that says so."""

    read_only: str = ""
    """Where this role may write nothing: why, and what mends it."""

    def check_gave(self, lease: Lease) -> None:
        """`SessionLost` if another one did: a session does not go along into a copy of its database."""
        if lease.of not in {None, self.identity}:
            raise SessionLost(
                f"session {lease.id} is elsewhere: the connection leads to database {self.identity.database} now"
            )


async def meet(
    connection: Connection, wanted: Wanted, known: Server | None, place: tuple[str, int] | None = None
) -> Server:
    """Look at the server of a new connection. `SchemaError` says what is missing; `known` was met before, `place` is where it is said to be."""
    row = await connection.fetchrow(
        f"""
        SELECT {FACTS}, current_database() AS place,
               current_setting('default_transaction_isolation') AS isolation,
               (SELECT system_identifier FROM pg_catalog.pg_control_system())::text AS system,
               to_regprocedure($1) IS NOT NULL AS installed
        """,
        f"{wanted.schema}.schema_version()",
    )
    assert row is not None
    if row["standby"]:
        raise DatabaseError(
            f"database {row['place']} is a standby, which cannot be written: connect to the primary"
        )
    if not row["installed"]:
        raise SchemaError(
            f"database {row['place']} has no schema {wanted.schema} with the functions of session_lock, or this role "
            f"may not use it; run: {wanted.remedy} --grant-to ROLE"
        )
    identity = Identity(row["system"], row["place"], wanted.name, wanted.schema, place)
    if known is not None and identity == known.identity:
        functions, key_type = known.functions, known.key_type
    else:
        await _check_version(connection, wanted)
        functions, key_type = await _check_functions(connection, wanted)
    read_only = remedy(row) if row["read_only"] else ""
    return Server(identity, functions, key_type, row["isolation"] == "read committed", read_only)


async def _check_version(connection: Connection, wanted: Wanted) -> None:
    offered = await connection.fetchrow(f"SELECT version, serves FROM {wanted.schema}.schema_version()")
    assert offered is not None
    if offered["version"] < SCHEMA_VERSION:
        raise SchemaError(
            f"the schema {wanted.schema} is of version {offered['version']}, this library needs {SCHEMA_VERSION}; "
            f"run: {wanted.remedy}"
        )
    if offered["serves"] > SCHEMA_VERSION:
        raise SchemaError(
            f"the schema {wanted.schema} serves libraries from version {offered['serves']} on, this one is of version "
            f"{SCHEMA_VERSION}; upgrade the package session-lock"
        )


async def _check_functions(connection: Connection, wanted: Wanted) -> tuple[str, str]:
    """The set of functions to call, and the type of the keys that they take."""
    functions = wanted.functions
    if wanted.table is not None:
        functions = function_set(wanted.table, await read_shape(connection, wanted.table))
        await check_name_is_free(connection, wanted.table, functions)
    found = await connection.fetch(
        """
        SELECT p.proname, has_function_privilege(p.oid, 'EXECUTE') AS allowed, format_type(keys.typelem, NULL) AS key_type
          FROM pg_catalog.pg_proc AS p
          LEFT JOIN pg_catalog.pg_type AS keys ON starts_with(p.proname, 'finish_in_') AND keys.oid = p.proargtypes[2]
         WHERE p.pronamespace = to_regnamespace($1) AND p.proname = ANY ($2::text[])
        """,
        wanted.schema,
        [f"{verb}_{functions}" for verb in OWN_FUNCTIONS],
    )
    if len(found) < len(OWN_FUNCTIONS):
        raise SchemaError(
            f"the functions of mapping {wanted.name!r} ({functions}) are missing in schema {wanted.schema}, or the mapping or "
            f"its table has changed since they were installed; run: {wanted.remedy}"
        )
    if not all(row["allowed"] for row in found):
        raise SchemaError(
            f"this role may not execute the functions of mapping {wanted.name!r}; run: {wanted.remedy} --grant-to ROLE"
        )
    return functions, next(row["key_type"] for row in found if row["key_type"])
