"""The pending rows that `accepts` keeps from Runners: they would wait in silence."""

from __future__ import annotations

from session_lock.migrations.difference import Difference, note
from session_lock.migrations.reading import COUNTED
from session_lock.migrations.sandbox import Connection, Refused, attempt, rolled_back
from session_lock.names import one_line_safe, quote_name
from session_lock.table import TaskTable


async def unaccepted(connection: Connection, table: TaskTable) -> list[Difference]:
    """Of up to 100,000 pending rows, by what they need: those that no Runner can have, and that no live one may have."""
    if table.accepts is None:
        return []
    source, schema = ".".join(map(quote_name, table.qualified)), quote_name(table.schema)
    query = f"""
        SELECT n.needed, n.rows, {schema}.version_numbers(n.needed) IS NOT NULL AS readable
          FROM (SELECT w.needed, count(*) AS rows
                  FROM (SELECT ({one_line_safe(table.accepts)})::text AS needed
                          FROM {source} AS t WHERE ({one_line_safe(table.pending)}) LIMIT {COUNTED}) AS w
                 GROUP BY w.needed) AS n
         WHERE n.needed IS NOT NULL
           AND NOT EXISTS (SELECT FROM {schema}.session AS s
                            WHERE s.name = $1 AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.expires_at > {schema}.clock()
                              AND {schema}.may_take({schema}.version_numbers(s.app_version), n.needed))
         ORDER BY readable, n.rows DESC, n.needed
         LIMIT 10
    """
    async with rolled_back(connection):
        rows = await attempt(connection, query, table.name)
    if isinstance(rows, Refused):
        return []  # not installed yet, or it took too long: it is worth no more
    return [
        note(
            f"{row['rows']:,} pending row{' needs' if row['rows'] == 1 else 's need'} app_version {row['needed'][:100]!r} (accepts), which "
            + (
                "no live session has"
                if row["readable"]
                else f"cannot be read, so no Runner is given {'it' if row['rows'] == 1 else 'them'}"
            ),
            "" if row["readable"] else "make it numbers and dots, or NULL",
        )
        for row in rows
    ]
