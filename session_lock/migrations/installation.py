"""`install`: the files of a mapping, applied where they are needed and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from session_lock.errors import DatabaseError
from session_lock.migrations.comparison import claim_columns, pending_index, rights, session_tables
from session_lock.migrations.functions import is_newer, session_functions, shipped_functions, task_functions
from session_lock.migrations.limiting import wrong_indexes
from session_lock.migrations.partitions import build_index, check_partition_rights
from session_lock.migrations.sandbox import Connection, at_the_end, quiet_settings, sentences
from session_lock.migrations.shipping import at_hand, due_index, is_there, shipped_table
from session_lock.migrations.validation import Examined, check_rights, check_schema_is_ours, examine
from session_lock.names import check_name
from session_lock.objects import due_index_name, function_set, index_name, limit_index_names
from session_lock.schema import mapping_files, render, shipped
from session_lock.table import TaskTable

TURNS = 300
"""How often another installation is looked at, every 0.2 s, before its end is waited for no longer: a minute."""


async def install(connection: Connection, table: TaskTable, *, grant_to: str | None = None) -> list[str]:
    """Bring a mapping into the database; returns what was done, in sentences, [] if all of it was there.

    Sessions, functions, claim columns, index (concurrently) and, with `grant_to`, the rights of a service's role. What is
    there and right is not touched, so it may run at every deploy. Raises `SchemaError` before anything has changed if the
    mapping or the role cannot be served.

    On a connection that is in a transaction all of it is part of that, for a table that has no rows yet: an index cannot be
    built concurrently then. If it has some, and an index is missing, that is a `SchemaError` too.

    ```python
    for done in await install(connection, mails):
        print(done)  # added the claim columns to mail ..
    assert await install(connection, mails) == []
    ```
    """
    examined = await _refuse_what_cannot_be(connection, table, grant_to)
    shape = examined.shape
    done: list[str] = []
    async with (
        sentences(connection, f"the installation of {table.name!r} stopped half-way (run it again)"),
        _turn(connection, table),
        quiet_settings(connection),
    ):
        await check_schema_is_ours(connection, table)  # another installation may have been first
        newer = await is_newer(connection, table)
        if not newer and await session_tables(connection, table):
            if connection.is_in_transaction():
                await connection.execute(render("up.lock.sql", table, shape))
            await connection.execute(render("sessions.up.sql", table, shape))
            done.append(f"made the tables of the schema {table.schema!r}")
        if not newer and await session_functions(connection, table):
            await connection.execute(render("sessions.alwaysup.sql", table, shape))
            done.append(f"made the functions of the schema {table.schema!r}")
        done += await _make_shipped(connection, table, examined)
        if await claim_columns(connection, table):
            await connection.execute(render("tasks.up.sql", table, shape))
            done.append(f"added the claim columns to {table.table}")
        done += await _build_indexes(connection, table, examined)
        if await due_index(connection, table, shape):
            name = due_index_name(function_set(table, shape))
            await build_index(connection, table, shape, "tasks.due.index.sql", name)
            done.append(f"built the index {name} on {table.table}")
        if await task_functions(connection, table, examined):
            for file in mapping_files(table, "alwaysup"):
                await connection.execute(render(file, table, shape))
            done.append(f"made the functions of the mapping {table.name!r}, {function_set(table, shape)}")
        if grant_to is not None and await rights(connection, table, examined, grant_to):
            for name in ("grants.sql", *shipped(table, "grants")):
                await connection.execute(render(name, table, shape, role=grant_to))
            done.append(f"let the role {grant_to!r} execute them")
    return done


async def _refuse_what_cannot_be(connection: Connection, table: TaskTable, grant_to: str | None) -> Examined:
    if grant_to is not None:
        check_name(grant_to, "role")
    examined = await examine(connection, table)
    async with sentences(connection, f"{table.name!r} was not installed"):
        async with at_hand(connection, table):
            await check_rights(connection, table, grant_to=grant_to)
            await check_partition_rights(connection, table)
        await check_schema_is_ours(connection, table)
    return examined


async def takes_no_transaction(
    connection: Connection, table: TaskTable, *, grant_to: str | None = None
) -> bool:
    """Whether an installation has an index to build on rows. Raises `SchemaError`, as `install` would, if it cannot be at all.

    ```python
    if await takes_no_transaction(connection, mails):
        print("it is to be run outside of a transaction")
    ```
    """
    examined = await _refuse_what_cannot_be(connection, table, grant_to)
    if not await is_there(connection, table):
        return False
    return bool(
        await pending_index(connection, table, examined)
        or await wrong_indexes(connection, table, examined.limit_indexes)
        or await due_index(connection, table, examined.shape)
    ) and bool(await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table.quoted})"))


async def _build_indexes(connection: Connection, table: TaskTable, examined: Examined) -> list[str]:
    done: list[str] = []
    functions = function_set(table, examined.shape)
    if await pending_index(connection, table, examined):
        name = index_name(functions)
        await build_index(connection, table, examined.shape, "tasks.index.sql", name)
        done.append(f"built the index {name} on {table.table}")
    if await wrong_indexes(connection, table, examined.limit_indexes):
        for file, name in limit_index_names(table, functions).items():
            await build_index(connection, table, examined.shape, file, name)
        done.append(f"built the indexes of the limits of {table.name!r} on {table.table}")
    return done


async def _make_shipped(connection: Connection, table: TaskTable, examined: Examined) -> list[str]:
    done: list[str] = []
    if await shipped_table(connection, table):
        for name in shipped(table, "up"):
            await connection.execute(render(name, table, examined.shape))
        done.append(f"made the table {table.table}")
    if await shipped_functions(connection, table, examined):
        for name in shipped(table, "alwaysup"):
            await connection.execute(render(name, table, examined.shape))
        done.append(f"made the functions of {table.table}")
    return done


@asynccontextmanager
async def _turn(connection: Connection, table: TaskTable) -> AsyncIterator[None]:
    """One installation at a time in a schema. It asks again and again instead of waiting for the lock, where a waiter
    is a transaction that the other's concurrent index build would have to wait for. So nobody waits who is in one already.
    """
    key = int.from_bytes(
        hashlib.sha256(f"session_lock install {table.schema}".encode()).digest()[:8], signed=True
    )
    within = connection.is_in_transaction()
    attempt = f"SELECT pg_try_advisory{'_xact' if within else ''}_lock($1)"
    for _ in range(1 if within else TURNS):
        if await connection.fetchval(attempt, key):
            break
        if not within:
            await connection.fetch("SELECT pg_sleep(0.2)")  # the caller may have no event loop
    else:
        raise DatabaseError(
            f"another installation in the schema {table.schema!r} is under way: try again when it has ended"
        )
    if within:
        yield
        return
    async with at_the_end(lambda: connection.fetch("SELECT pg_advisory_unlock($1)", key)):
        yield
