"""A transaction that may not write: whose doing that is, and what mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

READ_ONLY = "25006"
"""The SQLSTATE of what is refused there."""

SETTING = "default_transaction_read_only"

FACTS = f"""pg_catalog.pg_is_in_recovery() AS standby, current_setting('{SETTING}') = 'on' AS read_only,
               quote_ident(current_user) AS role, quote_ident(current_database()) AS database"""
"""What is asked to find out; the columns of a SELECT."""

NOT_ASKED = f"connect to the primary if this is a standby, else see to it that {SETTING} is off for this role"


class Asked(Protocol):
    """A connection, as far as it is used here."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]: ...


async def asked(connection: Asked) -> str:
    """The remedy, after something was refused; `NOT_ASKED` where that has ended the caller's transaction, in which nothing more is answered."""
    with suppress(Exception):
        (facts,) = await connection.fetch(f"SELECT {FACTS}")
        return remedy(facts)
    return NOT_ASKED


def altered(role: str, database: str, name: str, value: str) -> str:
    """What gives a role another setting where it connects to a database. Both are quoted."""
    return f"ALTER ROLE {role} IN DATABASE {database} SET {name} = {value}"


def remedy(facts: Mapping[str, Any]) -> str:
    """The reason, if it is not the server, and what is to be done."""
    if facts["standby"]:
        return "connect to the primary, not to a standby"
    if facts["read_only"]:
        role = facts["role"]
        return f"{SETTING} of the role {role} is on: {altered(role, facts['database'], SETTING, 'off')}, and connect anew"
    return "the transaction was begun READ ONLY: begin it READ WRITE"
