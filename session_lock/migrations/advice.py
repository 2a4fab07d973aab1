"""The notes of `check`: what in the database will see the claims, or make them dearer than they need to be."""

from __future__ import annotations

import re
from dataclasses import fields

from session_lock.migrations.accepting import unaccepted
from session_lock.migrations.difference import Difference, note
from session_lock.migrations.owners import owners, row_security
from session_lock.migrations.partitions import OF_THE_TABLE
from session_lock.migrations.sandbox import Connection
from session_lock.migrations.tuning import untuned
from session_lock.migrations.validation import Examined
from session_lock.names import quote_name, split_name
from session_lock.objects import due_index_name, function_set, has_due_index
from session_lock.ordering import why_no_position
from session_lock.table import TaskTable

UPDATES = 1_000
"""Of fewer no share is told. `check` itself makes some: it tries finish and discard, and takes them back."""


async def notes(
    connection: Connection, table: TaskTable, examined: Examined, role: str | None
) -> list[Difference]:
    return [
        *await other_table(connection, table),
        *await _triggers(connection, table),
        *await row_security(connection, table, examined),
        *await _publications(connection, table),
        *await _indexes(connection, table, examined),
        *await owners(connection, table, examined, role),
        *await untuned(connection, table),
        *await _updates(connection, table),
        *_position(table, examined),
        *await _due(connection, table, examined),
        *await unaccepted(connection, table),
    ]


async def other_table(connection: Connection, table: TaskTable) -> list[Difference]:
    """That the search_path leads elsewhere than to the table of a mapping that names no schema, as an ORM goes by that path."""
    schema, name = table.qualified
    if split_name(table.table, default="") != ("", name):
        return []
    rows = await connection.fetch(
        """
        SELECT n.nspname AS schema FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass($1) AND n.nspname <> $2
        """,
        quote_name(name),
        schema,
    )
    return [
        note(
            f"the mapping is of {schema}.{name}, and by the search_path of this connection {name} is {row['schema']}.{name}",
            f"name the schema, as by table='{row['schema']}.{name}', if that one is meant",
        )
        for row in rows
    ]


def _position(table: TaskTable, examined: Examined) -> list[Difference]:
    """Whether looks can begin behind what is finished (ADR 0015)."""
    if (why := why_no_position(table, examined.shape)) is None:
        return []
    return [
        note(
            f"order_by: {why}, so each look for work begins at the start of the order and walks over all that an old snapshot keeps"
        )
    ]


async def _due(connection: Connection, table: TaskTable, examined: Examined) -> list[Difference]:
    """What an order costs that does not begin with the time at which tasks fall due."""
    due = table.claim_columns.available_at
    if table.order[0] == (due, False):
        return []
    index = due_index_name(function_set(table, examined.shape))
    found = [
        note(
            f"order_by does not begin with {due}: a look for work walks past the scheduled rows that precede what is due"
        )
    ]
    name = f"{quote_name(table.qualified[0])}.{quote_name(index)}"
    if not has_due_index(table) and not await connection.fetchval(
        "SELECT i.indisvalid FROM pg_catalog.pg_index AS i WHERE i.indexrelid = to_regclass($1)", name
    ):
        found.append(
            note(
                "nothing tells when the next scheduled row falls due, so it is found by polling",
                f"session-lock sql due prints the index {index}",
            )
        )
    return found


