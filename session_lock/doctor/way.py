"""How the service reaches the database: what it is told there, through what, and by which clock."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from session_lock.conjuncts import items
from session_lock.connections import Connection, open_connection
from session_lock.doctor.case import Case, said
from session_lock.errors import SessionLockError
from session_lock.findings import Finding, Severity
from session_lock.listener import round_trip
from session_lock.names import quote_name
from session_lock.read_only import altered
from session_lock.server import meet
from session_lock.sqlstate import is_driver_error, read
from session_lock.table import TaskTable
from session_lock.wording import span

SKEW = 2.0
"""Seconds between two clocks that are nothing to speak of."""

BUSY = 2.0
"""Seconds without an answer, after which a pooler has no backend to spare."""

HOLDERS = 3
"""Backends that are taken away from a pooler to see whether the next statement goes to another one."""

FULL = 0.1
"""Of the server's room for notifications that nobody has read. At 0.5 it complains, at 1 each commit with a wake-up fails."""


# What it is told ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One of the service's own, and when it is in the way."""

    name: str
    is_wrong: Callable[[str], bool]
    severity: Severity
    effect: str
    advised: str


def _below(milliseconds: int) -> Callable[[str], bool]:
    return lambda setting: 0 < int(setting) < milliseconds


CUT_OFF = "a call that waits its 2 s for a lock is cut off, and so is a keepalive when the server is slow"
LOST = "a crash of the server takes back the last claims and finishes, and tasks run again under a token that was given before"
CLOSED = "connections are closed between two keepalives, the one that listens too"

SETTINGS = (
    Setting("default_transaction_read_only", "on".__eq__, "error", "no task can be claimed", "off"),
    Setting("default_transaction_isolation", "read committed".__ne__, "note", "each call takes three round trips, not one", "'read committed'"),
    Setting("synchronous_commit", "off".__eq__, "warning", LOST, "on"),
    Setting("statement_timeout", _below(5_000), "warning", CUT_OFF, "0"),
    Setting("transaction_timeout", _below(5_000), "warning", CUT_OFF, "0"),
    Setting("idle_session_timeout", _below(10_000), "warning", CLOSED, "0"),
)  # fmt: skip


async def service(case: Case) -> AsyncIterator[Finding]:
    """What a Runner is told, and under which settings it works."""
    try:
        await meet(case.service, case.wanted, None)
    except SessionLockError as error:
        text, _, remedy = str(error).partition("; ")
        yield Finding(
            severity="error",
            text=f"no Runner starts: {text}",
            remedy=remedy.replace("run: ", "run ", 1),
            evidence={"error": type(error).__name__},
        )
    rows = await case.service.fetch(
        "SELECT name, setting, unit, quote_ident(current_user) AS role, quote_ident(current_database()) AS database"
        " FROM pg_catalog.pg_settings WHERE name = ANY ($1)",
        [each.name for each in SETTINGS],
    )
    told = {row["name"]: row for row in rows}
    for each in SETTINGS:
        row = told.get(each.name)
        if row is not None and each.is_wrong(row["setting"]):
            yield Finding(
                severity=each.severity,
                text=f"{each.name} of the role {row['role']} is {row['setting']}{' ms' if row['unit'] else ''}: {each.effect}",
                remedy=altered(row["role"], row["database"], each.name, each.advised),
                evidence={"name": each.name, "setting": row["setting"], "role": row["role"]},
            )
    row = await case.service.fetchrow(
        "SELECT has_table_privilege('pg_catalog.pg_stat_activity', 'SELECT') AS sees, quote_ident(current_user) AS role"
    )
    assert row is not None
    if not row["sees"]:
        yield Finding(
            severity="warning",
            text=f"the role {row['role']} may not read pg_stat_activity: a call that was given up, as it did not answer, cannot be ended and keeps "
            "what it has locked until it ends by itself",
            remedy=f"GRANT SELECT ON pg_catalog.pg_stat_activity TO {row['role']}",
            evidence={"role": row["role"]},
        )


# Through what ------------------------------------------------------------------------------------------


