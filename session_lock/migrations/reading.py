"""What is pending, and what would run next: looks that change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from session_lock.catalog import read_shape
from session_lock.migrations.sandbox import Connection, Refused, attempt, rolled_back, sentence, sentences
from session_lock.migrations.shipping import at_hand
from session_lock.migrations.validation import comment_start, read_claim_columns
from session_lock.names import one_line_safe, quote_name
from session_lock.table import TaskTable
from session_lock.wording import span

COUNTED = 100_000
"""No count goes further."""


@dataclass(frozen=True, slots=True)
class Pending:
    """How much there is to do.

    ```python
    pending = await pending_summary(connection, mails)
    print(pending)  # 2 rows of mail are pending, the oldest due for 5 s
    ```
    """

    table: str
    count: int | None
    """None: it took too long to count."""
    oldest: timedelta | None = None
    """For how long the first row has been due; None if there is no `available_at` to tell it (or no row)."""

    def __str__(self) -> str:
        if self.count is None:
            return f"how many rows of {self.table} are pending could not be counted in 5 s"
        number = f"more than {COUNTED:,}" if self.count > COUNTED else f"{self.count:,}"
        since = f", the oldest due for {span(self.oldest.total_seconds())}" if self.oldest is not None else ""
        return f"{number} row{'' if self.count == 1 else 's'} of {self.table} {'is' if self.count == 1 else 'are'} pending{since}"


async def pending_summary(connection: Connection, table: TaskTable) -> Pending:
    """Count the pending rows, up to 100,000, and tell the age of the oldest where the claim columns are there already.

    It waits no longer than 5 s. Raises `SchemaError` if there is no such table, or its pending cannot be asked for.

    ```python
    if (await pending_summary(connection, mails)).count == 0:
        print("there is nothing to do")
    ```
    """
    source, pending = table.quoted, one_line_safe(table.pending)
    async with (
        sentences(connection, f"{table.table} could not be read"),
        at_hand(connection, table),
        rolled_back(connection, patience="5s"),
    ):
        await read_shape(connection, table)
        has_due = await _is_ours(connection, table)
        rows = await attempt(
            connection,
            f"SELECT count(*) FROM (SELECT FROM {source} AS t WHERE ({pending}) LIMIT {COUNTED + 1}) AS task",
        )
        if isinstance(rows, Refused):
            if rows.state == "57014":
                return Pending(table.table, None)
            raise sentence(f"pending of {table.name!r} could not be asked for", rows)
        oldest = None
        if has_due:
            due = quote_name(table.claim_columns.available_at)
            first = await attempt(
                connection,
                f"SELECT clock_timestamp() - t.{due} AS age FROM {source} AS t "
                f"WHERE ({pending}) AND t.{due} <= clock_timestamp() ORDER BY t.{due} LIMIT 1",
            )
            oldest = first[0]["age"] if first and not isinstance(first, Refused) else None
    return Pending(table.table, rows[0]["count"], oldest)


async def peek(connection: Connection, table: TaskTable, limit: int = 10) -> Sequence[Mapping[str, Any]]:
    """The tasks that would run next, as text, in claim order; none is claimed.

    Each has the mapping's key and columns, and once the claim columns are there also `attempts` and `available_at`: those are
    then left out that are not due, or held by a live session. With `accepts` the mapping has a last one of this name: the least
    `app_version` of a Runner that will be given the task, or None.

    ```python
    for row in await peek(connection, mails, limit=5):
        print(row["id"], row["address"], row["attempts"])
    ```
    """
    async with (
        sentences(connection, f"{table.table} could not be read"),
        at_hand(connection, table),
        rolled_back(connection),
    ):
        await read_shape(connection, table)
        installed = await _is_ours(connection, table)
        statement, arguments = _peek(table, installed=installed)
        rows = await attempt(connection, statement, limit, *arguments)
    if isinstance(rows, Refused):
        raise sentence(f"pending of {table.name!r} could not be asked for", rows)
    return rows


def _peek(table: TaskTable, *, installed: bool) -> tuple[str, list[Any]]:
    claim = table.claim_columns
    columns = list(dict.fromkeys((table.key, *table.columns)))
    where, order, arguments = f"({one_line_safe(table.pending)})", table.order, []
    if installed:
        columns += [column for column in (claim.attempts, claim.available_at) if column not in columns]
        session = f"{quote_name(table.schema)}.session"
        where += (
            f" AND t.{quote_name(claim.available_at)} <= clock_timestamp() AND (t.{quote_name(claim.session_id)} IS NULL"
            f" OR t.{quote_name(claim.session_id)} <> ALL (ARRAY(SELECT s.id FROM {session} AS s WHERE s.name = $2"
            " AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.expires_at > clock_timestamp())))"
        )
        arguments = [table.name]
    else:
        order = tuple(part for part in order if part[0] != claim.available_at)
    selected = ", ".join(f"t.{quote_name(column)}::text AS {quote_name(column)}" for column in columns)
    if table.accepts is not None and "accepts" not in columns:
        selected += f", ({one_line_safe(table.accepts)})::text AS accepts"
    ordered = ", ".join(f"t.{quote_name(column)}{' DESC' if down else ''}" for column, down in order)
    return (
        f"SELECT {selected} FROM {table.quoted} AS t WHERE {where} ORDER BY {ordered} LIMIT $1",
        arguments,
    )


async def _is_ours(connection: Connection, table: TaskTable) -> bool:
    """Whether the claim columns are there, and the sessions."""
    columns = await read_claim_columns(connection, table)
    return (
        len(columns) == 4
        and all(column.comment.startswith(comment_start(table)) for column in columns.values())
        and await connection.fetchval(
            "SELECT to_regclass($1) IS NOT NULL", f"{quote_name(table.schema)}.session"
        )
    )
