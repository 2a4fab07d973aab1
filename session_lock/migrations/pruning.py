"""`prune`: takes away what earlier versions of a mapping have left, and old news."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from session_lock.catalog import read_shape
from session_lock.errors import SchemaError
from session_lock.limits import Rate
from session_lock.migrations.partitions import drop_whole
from session_lock.migrations.sandbox import Connection, quiet_settings, sentences
from session_lock.names import quote_inside_literal, quote_name
from session_lock.objects import function_set
from session_lock.table import TaskTable

SESSIONS_KEPT = timedelta(days=7)
FAILURES_KEPT = timedelta(days=30)


async def prune(
    connection: Connection,
    table: TaskTable,
    *,
    sessions_kept: timedelta = SESSIONS_KEPT,
    failures_kept: timedelta = FAILURES_KEPT,
) -> list[str]:
    """Drop the functions and indexes of this mapping's earlier versions, and what is old; returns what was done.

    Old are sessions of this name that were swept more than `sessions_kept` ago (they ended before that), defaults to 7 days,
    failures older than `failures_kept`, defaults to 30 days, and starts that no Rate counts any more. Raises
    `SchemaError`, and changes nothing, while a live session uses an earlier version or when the current one is not installed.

    ```python
    for done in await prune(connection, mails, sessions_kept=timedelta(days=1)):
        print(done)
    ```
    """
    async with sentences(connection, f"{table.name!r} could not be pruned"):
        shape = await read_shape(connection, table)
        current = function_set(table, shape)
        sets = await function_sets(connection, table, current)
        if current not in sets:
            raise SchemaError(
                f"the current version of {table.name!r}, {current}, is not installed: run session-lock install first"
            )
        old = {name: functions for name, functions in sets.items() if name != current}
        schema = quote_name(table.schema)
        done: list[str] = []
        async with quiet_settings(connection):
            async with connection.transaction():
                for name, functions in old.items():
                    for function in functions:
                        await connection.execute(f"DROP FUNCTION {function}")
                    done.append(f"dropped the {len(functions)} functions of {name}")
                # Only now: a session that starts from here on finds none of them.
                await _refuse_if_used(connection, table, list(old))
                sessions = await connection.fetch(
                    f"DELETE FROM {schema}.session WHERE name = $1 AND ended_at IS NOT NULL AND swept_at < {schema}.clock() - $2::interval "
                    "RETURNING id",
                    table.name,
                    sessions_kept,
                )
                failures = await connection.fetch(
                    f"WITH gone AS (DELETE FROM {schema}.failure WHERE name = $1 AND at < {schema}.clock() - $2::interval RETURNING id) "
                    "SELECT count(*) AS number FROM gone",
                    table.name,
                    failures_kept,
                )
                # Those of a value that never comes by again. A day more: other numbers may be installed as yet.
                longest = max((limit.per for limit in table.limits if isinstance(limit, Rate)), default=0.0)
                starts = await connection.fetch(
                    f"WITH gone AS (DELETE FROM {schema}.started WHERE name = $1 AND at < {schema}.clock() - $2::interval RETURNING at) "
                    "SELECT count(*) AS number FROM gone",
                    table.name,
                    timedelta(days=1, seconds=longest),
                )
            for index, is_whole in await _old_indexes(connection, table, current, list(old)):
                if is_whole:
                    await drop_whole(connection, table, index)
                else:  # it waits for old transactions and holds up nobody; given up it would leave an invalid index
                    await connection.fetch("SELECT set_config('lock_timeout', '0', false)")
                    await connection.execute(f"DROP INDEX CONCURRENTLY {index}")
                done.append(f"dropped the index {index}")
    for number, what in (
        (len(sessions), "session"),
        (failures[0]["number"], "failure"),
        (starts[0]["number"], "start"),
    ):
        if number:
            done.append(f"deleted {number:,} old {what}{'' if number == 1 else 's'}")
    return done


async def function_sets(connection: Connection, table: TaskTable, current: str) -> dict[str, list[str]]:
    """The functions of each version of this mapping: of its name, over its table."""
    rows: Sequence[Mapping[str, Any]] = await connection.fetch(
        """
        SELECT substring(p.proname FROM length(p.proname) - length($2) - 8) AS set, p.proname AS name, p.prosrc AS body,
               format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS function
          FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
         WHERE n.nspname = $1 AND p.proname ~ ('^[a-z_]+_' || $2 || '_[0-9a-f]{8}$')
         ORDER BY p.proname
        """,
        table.schema,
        current[:-9],
    )
    title = f"'{quote_inside_literal(table.name)}'::text"
    ours = {
        row["set"]
        for row in rows
        if row["name"] == f"finish_tasks_{row['set']}"
        and f"UPDATE {table.quoted} AS t" in row["body"]
        and title in row["body"]
    }
    verbs = "standing|possible|pick|get_work|finish_tasks|finish_in|release_tasks|end_session|cancel_task|retry_tasks|backlog|shares|why|enqueue|enqueue_keys"
    sets: dict[str, list[str]] = {}
    for row in rows:
        if row["set"] in ours and re.fullmatch(rf"(?:{verbs})(?:_v\d+)?_{row['set']}(?:_v\d+)?", row["name"]):
            sets.setdefault(row["set"], []).append(row["function"])
    return sets


async def _refuse_if_used(connection: Connection, table: TaskTable, old: list[str]) -> None:
    schema = quote_name(table.schema)
    rows = await connection.fetch(
        f"SELECT s.id, s.label, s.functions FROM {schema}.session AS s WHERE s.functions = ANY ($1) AND s.swept_at IS NULL"
        f" AND s.ended_at IS NULL AND s.expires_at > {schema}.clock() ORDER BY s.id",
        old,
    )
    if rows:
        first, others = rows[0], f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise SchemaError(
            f"{first['functions']} is in use by the live session {first['id']} ({first['label']}){others}: "
            "stop the instances of the earlier version first"
        )


async def _old_indexes(
    connection: Connection, table: TaskTable, current: str, old: list[str]
) -> list[tuple[str, bool]]:
    """Each, and whether it is that of a partitioned table, parts included. Those of the versions that were dropped now, and what an earlier prune may have left: no functions, but our column."""
    rows = await connection.fetch(
        """
        SELECT format('%I.%I', n.nspname, x.relname) AS index, x.relkind = 'I' AS is_whole
          FROM pg_catalog.pg_index AS i
          JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
          JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND x.relname ~ ('^(?:pending|due|values|held)_' || $3 || '_[0-9a-f]{8}$')
           AND x.relname !~ ('_' || $4::text || '$')
           AND (x.relname = ANY ($5) OR
                NOT EXISTS (SELECT FROM pg_catalog.pg_proc AS p WHERE right(p.proname, 8) = right(x.relname, 8))
                AND (x.relname !~ '^pending_' OR EXISTS (
                      SELECT FROM pg_catalog.pg_attribute AS a
                       WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) AND a.attname = $6)))
         ORDER BY x.relname
        """,
        *table.qualified,
        current[:-9],
        current,
        [f"{kind}_{each}" for kind in ("pending", "due", "values", "held") for each in old],
        table.claim_columns.available_at,
    )
    return [(row["index"], row["is_whole"]) for row in rows]
