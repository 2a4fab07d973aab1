"""What the database's catalog says of a mapping's table. Needs no rights on the table itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

from session_lock.errors import SchemaError
from session_lock.names import quote_inside_literal, quote_name
from session_lock.table import Shape, TaskTable, install_command

KEY_TYPES = {
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "uuid": "uuid",
    "text": "text",
    "character varying": "character varying",
}


class Connection(Protocol):
    """The part of an asyncpg connection that reading needs."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]: ...


async def read_shape(connection: Connection, table: TaskTable) -> Shape:
    """The types that the mapping's SQL depends on. `SchemaError` says what of the mapping the table cannot serve."""
    schema, name = table.qualified
    columns = await connection.fetch(
        """
        SELECT c.relkind::text AS kind, a.attname AS column,
               -- format_type leaves the schema out where the search_path finds the type; functions pin theirs.
               CASE WHEN tn.nspname <> 'pg_catalog' AND pg_catalog.pg_type_is_visible(ty.oid)
                    THEN quote_ident(tn.nspname) || '.' ELSE '' END || format_type(a.atttypid, a.atttypmod) AS full_type,
               format_type(a.atttypid, NULL) AS type, a.attnotnull AS not_null,
               EXISTS (SELECT FROM pg_catalog.pg_index AS i
                        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
                          AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS is_unique
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          JOIN pg_catalog.pg_type AS own ON own.oid = a.atttypid
          JOIN pg_catalog.pg_type AS ty
            ON ty.oid = CASE WHEN own.typelem <> 0 AND own.typcategory = 'A' THEN own.typelem ELSE own.oid END
          JOIN pg_catalog.pg_namespace AS tn ON tn.oid = ty.typnamespace
         WHERE n.nspname = $1 AND c.relname = $2
         ORDER BY a.attnum
        """,
        schema,
        name,
    )
    if not columns:
        raise SchemaError(await _no_table(connection, table))
    if columns[0]["kind"] != "r":
        raise SchemaError(
            f"{table.table} is {_KINDS.get(columns[0]['kind'], 'no table')}: a task table is an ordinary table"
        )
    found = {row["column"]: row for row in columns}
    claim = table.claim_columns

    _check_key(table, found)
    for column in table.columns:
        _need(table, found, column, "columns")
    types = {column: str(found[column]["full_type"]) for column in table.columns}
    not_null = {column for column, row in found.items() if row["not_null"]}
    for column, _ in table.order:
        if column == claim.available_at:
            types.setdefault(column, "timestamp with time zone")
            not_null.add(column)
        else:
            _need(table, found, column, "order_by")
            types.setdefault(column, str(found[column]["full_type"]))
    if (counted := table.rules.column) is not None:
        role = "fair_by" if table.fair_by == counted else "limits"
        types.setdefault(counted, str(_need(table, found, counted, role)["full_type"]))
    return Shape(
        key_type=KEY_TYPES[found[table.key]["type"]],
        column_types=types,
        not_null=frozenset(not_null & types.keys()),
    )


_KINDS = {"v": "a view", "m": "a materialized view", "p": "a partitioned table", "f": "a foreign table"}


def _check_key(table: TaskTable, found: Mapping[str, Mapping[str, Any]]) -> None:
    key = _need(table, found, table.key, "key")
    if key["type"] not in KEY_TYPES:
        raise SchemaError(
            f"the key {table.table}.{table.key} is of type {key['full_type']}: a key is smallint, integer, bigint, uuid or text"
        )
    if not key["not_null"]:
        raise SchemaError(
            f"the key {table.table}.{table.key} may be null: declare it NOT NULL or name another key"
        )
    if not key["is_unique"]:
        raise SchemaError(
            f"the key {table.table}.{table.key} is not unique: give it a primary key or a (not partial, not deferrable) "
            "unique index of its own, or name another key"
        )


def _need(
    table: TaskTable, found: Mapping[str, Mapping[str, Any]], column: str, role: str
) -> Mapping[str, Any]:
    if column not in found:
        raise SchemaError(f"{table.table} has no column {column!r} (named by {role}=){_close(column, found)}")
    return found[column]


async def check_name_is_free(connection: Connection, table: TaskTable, functions: str) -> None:
    """Refuse a mapping that is called as one of another table is: their sessions would be one group, and share the tasks of
    both. `functions` is its set. The table of another one is told by the functions that were installed for it.
    """
    ours = ".".join(quote_name(part) for part in table.qualified)
    rows = await connection.fetch(
        r"""
        WITH other (source) AS MATERIALIZED (
          SELECT substring(p.prosrc FROM 'UPDATE ("(?:[^"]|"")+"\."(?:[^"]|"")+") AS t')
            FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
           WHERE n.nspname = $1 AND p.proname ~ ('^finish_tasks_' || $2 || '_[0-9a-f]{8}$') AND position($3 IN p.prosrc) > 0
        )
        SELECT other.source
          FROM other, pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE other.source = '"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"'
           AND other.source <> $4
         LIMIT 1
        """,
        table.schema,
        functions[:-9],
        f"'{quote_inside_literal(table.name)}'::text",
        ours,
    )
    if rows:
        raise SchemaError(
            f"the name {table.name!r} belongs to the mapping of {rows[0]['source']}, so a mapping of {ours} cannot have it: "
            "give one of the two another name="
        )


async def _no_table(connection: Connection, table: TaskTable) -> str:
    rows = await connection.fetch(
        """
        SELECT n.nspname || '.' || c.relname AS name
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        """
    )
    name = ".".join(table.qualified)
    if table.made_by:
        return f"there is no table {name} yet, which the library makes: run {install_command(table)}"
    names = {row["name"].lower(): row["name"] for row in rows}
    match = get_close_matches(name.lower(), names, n=1)
    return f"there is no table {name}" + (f"; did you mean {names[match[0]]!r}?" if match else "")


def _close(word: str, words: Iterable[str]) -> str:
    matches = get_close_matches(word, list(words), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
