"""`session-lock sql queue`, and the other commands on a ready-made table, also of a name that nobody would choose."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import pytest

from session_lock import enqueue, enqueue_many, queue
from session_lock.enqueuing import COPY_FROM
from tests.cli.test_cli import admin, cli  # noqa: F401 (fixtures)

ODD = '"my.sche""ma  \n--"."jo\'bs  \\x; $1"'


@pytest.mark.parametrize(
    ("name", "schema"), [("jobs", "session_lock"), (ODD, "other 'schema'")], ids=["plain", "odd"]
)
async def test_the_printed_table_is_all_that_it_takes(cli, admin, name, schema):
    jobs, module = queue(name, schema=schema), f"printed_{cli.module}"
    await admin.execute('CREATE SCHEMA "my.sche""ma  \n--"')
    (cli.folder / f"{module}.py").write_text(
        f"from session_lock import queue\njobs = queue({name!r}, schema={schema!r})\n"
    )
    assert await cli("sql", "queue", name, "--schema", schema, "--grant-to", "app", dsn="") == 0, cli.err
    for _ in range(2):
        await admin.execute(cli.out)
    mapping = (f"{module}:jobs",)
    assert await cli("check", *mapping, "--role", "app") == 0, cli.out
    assert await cli("install", *mapping, "--yes") == 0
    assert "Everything was there already." in cli.out
    await admin.execute("SET ROLE app")
    assert not (await enqueue(admin, jobs, 1, dedup_key="k")).duplicate
    assert (await enqueue(admin, jobs, 1, dedup_key="k")).duplicate
    assert len(await enqueue_many(admin, jobs, [1] * COPY_FROM)) == COPY_FROM
    await admin.execute("RESET ROLE")

    (cli.folder / "migrations").mkdir()
    assert await cli("sql", "copy", str(cli.folder / "migrations"), "--start", "1", *mapping) == 0
    assert any("_due_index.up.sql" in line for line in cli.out.splitlines())


async def test_a_name_that_is_none(cli):
    assert await cli("sql", "queue", "a.b.c", dsn="") == 2
    assert 'is not "table" or "schema.table"' in cli.err
