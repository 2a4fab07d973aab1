"""`PostgresDuties`: the runs of duties in PostgreSQL, a table that the library ships."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from session_lock.connections import Connect
from session_lock.names import quote_name
from session_lock.planning import Due, Plan, Standing
from session_lock.postgres import PostgresDatabase
from session_lock.session import Lease
from session_lock.table import TaskTable


def duty_table(schema: str = "session_lock") -> TaskTable:
    """The mapping of duties: what `session-lock install` is given. Services that share a database take a schema each."""
    return TaskTable(
        f"{schema if schema.isidentifier() else quote_name(schema)}.duty_run",
        key="id",
        pending="finished_at IS NULL AND failed_at IS NULL",
        finish="finished_at = now()",
        discard="failed_at = now()",
        columns=("name", "due_at"),
        name="duties",
        schema=schema,
        made_by="duties",
    )


DUTIES = duty_table()
"""`session-lock install session_lock.duties:DUTIES` makes it."""


class PostgresDuties(PostgresDatabase[Due]):
    """The runs of duties in a PostgreSQL database; `Duties` makes one of a DSN. The arguments are `PostgresDatabase`'s.

    ```python
    async with PostgresDuties(dsn, pool=pool) as database, Duties(database, Duty("ping", every("5m"), ping)):
        await serve()
    ```
    """

    def __init__(self, connect: Connect, *, pool: Any = None, schema: str = "session_lock") -> None:
        # Nobody announces a run: when it is due is known.
        super().__init__(connect, duty_table(schema), pool=pool, listen=False, decode=Due)

    async def plan_duties(self, lease: Lease, rank: int, plans: Sequence[Plan]) -> Sequence[Standing]:
        due = [(plan.name, each) for plan in plans for each in plan.due]
        rows = await self._call(
            self._work, "plan_duties", rank,
            [plan.name for plan in plans], [plan.schedule for plan in plans],
            [plan.seen and plan.seen.last_due for plan in plans], [plan.seen and plan.seen.lapsed for plan in plans],
            [name for name, _ in due], [each for _, each in due], lease=lease,
        )  # fmt: skip
        return [Standing(**dict(row)) for row in rows]