async def pooler(case: Case) -> AsyncIterator[Finding]:
    """Connections of the service's kind: one that asks twice, and meanwhile others that take backends away."""
    backend = "SELECT pg_backend_pid()"
    async with AsyncExitStack() as stack:

        async def opened() -> Connection:
            connection = await open_connection(case.connect)
            stack.callback(connection.terminate)
            return connection

        async with asyncio.timeout(BUSY):
            asking = await opened()
            first = await asking.fetchval(backend)
        if first == asking.get_server_pid():
            return  # the server itself
        taken: list[int] = []
        try:
            with suppress(TimeoutError):  # it has no more
                async with asyncio.timeout(BUSY):
                    while first not in taken and len(taken) < HOLDERS:
                        holder = await opened()
                        await holder.transaction().start()
                        taken.append(await holder.fetchval(backend))
            async with asyncio.timeout(BUSY):
                then = await asking.fetchval(backend)
        except TimeoutError:
            then = None  # another one has taken its backend
        except Exception as error:
            if not is_driver_error(error):
                raise
            state = read(error).state
            if state in {"26000", "42P05"}:
                yield Finding(
                    severity="error",
                    text="a transaction pooler is in between, where a prepared statement is not known to the next backend: calls fail",
                    remedy="as connect give PostgresDatabase an async function that returns asyncpg.connect(dsn, statement_cache_size=0)",
                    evidence={"mode": "transaction", "sqlstate": state},
                )
                return
            yield Finding(
                severity="error",
                text=f"a pooler is in between, in which no transaction can be begun ({read(error).message})",
                remedy="set pool_mode = transaction, or session, in PgBouncer",
                evidence={"mode": "statement", "sqlstate": state},
            )
            return
        if first in taken or then != first:
            yield Finding(
                severity="note",
                text="a transaction pooler is in between: another statement may go to another backend",
                remedy="as connect give PostgresDatabase an async function that returns asyncpg.connect(dsn, statement_cache_size=0), and as listen= "
                "the DSN of the server itself",
                evidence={"mode": "transaction", "backends": [first, *taken, *([then] if then else [])]},
            )


async def wake_ups(case: Case) -> AsyncIterator[Finding]:
    if case.listen is None:
        return
    try:
        await round_trip(case.listen, case.service)
    except Exception as error:  # noqa: BLE001 (`said` raises what is a mistake)
        yield Finding(
            severity="warning",
            text=f"no wake-up is heard, so new tasks wait for the next poll: {said(error)}",
            remedy="give PostgresDatabase(listen=) the DSN of the server itself",
            evidence={"error": type(error).__name__},
        )
    used = await case.service.fetchval("SELECT pg_notification_queue_usage()")
    if used > FULL:
        yield Finding(
            severity="warning",
            text=f"{used:.0%} of the server's room for notifications is used: a connection that listens has a transaction open, and when it is "
            "full no wake-up can be committed",
            remedy="end that transaction: SELECT pid, application_name, xact_start FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
            " ORDER BY xact_start",
            evidence={"used": used},
        )


# By which clock ----------------------------------------------------------------------------------------


async def clock(case: Case) -> AsyncIterator[Finding]:
    before = datetime.now(UTC).timestamp()
    there = await case.service.fetchval(f"SELECT extract(epoch FROM {case.wanted.schema}.clock())::float8")
    after = datetime.now(UTC).timestamp()
    skew = there - (before + after) / 2
    if abs(skew) - (after - before) / 2 > SKEW:
        yield Finding(
            severity="warning",
            text=f"the server's clock is {span(abs(skew))} {'in front of' if skew > 0 else 'behind'} that of this machine: leases run by the "
            "server's alone, but times that instances write, and log lines, do not fit",
            remedy="let both follow one time server: timedatectl set-ntp true",
            evidence={"seconds": round(skew, 3)},
        )


async def time_zone(case: Case) -> AsyncIterator[Finding]:
    """Of columns without one, where what the mapping writes or compares depends on it."""
    if (table := case.table) is None:
        return
    rows = await case.service.fetch(
        """
        SELECT a.attname AS name, current_setting('TimeZone') AS zone
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'timestamp'::regtype
           AND current_setting('TimeZone') NOT IN ('UTC', 'Etc/UTC', 'GMT', 'Etc/GMT')
         ORDER BY a.attnum
        """,
        *table.qualified,
    )
    for row in rows:
        if _depends_on_zone(table, row["name"]):
            yield Finding(
                severity="warning",
                text=f"{table.table}.{row['name']} has no time zone, and that of the service's connections is {row['zone']}: what now() writes "
                "there depends on who writes it, and is ambiguous where clocks are put back",
                remedy=f"ALTER TABLE {table.quoted} ALTER COLUMN {quote_name(row['name'])} TYPE timestamptz -- which rewrites it",
                evidence={"column": row["name"], "zone": row["zone"]},
            )


_WITHOUT_ZONE = re.compile(r"\bAT\s+TIME\s+ZONE\b|\btimezone\s*\(|=\s*NULL\s*$", re.IGNORECASE)
"""In what is assigned: it says itself of which zone it is, or is nothing."""


def _depends_on_zone(table: TaskTable, column: str) -> bool:
    """Whether this one is set without saying of which zone, or compared. IS NULL compares nothing."""
    name = rf'"?\b{re.escape(column)}\b"?'
    is_null = rf"{name}[\s)]*\b(?:IS\s+(?:NOT\s+)?NULL|ISNULL|NOTNULL)\b"
    named, asked = [len(re.findall(each, _code(table.pending), re.IGNORECASE)) for each in (name, is_null)]
    if named > asked or column in (each for each, _ in table.order):
        return True
    return any(
        re.search(name, each.partition("=")[0], re.IGNORECASE) and not _WITHOUT_ZONE.search(each)
        for text in (table.finish, table.discard or "")
        for each in map(_code, items(text))
    )


def _code(expression: str) -> str:
    """Without what is quoted in it."""
    return re.sub(r"'(?:[^']|'')*'", "''", expression)
