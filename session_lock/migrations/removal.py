"""`remove`: the way back from `install`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from session_lock.catalog import read_shape
from session_lock.errors import SchemaError
from session_lock.migrations.sandbox import Connection, quiet_settings, sentences
from session_lock.names import quote_literal, quote_name
from session_lock.schema import mapping_files, render, shipped
from session_lock.table import TaskTable
from session_lock.wording import span

NAMED = 5
"""Sessions that are named, of those that are in the way."""


async def remove(connection: Connection, table: TaskTable) -> None:
    """Take away what belongs to a mapping: its functions, its indexes and the claim columns; of a table that the library
    ships all of it. The rows of a table of yours stay as they are, and the tables of the sessions, which other mappings share.

    That is so for all versions of the mapping (of its name, over its table), whichever one is given, and whether that one was pruned:
    to take away the earlier ones alone is what `prune` is for. Raises `SchemaError`, and changes nothing, while a session of the
    mapping is live, of any version, and in a transaction that is not READ COMMITTED.

    ```python
    await remove(connection, mails)
    assert len(await check(connection, mails)) > 0
    ```
    """
    async with sentences(connection, f"{table.name!r} was not removed"):
        shape = await read_shape(connection, table)
        async with quiet_settings(connection):
            await _refuse_if_blind(connection, table)
            await _refuse_if_live(connection, table)
            files = (*shipped(table, "down"), *mapping_files(table, "down"))
            text = "\n".join([*(render(name, table, shape) for name in files), _unless_live(table)])
            await connection.execute(text)  # as a whole: outside of a transaction it is one


def _unless_live(table: TaskTable) -> str:
    """Once more, in the end: one may have started while the lock on the table was waited for. It takes all of it back."""
    schema, name = quote_name(table.schema), quote_literal(table.name)
    return f"""
DO $function$
BEGIN
  IF to_regclass({quote_literal(f"{schema}.session")}) IS NOT NULL THEN
    IF EXISTS (SELECT FROM {schema}.session AS s WHERE s.name = {name} AND s.ended_at IS NULL AND s.expires_at > {schema}.clock()) THEN
      RAISE EXCEPTION USING MESSAGE = 'a session of it has started meanwhile: stop the Runners first';
    END IF;
  END IF;
END
$function$;
"""


async def _refuse_if_blind(connection: Connection, table: TaskTable) -> None:
    """A task, or a session, that is committed while the lock is waited for must be seen under it."""
    level = await connection.fetchval("SELECT upper(current_setting('transaction_isolation'))")
    if level != "READ COMMITTED":
        raise SchemaError(
            f"{table.name!r} was not removed: in a transaction that is {level} it would not see what others commit meanwhile: "
            "begin it as READ COMMITTED, or remove it outside of a transaction"
        )


async def _refuse_if_live(connection: Connection, table: TaskTable) -> None:
    schema = quote_name(table.schema)
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{schema}.session"):
        return
    rows = await connection.fetch(
        f"""
        SELECT s.id, s.label, extract(epoch FROM s.expires_at - {schema}.clock())::float8 AS left,
               to_char(s.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS until
          FROM {schema}.session AS s
         WHERE s.name = $1 AND s.ended_at IS NULL AND s.expires_at > {schema}.clock()
         ORDER BY s.expires_at DESC, s.id
        """,
        table.name,
    )
    if rows:
        raise SchemaError(f"{table.name!r} cannot be removed while {_told(rows)}")


def _told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which sessions are live, and until when one has to wait whose Runners are gone: a process that was killed ends no session."""
    last, number = rows[0], len(rows)
    named = [f"{row['id']} ({row['label']})" for row in rows[:NAMED]]
    others = f" and {number - NAMED} more" if number > NAMED else ""
    return (
        f"{number} of its sessions {'is' if number == 1 else 'are'} live: stop the Runners first; if none runs any more, wait "
        f"for the {'lease' if number == 1 else 'leases'} of {', '.join(named)}{others}: "
        f"{'it ends' if number == 1 else 'the last one ends'} in {span(ceil(last['left']))}, at {last['until']} UTC"
    )
