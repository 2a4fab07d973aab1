"""`why` asked of a database: the facts of one task, and whose transaction has its row."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from session_lock.catalog import read_shape
from session_lock.errors import DatabaseError, SettingsError
from session_lock.explaining import SessionShare, explained
from session_lock.facts import Locker, Why
from session_lock.names import quote_name
from session_lock.objects import function_set
from session_lock.reasons import explain
from session_lock.sqlstate import is_driver_error, read, translated
from session_lock.table import TaskTable, install_command

NO_SUCH_KEY = {"22P02", "22003", "22021", "22000"}
"""Not of the type, too large, not to be sent as text; by the server and by the driver."""

NO_RIGHT = "42501"


class Connection(Protocol):
    """The part of an asyncpg connection that is used here."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...


async def why(connection: Connection, table: TaskTable, key: str) -> Why:
    """Of a task, by its key as text. It needs the right to execute the mapping's functions."""
    with translated(f"why ({table.name})", install_command(table)):
        shape = await read_shape(connection, table)
        functions = function_set(table, shape)
        schema = quote_name(table.schema)
        told = json.loads(await _told(connection, table, f"why_{functions}", key, shape.key_type))
        shares: Sequence[SessionShare] = ()
        if told["pending"] and told["free"]:
            shares = explained(
                await connection.fetch(f"SELECT * FROM {schema}.{quote_name(f'shares_{functions}')}()")
            )
        lockers = await _seen(_lockers(connection, table, told["xmax"])) if told["locked"] else ()
    return explain(key, told, table, shares, lockers)


async def why_by_hand(connection: Connection, schema: str, name: str, key: str) -> Why:
    """Where the functions are written by hand: what there is around the task. Needs the right to execute `around_task`."""
    with translated(f"why ({name})", "your migration of the functions"):
        query = f"SELECT {schema}.around_task($1, $2, NULL, {schema}.clock())::text"
        told = json.loads(await connection.fetchval(query, name, key))
    return explain(key, told)


async def _told(connection: Connection, table: TaskTable, name: str, key: str, key_type: str) -> Any:
    query = f"SELECT {quote_name(table.schema)}.{quote_name(name)}($1::text::{key_type}, $2)::text"
    try:
        return await connection.fetchval(query, key, True)
    except Exception as error:
        if not is_driver_error(error):
            raise
        refusal = read(error)
        if refusal.state == "55P03":
            lockers = await _seen(lockers_of_table(connection, table, ["AccessExclusiveLock"], sure=True))
            who = " or ".join(map(str, lockers or ())) or "somebody's transaction"
            text = f"nothing can be told of {table.table}: the whole table is locked by {who}"
            raise DatabaseError(text) from error
        if name not in refusal.context:
            if refusal.state not in NO_SUCH_KEY:
                raise
            text = f"{key[:100]!r} can be no key of {table.table}: its keys are of type {key_type}"
            raise SettingsError(text) from None
    # It was raised within: there may be a part of pending that cannot be asked without those before it.
    return await connection.fetchval(query, key, False)


# Whose transaction it is ------------------------------------------------------------------------------


async def _seen(looked_for: Awaitable[Sequence[Locker]]) -> Sequence[Locker] | None:
    """Those who were found; None: the role may not see who is connected."""
    try:
        return await looked_for
    except Exception as error:
        if not is_driver_error(error) or read(error).state != NO_RIGHT:
            raise
        return None


async def _lockers(connection: Connection, table: TaskTable, xmax: str) -> Sequence[Locker]:
    """Who has the row: the transaction that is written in it, those if there are several, else who has locked rows of the table."""
    if found := await _find(connection, BY_TRANSACTION, [xmax], sure=True):
        return found
    try:
        rows: Sequence[Any] = await connection.fetch(MEMBERS, xmax)
    except Exception as error:
        if not is_driver_error(error):
            raise
        rows = []  # it is no number of several
    if found := await _find(connection, BY_TRANSACTION, [row["xid"] for row in rows], sure=True):
        return found
    # Locked within a savepoint that has been released: who it was is not written anywhere.
    return await lockers_of_table(connection, table, ["RowShareLock", "RowExclusiveLock"], sure=False)


async def lockers_of_table(
    connection: Connection, table: TaskTable, modes: Sequence[str], *, sure: bool
) -> Sequence[Locker]:
    """Who else has locked it, or a partition of it, in one of these modes."""
    return await _find(connection, BY_TABLE, *table.qualified, modes, sure=sure)


async def _find(connection: Connection, condition: str, *arguments: object, sure: bool) -> Sequence[Locker]:
    rows = await connection.fetch(f"{ACTIVITY} AND {condition}", *arguments)
    return [Locker(**dict(row), sure=sure) for row in rows]


ACTIVITY = """
SELECT DISTINCT a.pid, a.application_name, a.role, extract(epoch FROM statement_timestamp() - a.since)::float8 AS since, a.prepared
  FROM pg_catalog.pg_locks AS l
  JOIN (SELECT s.pid, NULL AS locker, s.application_name, s.usename::text AS role, s.xact_start AS since, NULL AS prepared
          FROM pg_catalog.pg_stat_activity AS s WHERE s.datname = current_database() AND s.pid <> pg_backend_pid()
         UNION ALL
        SELECT NULL, o.virtualtransaction, '', p.owner::text, p.prepared, p.gid
          FROM pg_catalog.pg_prepared_xacts AS p
          JOIN pg_catalog.pg_locks AS o
            ON o.locktype = 'transactionid' AND o.mode = 'ExclusiveLock' AND o.pid IS NULL AND o.transactionid = p.transaction
         WHERE p.database = current_database()) AS a
    ON a.pid = l.pid OR (l.pid IS NULL AND a.locker = l.virtualtransaction)
 WHERE l.granted
"""
"""A prepared transaction has no process, but keeps its locks, among them that of its own number, and all of them have one locker."""
BY_TRANSACTION = (
    "l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.transactionid::text = ANY ($1)"
)
BY_TABLE = """
l.relation IN (SELECT unnest(ARRAY[c.oid, h.inhrelid])
                 FROM pg_catalog.pg_class AS c
                 JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                 LEFT JOIN pg_catalog.pg_inherits AS h ON h.inhparent = c.oid
                WHERE n.nspname = $1 AND c.relname = $2)
AND l.mode = ANY ($3)
"""
"""Of the table, and of partitions that were named themselves. Needs no right on either."""

MEMBERS = (
    "SELECT m.xid::text AS xid FROM pg_get_multixact_members($1::text::xid) AS m WHERE m.mode <> 'keysh'"
)
"""Who share the row, but for those who only keep its key: they are in nobody's way."""
