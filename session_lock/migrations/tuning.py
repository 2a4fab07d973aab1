"""`tune`: storage parameters that suit a table of tasks, and what they are in the database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from session_lock.catalog import read_shape
from session_lock.migrations.difference import INSTALL, Difference, note
from session_lock.migrations.partitions import OF_THE_TABLE
from session_lock.migrations.sandbox import Connection, sentences
from session_lock.schema import render, source
from session_lock.table import TaskTable

FILE = "tasks.tune.sql"

GAINS = {
    "fillfactor": "with room for its claims in the pages a task writes half of the WAL",
    "autovacuum_vacuum_scale_factor": "dead rows of finished tasks pile up until they are so many of all",
    "autovacuum_vacuum_cost_delay": "its vacuum shares one pace with those of other tables",
}
"""Why to follow the advice, in words."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One that is higher than advised, and where."""

    name: str
    value: str
    advised: str
    is_set: bool
    """Whether somebody has set it on the table; else it is the server's."""
    tables: Sequence[str]
    """The table, or partitions."""

    @property
    def where(self) -> str:
        others = len(self.tables) - 1
        return f"{self.tables[0]}{f' and {others} more partitions' if others else ''}"


async def _read(connection: Connection, table: TaskTable) -> list[Parameter]:
    advised = dict(re.findall(r"\('(\w+)', '([\d.]+)'\)", source(FILE)))
    rows = await connection.fetch(
        f"""
        SELECT advised.name, coalesce(own.value, server.setting, '100') AS value, advised.value AS advised,
               own.value IS NOT NULL AS is_set, array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname) AS tables
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         CROSS JOIN unnest($3::text[], $4::text[]) WITH ORDINALITY AS advised (name, value, position)
          LEFT JOIN pg_catalog.pg_settings AS server ON server.name = advised.name
          LEFT JOIN LATERAL (SELECT o.option_value FROM pg_options_to_table(c.reloptions) AS o
                              WHERE o.option_name = advised.name) AS own (value) ON true
         WHERE {OF_THE_TABLE} AND c.relkind = 'r'
           AND coalesce(own.value, server.setting, '100')::numeric > advised.value::numeric
         GROUP BY advised.position, advised.name, 2, 3, 4
         ORDER BY advised.position, 4, 2
        """,
        *table.qualified,
        list(advised),
        list(advised.values()),
    )
    return [Parameter(**row) for row in rows]


async def untuned(connection: Connection, table: TaskTable) -> list[Difference]:
    """What is higher than advised, and what to do about it."""
    return [
        note(
            f"{each.name} of {each.where} is {each.value}, {each.advised} is advised ({GAINS[each.name]})",
            "somebody has set it, so install --tune leaves it" if each.is_set else f"{INSTALL} --tune",
        )
        for each in await _read(connection, table)
    ]


async def tune(connection: Connection, table: TaskTable) -> list[str]:
    """Set those of the advised storage parameters that nobody has set; returns what was done, and what was left, in sentences.

    [] if all are as advised, or lower. It needs the rights of the table's owner; readers and writers do not notice it.

    ```python
    for done in await tune(connection, mails):
        print(done)  # set fillfactor of public.mail to 50, for pages written from now on
    ```
    """
    async with sentences(connection, f"{table.table} was not tuned"):
        shape = await read_shape(connection, table)
        found = await _read(connection, table)
        if not all(each.is_set for each in found):
            await connection.execute(render(FILE, table, shape))
    return [
        f"left {each.name} of {each.where} at {each.value}, as somebody has set it: {each.advised} is advised"
        if each.is_set
        else f"set {each.name} of {each.where} to {each.advised}"
        + (", for pages written from now on" if each.name == "fillfactor" else "")
        for each in found
    ]
