"""The indexes of a mapping with limits, which the server itself spells out on an empty copy of the table."""

from __future__ import annotations

from collections.abc import Mapping

from session_lock.errors import SchemaError
from session_lock.migrations.difference import INSTALL, Difference
from session_lock.migrations.expressions import PROBE, Probe
from session_lock.migrations.partitions import incomplete
from session_lock.migrations.sandbox import Connection, attempt, rolled_back
from session_lock.names import quote_name
from session_lock.objects import function_set, limit_index_names
from session_lock.schema import render
from session_lock.table import Shape, TaskTable


async def limit_definitions(probe: Probe, shape: Shape) -> dict[str, str]:
    """Refuse a column that cannot tell values apart; else the indexes of the limits, made on the empty copy."""
    table = probe.table
    if (column := table.rules.column) is not None:
        hashed = f"SELECT pg_catalog.hash_record_extended(ROW(NULL::{shape.column_types[column]}), 0)"
        if refused := probe.refused(await attempt(probe.connection, hashed)):
            raise SchemaError(
                f"limits and fair_by of {table.name!r} cannot tell values of {column!r} apart ({refused.message}): "
                "name a column of another type"
            )
    names = limit_index_names(table, function_set(table, shape))
    found: dict[str, str] = {}
    for number, (file, name) in enumerate(names.items()):
        columns, _, where = (
            render(file, table, shape).rpartition(" ON ")[2].partition(" (")[2].partition("WHERE")
        )
        await probe.connection.execute(
            f"CREATE INDEX {PROBE}_limit_{number} ON {probe.name} ({columns}WHERE{where}"
        )
        definition = await probe.connection.fetchval(
            "SELECT pg_get_indexdef($1::text::regclass)", f"pg_temp.{PROBE}_limit_{number}"
        )
        found[name] = str(definition).partition(" USING ")[2]
    return found


async def wrong_indexes(
    connection: Connection, table: TaskTable, definitions: Mapping[str, str]
) -> list[Difference]:
    """What is wrong with them."""
    found: list[Difference] = []
    schema = quote_name(table.qualified[0])
    for name, wanted in definitions.items():
        where = f"the index {table.qualified[0]}.{name}"
        async with rolled_back(connection):  # for the search_path that expressions are printed under
            rows = await connection.fetch(
                """
                SELECT i.indisvalid AND i.indisready AS valid, pg_get_indexdef(i.indexrelid) AS definition,
                       c.relkind::text AS kind
                  FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
                 WHERE i.indexrelid = to_regclass($1) AND i.indrelid = to_regclass($2)
                """,
                f"{schema}.{quote_name(name)}",
                f"{schema}.{quote_name(table.qualified[1])}",
            )
        if not rows:
            found.append(Difference(f"{where} is missing", INSTALL))
        elif wrong := await incomplete(connection, table, name):
            found.append(Difference(f"{where} {wrong}", INSTALL))
        elif not rows[0]["valid"]:
            found.append(Difference(f"{where} is invalid (its build failed, or is not done yet)", INSTALL))
        elif rows[0]["definition"].partition(" USING ")[2] != wanted:
            drop = "DROP INDEX CONCURRENTLY" if rows[0]["kind"] == "i" else "DROP INDEX"
            found.append(Difference(f"{where} has another definition", f"{drop}, then {INSTALL}"))
    return found
