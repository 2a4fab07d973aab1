"""What people ask of a mapping's sessions from outside: to pause, to go on, and of one to drain."""

from __future__ import annotations

from session_lock.catalog import Connection
from session_lock.errors import SettingsError
from session_lock.read_only import READ_ONLY, asked
from session_lock.sqlstate import read, translated

MOST = 2**63 - 1
"""No session has an id above this: the server would not even look."""


async def pause(connection: Connection, schema: str, name: str, remedy: str) -> bool:
    """No session of the mapping begins a task until `resume`. False if it was paused already.

    All of these need the rights of the schema's owner, or EXECUTE on the function. `schema` is quoted.
    """
    return await _ask(connection, schema, remedy, f"pause ({name})", "pause_mapping", name)


async def resume(connection: Connection, schema: str, name: str, remedy: str) -> bool:
    """Take `pause` back. False if it was not paused."""
    return await _ask(connection, schema, remedy, f"resume ({name})", "resume_mapping", name)


async def drain(connection: Connection, schema: str, name: str, remedy: str, session: int) -> bool:
    """Its Runner stops as at `stop()`. False if no such session of the mapping lives."""
    if not is_session(session):
        raise SettingsError(f"drain takes the id of a session, a whole number, not {session!r}")
    return await _ask(connection, schema, remedy, f"drain ({name})", "drain_session", name, session)


def is_session(session: object) -> bool:
    return isinstance(session, int) and not isinstance(session, bool) and 0 < session <= MOST


async def _ask(
    connection: Connection, schema: str, remedy: str, what: str, function: str, *arguments: object
) -> bool:
    places = ", ".join(f"${i}" for i in range(1, len(arguments) + 1))
    called = f"{schema}.{function}"
    grant = f"GRANT EXECUTE ON FUNCTION {called} TO ROLE, as the owner of the schema"
    read_only = ""
    with translated(what, remedy, grant=grant, read_only=lambda: read_only):
        try:
            (row,) = await connection.fetch(f"SELECT {called}({places}) AS answer", *arguments)
        except Exception as error:
            if read(error).state == READ_ONLY:
                read_only = await asked(connection)
            raise
        return bool(row["answer"])
