"""The functions that are in the database, compared with those of our files."""

from __future__ import annotations

import re

from session_lock.migrations.difference import INSTALL, Difference
from session_lock.migrations.sandbox import Connection
from session_lock.migrations.validation import Examined, schema_versions
from session_lock.schema import SCHEMA_VERSION, in_schema, mapping_files, render, shipped, source
from session_lock.table import TaskTable


async def is_newer(connection: Connection, table: TaskTable) -> bool:
    versions = await schema_versions(connection, table)
    return versions is not None and versions[0] > SCHEMA_VERSION


async def session_functions(connection: Connection, table: TaskTable) -> list[Difference]:
    if await is_newer(connection, table):
        return []  # their bodies are for the newer library to compare
    down = in_schema(source("sessions.down.sql"), table.schema)
    return await _functions(connection, down, in_schema(source("sessions.alwaysup.sql"), table.schema))


async def shipped_functions(connection: Connection, table: TaskTable, examined: Examined) -> list[Difference]:
    """Those that come with a table of the library's: the table's own, or the one set of the schema."""
    files = (*shipped(table, "down"), *shipped(table, "alwaysup"))
    newer = await is_newer(connection, table)
    if len(files) < 2 or ("__set__" not in source(files[1]) and newer):
        return []
    down, always = (render(name, table, examined.shape) for name in files)
    return await _functions(connection, down, always, are_newer=newer)


async def task_functions(connection: Connection, table: TaskTable, examined: Examined) -> list[Difference]:
    found: list[Difference] = []
    newer = await is_newer(connection, table)
    # Those with limits first: they are last in "alwaysup" and first in "down".
    for down, always in zip(
        mapping_files(table, "down"), reversed(mapping_files(table, "alwaysup")), strict=True
    ):
        found += await _functions(
            connection, render(down, table, examined.shape), render(always, table, examined.shape), are_newer=newer,
        )  # fmt: skip
    return found


_NAME = r'(?:"(?:[^"]|"")+"|\w+)\.\w+'


async def _functions(
    connection: Connection, down: str, always: str, *, are_newer: bool = False
) -> list[Difference]:
    """Every function of a file against the catalog: body, SECURITY DEFINER, settings, and that it is not for everybody. Of a newer
    library's only that they are there: else the two would replace each other's for as long as both of them install.
    """
    bodies = {
        name: (options, body)
        for name, options, body in re.findall(
            rf"(?ms)^CREATE OR REPLACE FUNCTION ({_NAME})\(.*?^LANGUAGE ([^\n]*)\nAS \$function\$(.*?)\$function\$;",
            always,
        )
    }
    private = set(signatures(always.partition("\nREVOKE ALL ON FUNCTION\n")[2].partition("\nFROM PUBLIC")[0]))
    rows = await connection.fetch(
        """
        SELECT wanted.function AS function, p.prosrc AS body, p.prosecdef AS definer, coalesce(p.proconfig, '{}') AS settings,
               EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0) AS public
          FROM unnest($1::text[]) WITH ORDINALITY AS wanted (function, position)
          LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = to_regprocedure(wanted.function)
         ORDER BY wanted.position
        """,
        re.findall(rf"(?m)^ *DROP FUNCTION IF EXISTS ({_NAME}\(.*\));", down),
    )
    found: list[Difference] = []
    for row in rows:
        function = row["function"]
        options, body = bodies[re.match(_NAME, function)[0]]  # type: ignore[index]
        settings = {
            f"{name}={value}" for name, value in re.findall(r"SET (\w+) = '?(.*?)'?(?= SET |$)", options)
        }
        if row["body"] is None:
            found.append(Difference(f"the function {function} is missing", INSTALL))
        elif not are_newer and (row["body"], row["definer"], set(row["settings"])) != (
            body,
            "SECURITY DEFINER" in options,
            settings,
        ):
            found.append(
                Difference(f"the function {function} is not the one of this library and mapping", INSTALL)
            )
        elif function in private and row["public"]:
            found.append(Difference(f"everybody (PUBLIC) may execute {function}", INSTALL))
    return found


def signatures(text: str) -> list[str]:
    """Functions with their types, one a line, as REVOKE and GRANT list them in our files."""
    return re.findall(rf"(?m)^  ({_NAME}\(.*\)),?$", text)
