"""`remove`: the way back from `install`."""

from __future__ import annotations

from session_lock.catalog import read_shape
from session_lock.errors import SchemaError
from session_lock.migrations.partitions import at_once
from session_lock.migrations.pruning import function_sets
from session_lock.migrations.sandbox import Connection, quiet_settings, sentences
from session_lock.names import quote_literal, quote_name
from session_lock.objects import due_index_name, function_set, index_name, limit_index_names
from session_lock.schema import mapping_files, render, shipped
from session_lock.table import TaskTable


async def remove(connection: Connection, table: TaskTable) -> None:
    """Take away what belongs to a mapping: its functions, its indexes and the claim columns; of a table that the library
    ships all of it. The rows of a table of yours stay as they are, and the tables of the sessions, which other mappings share.

    While there is another version of the mapping (of its name, over its table) its columns stay: that one needs them. Raises
    `SchemaError`, and changes nothing, while a session of the mapping is live, and in a transaction that is not READ COMMITTED.

    ```python
    await remove(connection, mails)
    assert len(await check(connection, mails)) > 0
    ```
    """
    with sentences(f"{table.name!r} was not removed"):
        shape = await read_shape(connection, table)
        current = function_set(table, shape)
        sets = await function_sets(connection, table, current)
        async with quiet_settings(connection):
            await _refuse_if_blind(connection, table)
            await _refuse_if_live(connection, table)
            if sets.keys() - {current}:
                indexes = (
                    index_name(current),
                    due_index_name(current),
                    *limit_index_names(table, current).values(),
                )
                schema = quote_name(table.qualified[0])
                dropped = [
                    *(f"DROP FUNCTION {function}" for function in sets.get(current, ())),
                    *(f"DROP INDEX IF EXISTS {schema}.{quote_name(index)}" for index in indexes),
                ]
                await at_once(connection, table, [*dropped, _unless_live(table)])
                return
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
    live = await connection.fetchval(
        f"SELECT count(*) FROM {schema}.session AS s WHERE s.name = $1 AND s.ended_at IS NULL AND s.expires_at > {schema}.clock()",
        table.name,
    )
    if live:
        raise SchemaError(
            f"{table.name!r} cannot be removed while {live} of its sessions {'is' if live == 1 else 'are'} live: stop the Runners first"
        )
