"""`doctor`: what is wrong around a mapping now. `check` compares what is installed, and is one of its looks; the others ask how the server
treats it: whether it can be reached, what it plans, who is in the way. Nothing is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from session_lock.connections import Connect, Connection, open_connection
from session_lock.doctor import plan, server, table, way, work
from session_lock.doctor.case import Case, Look, said
from session_lock.errors import DatabaseError
from session_lock.findings import SEVERITIES, Finding, Severity
from session_lock.migrations.sandbox import refusal, sentence
from session_lock.server import Wanted
from session_lock.sqlstate import translated

__all__ = ["LOOKS", "SEVERITIES", "Finding", "Severity", "doctor", "doctor_by"]

LOOKS: dict[str, Look] = {
    "service": way.service,
    "pooler": way.pooler,
    "wake-ups": way.wake_ups,
    "clock": way.clock,
    "time zone": way.time_zone,
    "server": server.settings,
    "locks": table.locks,
    "snapshots": server.snapshots,
    "prepared transactions": server.prepared,
    "replication slots": server.slots,
    "standbys": server.standbys,
    "installation": table.installation,
    "vacuum": table.vacuum,
    "plan": plan.plan,
    "sessions": work.sessions,
    "backlog": work.backlog,
    "claims": work.claims,
    "failures": work.failures,
}

CONNECT_TIMEOUT = 10.0
"""Seconds."""


async def doctor(
    connection: Connection,
    wanted: Wanted,
    *,
    connect: Connect,
    listen: Connect | None,
    role: str | None = None,
) -> Sequence[Finding]:
    """What is wrong, the worst first; [] if nothing is.

    `connection` looks, as the role that it belongs to; what that may not see is said. `connect` and `listen` are how the service
    connects, `role` is the service's, by default that of `connect`.
    """
    found: list[Finding] = []
    async with _opened(connect) as service:
        own, theirs = [await each.fetchval("SELECT current_user::text") for each in (connection, service)]
        case = Case(
            connection=connection, service=service, wanted=wanted, connect=connect, listen=listen,
            role=role or (theirs if theirs != own else None),
        )  # fmt: skip
        for name, look in LOOKS.items():
            found += [replace(finding, look=name) async for finding in _seen(name, look, case)]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


async def doctor_by(wanted: Wanted, connect: Connect, listen: Connect | None) -> Sequence[Finding]:
    """As the service itself."""
    with translated(f"doctor ({wanted.name})", wanted.remedy):
        async with _opened(connect) as connection:
            return await doctor(connection, wanted, connect=connect, listen=listen)


@asynccontextmanager
async def _opened(connect: Connect) -> AsyncIterator[Connection]:
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await open_connection(connect, statement_cache_size=0)  # behind a pooler too
        except TimeoutError as error:
            raise DatabaseError(f"no connection within {CONNECT_TIMEOUT:g} s") from error
        stack.callback(connection.terminate)
        yield connection


async def _seen(name: str, look: Look, case: Case) -> AsyncIterator[Finding]:
    """What a look finds; what hinders it is said, and the next one goes on."""
    try:
        async for finding in look(case):
            yield finding
    except Exception as error:
        if case.connection.is_closed():
            raise
        doing = f"{name} could not be looked at"
        refused = await refusal(case.connection, error)
        text = str(sentence(doing, refused)) if refused else f"{doing}: {said(error)}"
        yield Finding(severity="unseen", text=text)