async def _triggers(connection: Connection, table: TaskTable) -> list[Difference]:
    rows = await connection.fetch(
        f"""
        SELECT g.tgname AS name, c.relispartition AS of_partition, format('%I.%I', n.nspname, c.relname) AS partition, pg_get_triggerdef(g.oid) AS definition, (g.tgtype & 1) > 0 AS for_rows,
               (g.tgtype & 2) > 0 AS before, (g.tgtype & ~19) = 0 AS only_updates, g.tgqual IS NOT NULL AS has_when,
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr)) AS of_columns
          FROM pg_catalog.pg_trigger AS g
          JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE {OF_THE_TABLE}
           AND g.tgparentid = 0 AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND (g.tgtype & 16) > 0
         ORDER BY c.relispartition, partition, g.tgname
        """,
        *table.qualified,
    )
    ours = {getattr(table.claim_columns, each.name) for each in fields(table.claim_columns)}
    columns = await connection.fetch(
        """
        SELECT a.attname AS name, a.attgenerated <> '' AS generated,
               EXISTS (SELECT FROM pg_catalog.pg_opclass AS o JOIN pg_catalog.pg_am AS m ON m.oid = o.opcmethod
                        WHERE o.opcintype = ty.oid AND o.opcdefault AND m.amname = 'btree')
                 OR ty.typtype IN ('e', 'd') OR ty.typcategory IN ('S', 'A') AS comparable
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_type AS ty ON ty.oid = a.atttypid
         WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum
        """,
        *table.qualified,
    )
    others = [column for column in columns if column["name"] not in ours and not column["generated"]]
    found: list[Difference] = []
    for row in rows:
        if (row["of_columns"] and not ours & set(row["of_columns"])) or (
            row["has_when"] and "IS DISTINCT FROM" in row["definition"]
        ):
            continue
        if row["for_rows"] and row["only_updates"]:
            changed = " OR ".join(
                f"OLD.{name}{cast} IS DISTINCT FROM NEW.{name}{cast}"
                for name, cast in (
                    (quote_name(c["name"]), "" if c["comparable"] else "::text") for c in others
                )
            )
            remedy = f"WHEN ({changed})"
        else:
            remedy = f"UPDATE OF {', '.join(quote_name(c['name']) for c in others)}"
        where = f" of {row['partition']}" if row["of_partition"] else ""
        found.append(
            note(
                f"the trigger {row['name']!r}{where} fires at every claim and release too; to spare it",
                remedy,
            )
        )
    return found


async def _publications(connection: Connection, table: TaskTable) -> list[Difference]:
    rows = await connection.fetch(
        f"""
        SELECT DISTINCT t.pubname AS name
          FROM pg_catalog.pg_publication_tables AS t
          JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.schemaname
          JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
         WHERE {OF_THE_TABLE}
         ORDER BY 1
        """,
        *table.qualified,
    )
    return [
        note(
            f"the publication {row['name']!r} sends every claim of {table.table} to its subscribers",
            "give them room for two more updates a task, and the four columns (or, from PostgreSQL 15 on, publish a list of columns "
            "without them)",
        )
        for row in rows
    ]


async def _indexes(connection: Connection, table: TaskTable, examined: Examined) -> list[Difference]:
    rows = await connection.fetch(
        f"""
        SELECT DISTINCT i.indexrelid::regclass::text AS full_name, x.relname AS name, a.attname AS column
          FROM pg_catalog.pg_index AS i
          JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE {OF_THE_TABLE} AND NOT x.relispartition AND a.attname = ANY ($3)
           AND (a.attnum = ANY (i.indkey) OR EXISTS (
                 SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.objid = i.indexrelid AND d.refobjid = c.oid AND d.refobjsubid = a.attnum))
         ORDER BY name, a.attname
        """,
        *table.qualified,
        [getattr(table.claim_columns, each.name) for each in fields(table.claim_columns)],
    )
    current = function_set(table, examined.shape)
    found: list[Difference] = []
    told: set[str] = set()
    for row in rows:
        if match := re.fullmatch(rf"(?:pending|due|values|held)_({current[:-9]}_[0-9a-f]{{8}})", row["name"]):
            if match[1] != current and row["name"] not in told:
                told.add(row["name"])
                found.append(
                    note(
                        f"the index {row['full_name']} is of another version of this mapping",
                        "run session-lock prune once it is gone",
                    )
                )
        else:
            found.append(
                note(
                    f"the index {row['full_name']} contains the claim column {row['column']!r}, so writing that is never HOT "
                    "and costs every index of the table",
                    "drop it if you can",
                )
            )
    return found


async def _updates(connection: Connection, table: TaskTable) -> list[Difference]:
    rows = await connection.fetch(
        f"""
        SELECT coalesce(sum(s.n_tup_upd), 0)::bigint AS updates, coalesce(sum(s.n_tup_hot_upd), 0)::bigint AS hot
          FROM pg_catalog.pg_stat_all_tables AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.relid
         WHERE {OF_THE_TABLE}
        """,
        *table.qualified,
    )
    if (updates := rows[0]["updates"]) < UPDATES:
        return []
    claims = "nor under a Limit a claim" if table.rules.counts_held else "a claim is where its page has room"
    return [
        note(
            f"{rows[0]['hot'] / updates:.0%} of {updates:,} updates of {table.table} were HOT: a finish never is, {claims}"
        )
    ]
