"""A task table for who has none: one more mapping, over a table that the library makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from session_lock.table import ClaimColumns, Shape, TaskTable

MADE_BY = "queue"


def queue(name: str, *, schema: str = "session_lock") -> TaskTable:
    """The mapping of a ready-made task table, `name` or `schema.name`; `session-lock install` makes the table too.

    A task's data are its `payload` (JSON, as Python has it), `priority`, `dedup_key`, `traceparent` and `created_at`. Tasks are
    claimed by priority, the smaller the sooner, and then first come, first served. `enqueue` adds them. `schema` is where
    sessions and functions live, as for any `TaskTable`. `SettingsError` says of a name what it cannot be.

    ```python
    jobs = queue("jobs")
    await enqueue(connection, jobs, {"welcome": "ann@example.org"})
    async with PostgresDatabase(dsn, jobs) as database, Runner(database, each(welcome)):
        await serve()
    ```
    """
    return TaskTable(
        name,
        key="id",
        pending="finished_at IS NULL AND discarded_at IS NULL",
        finish="finished_at = clock_timestamp()",
        discard="discarded_at = clock_timestamp()",
        columns=("payload", "priority", "dedup_key", "traceparent", "created_at"),
        order_by=("priority", ClaimColumns().available_at),
        schema=schema,
        made_by=MADE_BY,
    )


SHAPE = Shape(
    key_type="bigint",
    column_types={
        "payload": "jsonb",
        "priority": "smallint",
        "dedup_key": "text",
        "traceparent": "text",
        "created_at": "timestamp with time zone",
        "available_at": "timestamp with time zone",
        "id": "bigint",
    },
    not_null=frozenset({"payload", "priority", "created_at", "available_at", "id"}),
)
"""What the catalog says of a table that `queue.up.sql` has made: who enqueues need not ask it for the functions' names."""


def selected(table: TaskTable | None, envelope: Sequence[str]) -> str:
    """What to read of `get_work`: the payload as text, whatever the driver was told to make of jsonb."""
    if table is None or table.made_by != MADE_BY:
        return "*"
    return ", ".join((*envelope, *(f"{name}::text" if name == "payload" else name for name in table.columns)))


def parsed(table: TaskTable | None, columns: Mapping[str, Any]) -> Mapping[str, Any]:
    if table is None or table.made_by != MADE_BY:
        return columns
    return {**columns, "payload": json.loads(columns["payload"])}
