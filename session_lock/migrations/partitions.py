"""What a partitioned table asks for: its indexes are built partition by partition, and its partitions may have other owners."""

from __future__ import annotations

from collections.abc import Sequence

from session_lock.errors import SchemaError
from session_lock.indexes import index_steps
from session_lock.locks import LOCK
from session_lock.migrations.sandbox import Connection
from session_lock.names import quote_name
from session_lock.objects import partition_index_name
from session_lock.schema import render
from session_lock.table import Shape, TaskTable

OF_THE_TABLE = """c.oid IN (SELECT to_regclass(format('%I.%I', $1::text, $2::text))::oid
                         UNION ALL SELECT p.relid FROM pg_partition_tree(to_regclass(format('%I.%I', $1::text, $2::text))) AS p)"""
"""The condition for a table `c` being the task table, or one of its partitions."""


async def build_index(connection: Connection, table: TaskTable, shape: Shape, file: str, name: str) -> None:
    """Build what a file of ours builds, without blocking writers, whatever an earlier attempt has left.

    Within a transaction there is no such build. There it takes a table without rows, of which it takes no time. The settings are
    those of a block of `quiet_settings`.
    """
    within = connection.is_in_transaction()
    if within and await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table.quoted})"):
        raise SchemaError(
            f"{table.table} has rows, and to build its index {name} without blocking those who write it takes a connection "
            "that is in no transaction: install there (Django: atomic = False in the class of the migration)"
        )
    if within:
        await connection.execute(render(LOCK, table, None))
    else:  # a concurrent build waits for old transactions and holds up nobody; given up it would leave an invalid index
        await connection.fetch("SELECT set_config('lock_timeout', '0', false)")
    if shape.partitions is None:
        await _drop_invalid(connection, table.qualified[0], name)
    elif await incomplete(connection, table, name):
        await drop_whole(connection, table, f"{quote_name(table.qualified[0])}.{quote_name(name)}")
    for partition in shape.partitions or ():
        await _drop_invalid(connection, partition[0], partition_index_name(name, partition))
    for statement in index_steps(file, table, shape).values():
        await connection.execute(_plain(statement) if within else statement)


def _plain(statement: str) -> str:
    return statement.replace("INDEX CONCURRENTLY", "INDEX")


async def _drop_invalid(connection: Connection, schema: str, name: str) -> None:
    """What a build that failed has left: it serves nobody, and its name is taken."""
    full_name = f"{quote_name(schema)}.{quote_name(name)}"
    invalid = "SELECT EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indexrelid = to_regclass($1) AND NOT i.indisvalid)"
    if await connection.fetchval(invalid, full_name):
        statement = f"DROP INDEX CONCURRENTLY {full_name}"
        await connection.execute(_plain(statement) if connection.is_in_transaction() else statement)


async def drop_whole(connection: Connection, table: TaskTable, full_name: str) -> None:
    """With the parts that it has: none of them can be taken out of it and built anew."""
    if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", full_name):
        await at_once(connection, table, [f"DROP INDEX IF EXISTS {full_name}"])


async def at_once(connection: Connection, table: TaskTable, statements: Sequence[str]) -> None:
    """What takes no time once the table is locked, sent with the lock: nobody waits for what this program does meanwhile, or for the
    way to the server. Outside of a transaction it is one.
    """
    text = ";\n".join([render(LOCK, table, None).rstrip().rstrip(";"), *statements])
    await connection.execute(text)


async def incomplete(connection: Connection, table: TaskTable, name: str) -> str:
    """Of an index that is to serve each partition: what is wrong with it, in words, or "" (also of an ordinary table)."""
    rows = await connection.fetch(
        """
        SELECT format('%I.%I', n.nspname, c.relname) AS partition
          FROM pg_partition_tree(to_regclass($1)) AS p
          JOIN pg_catalog.pg_class AS c ON c.oid = p.relid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE NOT EXISTS (SELECT FROM pg_partition_tree(to_regclass($2)) AS part
                             JOIN pg_catalog.pg_index AS i ON i.indexrelid = part.relid
                            WHERE i.indrelid = p.relid AND i.indisvalid)
         ORDER BY NOT p.isleaf, n.nspname, c.relname
        """,
        table.quoted,
        f"{quote_name(table.qualified[0])}.{quote_name(name)}",
    )
    return f"is missing or invalid in {rows[0]['partition']}" if rows else ""


async def check_partition_rights(connection: Connection, table: TaskTable) -> None:
    """Refuse a role that owns the table and not each partition of it, or may not build an index beside one."""
    rows = await connection.fetch(
        """
        SELECT current_user::text AS role, format('%I.%I', n.nspname, c.relname) AS partition, r.rolname AS owner,
               n.nspname AS schema, pg_has_role(c.relowner, 'USAGE') AS owns
          FROM pg_partition_tree(to_regclass($1)) AS p
          JOIN pg_catalog.pg_class AS c ON c.oid = p.relid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
         WHERE NOT (pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE'))
         ORDER BY n.nspname, c.relname
        """,
        table.quoted,
    )
    for row in rows:
        if not row["owns"]:
            raise SchemaError(
                f"the role {row['role']!r} does not own {row['partition']}, a partition of {table.table}: "
                f"connect as a role that owns them all (this one is of {row['owner']!r})"
            )
        raise SchemaError(
            f"the role {row['role']!r} may not create an index in the schema {row['schema']!r}, where the partition "
            f"{row['partition']} is: GRANT USAGE, CREATE ON SCHEMA {quote_name(row['schema'])} TO {quote_name(row['role'])}"
        )
