"""Remedies that not each role may run: the command, and behind it, in a comment, who may where the role that looks may not."""

from __future__ import annotations

from session_lock.connections import Connection
from session_lock.names import quote_literal

ASKING = """
SELECT quote_ident(u.rolname) AS asking, u.rolsuper AS is_super, u.rolreplication AS replicates
  FROM pg_catalog.pg_roles AS u
 WHERE u.rolname = current_user
"""

OF_THE_CONNECTION = """
SELECT quote_ident(r.rolname) AS role, r.rolsuper AS is_super,
       pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE') AS may_signal
  FROM pg_catalog.pg_stat_activity AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
 WHERE a.pid = $1
"""

PREPARED_BY = """
SELECT quote_ident(p.owner) AS role, p.owner = current_user AS is_own
  FROM pg_catalog.pg_prepared_xacts AS p
 WHERE p.gid = $1
"""


async def ending(connection: Connection, pid: int | None) -> str:
    """What ends somebody's connection."""
    command = f"SELECT pg_terminate_backend({pid})"
    whose = await connection.fetchrow(OF_THE_CONNECTION, pid)
    who = await connection.fetchrow(ASKING)
    if whose is None or who is None or who["is_super"]:
        return command
    if whose["is_super"]:
        return _remarked(command, f"{who['asking']} may not: run it as a superuser, which {whose['role']} is")
    if whose["may_signal"]:
        return command
    return _remarked(
        command,
        f"{who['asking']} may not: run it as {whose['role']} or as a superuser, or GRANT pg_signal_backend TO {who['asking']}",
    )


async def rolling_back(connection: Connection, prepared: str) -> str:
    """What ends a prepared transaction. To be a member of its role is not enough: it has to be that role."""
    command = f"ROLLBACK PREPARED {quote_literal(prepared)}"
    choice = "or COMMIT PREPARED, if whoever prepared it says so"
    whose = await connection.fetchrow(PREPARED_BY, prepared)
    who = await connection.fetchrow(ASKING)
    if whose is None or who is None or who["is_super"] or whose["is_own"]:
        return _remarked(command, choice)
    return _remarked(command, choice, f"{who['asking']} may not: run it as {whose['role']} or as a superuser")


async def dropping(connection: Connection, slot: str) -> str:
    """What removes a replication slot."""
    command = f"SELECT pg_drop_replication_slot({quote_literal(slot)})"
    choice = "if its reader does not come back"
    who = await connection.fetchrow(ASKING)
    if who is None or who["is_super"] or who["replicates"]:
        return _remarked(command, choice)
    return _remarked(
        command, choice, f"{who['asking']} may not: run it as a superuser or a role with REPLICATION"
    )


def _remarked(command: str, *remarks: str) -> str:
    # A name with a line break would end the comment, and what stands behind it would be run along.
    return f"{command} -- {' '.join('; '.join(remarks).split())}"
