"""What the database's catalog says of a mapping's table. Needs no rights on the table itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

from session_lock.errors import SchemaError
from session_lock.names import quote_inside_literal
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
    relation = await _read_relation(connection, table)
    columns = await connection.fetch(
        """
        SELECT a.attname AS column,
               -- format_type leaves the schema out where the search_path finds the type; functions pin theirs.
               CASE WHEN tn.nspname <> 'pg_catalog' AND pg_catalog.pg_type_is_visible(ty.oid)
                    THEN quote_ident(tn.nspname) || '.' ELSE '' END || format_type(a.atttypid, a.atttypmod) AS full_type,
               format_type(a.atttypid, NULL) AS type, a.attnotnull AS not_null,
               EXISTS (SELECT FROM pg_catalog.pg_index AS i
                        WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid AND i.indimmediate
                          AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS is_unique
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_type AS own ON own.oid = a.atttypid
          JOIN pg_catalog.pg_type AS ty
            ON ty.oid = CASE WHEN own.typelem <> 0 AND own.typcategory = 'A' THEN own.typelem ELSE own.oid END
          JOIN pg_catalog.pg_namespace AS tn ON tn.oid = ty.typnamespace
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum
        """,
        relation["oid"],
    )
    found = {row["column"]: row for row in columns}
    claim = table.claim_columns
    tree = await _read_tree(connection, relation["oid"]) if relation["kind"] == "p" else None

    _check_key(table, found, tree or ())
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
        partitions=tuple((row["schema"], row["name"]) for row in tree if row["kind"] != "p")
        if tree is not None
        else None,
    )


async def _read_relation(connection: Connection, table: TaskTable) -> Mapping[str, Any]:
    rows = await connection.fetch(
        """
        SELECT c.oid AS oid, c.relkind::text AS kind,
               (SELECT format('%s.%s', pn.nspname, p.relname)
                  FROM pg_catalog.pg_inherits AS h
                  JOIN pg_catalog.pg_class AS p ON p.oid = h.inhparent
                  JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
                 WHERE h.inhrelid = c.oid AND c.relispartition) AS whole,
               (SELECT min(format('%s.%s', pn.nspname, p.relname))
                  FROM pg_catalog.pg_inherits AS h
                  JOIN pg_catalog.pg_class AS p ON p.oid = h.inhrelid
                  JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
                 WHERE h.inhparent = c.oid) AS child
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2
        """,
        *table.qualified,
    )
    if not rows:
        raise SchemaError(await _no_table(connection, table))
    relation = rows[0]
    if relation["kind"] not in {"r", "p"}:
        raise SchemaError(
            f"{table.table} is {_KINDS.get(relation['kind'], 'no table')}: a task table is an ordinary or a partitioned table"
        )
    if relation["whole"]:
        raise SchemaError(
            f"{table.table} is a partition of {relation['whole']}, and no partition can have columns of its own: "
            "name the whole table"
        )
    if relation["kind"] == "r" and relation["child"]:
        raise SchemaError(
            f"{table.table} has tables that inherit from it ({relation['child']}), over which PostgreSQL keeps no key unique: "
            "make them its partitions, or name a table without children"
        )
    return relation


_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


async def _read_tree(connection: Connection, oid: int) -> Sequence[Mapping[str, Any]]:
    """A partitioned table and all that is below it, from the top."""
    return await connection.fetch(
        """
        SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, pg_get_partkeydef(c.oid) AS parted_by,
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_partitioned_table AS k, unnest(k.partattrs) AS number
                       LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = number
                      WHERE k.partrelid = c.oid) AS parting_columns
          FROM pg_partition_tree($1::oid::regclass) AS p
          JOIN pg_catalog.pg_class AS c ON c.oid = p.relid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         ORDER BY p.level, n.nspname, c.relname
        """,
        oid,
    )


def _check_key(
    table: TaskTable, found: Mapping[str, Mapping[str, Any]], tree: Sequence[Mapping[str, Any]]
) -> None:
    key = _need(table, found, table.key, "key")
    if key["type"] not in KEY_TYPES:
        raise SchemaError(
            f"the key {table.table}.{table.key} is of type {key['full_type']}: a key is smallint, integer, bigint, uuid, text or varchar"
        )
    if not key["not_null"]:
        raise SchemaError(
            f"the key {table.table}.{table.key} may be null: declare it NOT NULL or name another key"
        )
    if key["is_unique"]:
        return
    # In words of a partitioned table, where it is no matter of adding an index.
    for row in tree:
        if row["kind"] == "p" and set(row["parting_columns"]) != {table.key}:
            raise SchemaError(
                f"the key {table.table}.{table.key} is not unique: PostgreSQL keeps it so only in a table that is partitioned by "
                f"nothing else, and {row['schema']}.{row['name']} is by {row['parted_by']}: partition it by the key (by range, a uuid "
                "of version 7 or a growing number is in the order of time; or by hash), or keep what is to do in a table of its own"
            )
        if row["kind"] == "f":
            raise SchemaError(
                f"the key {table.table}.{table.key} is not unique, and cannot be made so while {row['schema']}.{row['name']}, a foreign "
                "table, is a partition: detach that, and then give it a primary key"
            )
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
    ours = table.quoted
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
    remedy = (
        f"; did you mean {names[match[0]]!r}?"
        if match
        else ": create it first, or correct the mapping's `table`"
    )
    return f"there is no table {name}{remedy}"


def _close(word: str, words: Iterable[str]) -> str:
    matches = get_close_matches(word, list(words), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
