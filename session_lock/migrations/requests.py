"""What people ask for single tasks: to cancel one, to see what was parked, to let it run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from session_lock.catalog import read_shape
from session_lock.errors import SchemaError
from session_lock.migrations.sandbox import Connection, Refused, attempt, rolled_back, sentence, sentences
from session_lock.names import one_line_safe, quote_inside_literal, quote_name
from session_lock.objects import function_set
from session_lock.table import Shape, TaskTable

NO_SUCH_KEY = {"22P02", "22003"}


async def cancel(connection: Connection, table: TaskTable, key: str) -> str:
    """The task is not to be done any more. Returns what became of it, as `cancel_task` in the database does.

    Raises `SchemaError` if this can be no key of the table, or this version of the mapping is not installed.

    ```python
    assert await cancel(connection, mails, "1") == "parked"  # as the mapping has no discard
    ```
    """
    async with sentences(connection, f"the task could not be cancelled in {table.table}"):
        shape = await read_shape(connection, table)
        query = f"SELECT {await _function(connection, table, shape, 'cancel_task')}($1::text::{shape.key_type}) AS outcome"
        rows = await attempt(connection, query, key)
    return str(_answered(rows, table, shape, "cancelled")[0]["outcome"])


async def retry(connection: Connection, table: TaskTable, keys: Sequence[str] | None) -> Sequence[str]:
    """Let parked tasks run again, with all their attempts: these, or all (None). Returns the keys of those that were parked.

    Raises `SchemaError` if one can be no key of the table, or this version of the mapping is not installed.

    ```python
    await cancel(connection, mails, "1")
    assert await retry(connection, mails, None) == ["1"]
    ```
    """
    async with sentences(connection, f"no task of {table.table} could be tried again"):
        shape = await read_shape(connection, table)
        function = await _function(connection, table, shape, "retry_tasks")
        rows = await attempt(
            connection, f"SELECT k::text AS key FROM {function}($1::text[]::{shape.key_type}[]) AS k", keys
        )
    return [row["key"] for row in _answered(rows, table, shape, "tried again")]


async def missing(connection: Connection, table: TaskTable, keys: Sequence[str]) -> Sequence[str]:
    """Those of the keys, as they were given, that no row of the table has; none where this role may not read it."""
    query = f"SELECT k FROM unnest($1::text[]) WITH ORDINALITY AS given (k, place) WHERE NOT EXISTS (SELECT FROM {table.quoted} AS t"
    async with sentences(connection, f"{table.table} could not be read"):
        shape = await read_shape(connection, table)
        query += f" WHERE t.{quote_name(table.key)} = k::{shape.key_type}) ORDER BY place"
        rows = await attempt(connection, query, keys)
    return [] if isinstance(rows, Refused) else [row["k"] for row in rows]


async def parked(connection: Connection, table: TaskTable, limit: int = 10) -> Sequence[Mapping[str, Any]]:
    """The parked tasks, as text, by key: their columns, attempts, and what went wrong last.

    ```python
    for row in await parked(connection, mails):
        print(row["id"], row["attempts"], row["last_error"])
    ```
    """
    claim = table.claim_columns
    columns = list(dict.fromkeys((table.key, *table.columns, claim.attempts)))
    selected = ", ".join(f"t.{quote_name(column)}::text AS {quote_name(column)}" for column in columns)
    key = f"t.{quote_name(table.key)}"
    query = (
        f"SELECT {selected}, (SELECT f.error FROM {quote_name(table.schema)}.failure AS f WHERE f.name = $2 AND f.task_key = {key}::text"
        f" ORDER BY f.id DESC LIMIT 1) AS last_error FROM {table.quoted} AS t WHERE ({one_line_safe(table.pending)})"
        f" AND t.{quote_name(claim.available_at)} = 'infinity' ORDER BY {key} LIMIT $1"
    )
    async with sentences(connection, f"{table.table} could not be read"):
        shape = await read_shape(connection, table)
        await _function(connection, table, shape, "retry_tasks")
        async with rolled_back(connection):
            rows = await attempt(connection, query, limit, table.name)
    return _answered(rows, table, shape, "read")


async def _function(connection: Connection, table: TaskTable, shape: Shape, verb: str) -> str:
    name = f"{verb}_{function_set(table, shape)}"
    found = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname = $1 AND p.proname = $2)",
        table.schema,
        name,
    )
    if not found:
        raise SchemaError(
            f"the current version of {table.name!r} is not installed: run session-lock install first"
        )
    return f"{quote_name(table.schema)}.{quote_name(name)}"


def _answered(
    rows: Sequence[Mapping[str, Any]] | Refused, table: TaskTable, shape: Shape, what: str
) -> Sequence[Mapping[str, Any]]:
    if isinstance(rows, Refused):
        if rows.state in NO_SUCH_KEY:
            raise SchemaError(f"a key of {table.table} is of type {shape.key_type}: give one of that type")
        raise sentence(f"{quote_inside_literal(table.name)} could not be {what}", rows)
    return rows
