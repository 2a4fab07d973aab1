"""`overview`: one look at how a mapping is doing, for what shows it again and again. Its parts are values of `glance`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from session_lock.catalog import read_shape
from session_lock.errors import SchemaError
from session_lock.explaining import SessionShare, explained
from session_lock.facts import Locker
from session_lock.glance import (
    Backlog,
    Connections,
    Failure,
    Holder,
    LiveSession,
    Overview,
    TableState,
    Throughput,
)
from session_lock.migrations.looks import CONNECTIONS, FOR_HOLDERS, HOLDERS, ME, STATE, walsender
from session_lock.migrations.sandbox import (
    Connection,
    Refused,
    attempt,
    given_up_in_doubt,
    rolled_back,
    set_locally,
)
from session_lock.names import one_line_safe, quote_name
from session_lock.objects import function_set
from session_lock.ordering import order_by
from session_lock.sqlstate import OF_THE_SERVER, translated
from session_lock.table import TaskTable, install_command

__all__ = [
    "Backlog",
    "Connections",
    "Failure",
    "Holder",
    "LiveSession",
    "Overview",
    "TableState",
    "Throughput",
    "overview",
]

OLD = 10.0
"""Seconds for which a transaction is open before it is told of: the service's own are shorter."""

OLD_THERE = 60.0
"""The same, of a standby: it tells each 10 s of what is open there, unless it is set up otherwise."""

COUNTED = 10_000
"""Tasks of a backlog, and failures of the schema, that are looked at; the mapping's function counts no further either."""

SHOWN = 20
"""Failures that are told."""

ERROR = 1_000
"""Characters of an error that are told."""

PART = 5.0
"""Seconds that a part may take."""

LOOK = 8.0
"""Seconds that all of them may take: less than who looks again and again waits for."""

PATIENCE = "500ms"
"""Waited for a lock."""

WHOLE = {"42", "3F", "SL"}
"""Classes of refusals that are about the whole, as where nothing is installed; after any other that part is left out."""

NO_RIGHT = "42501"

WHY = {
    "55P03": "the table is locked by another transaction: end that, or wait for it",
    "57014": "it took too long: the server is busy, or its statistics are old (ANALYZE)",
}


async def overview(connection: Connection, table: TaskTable, *, old: float = OLD) -> Overview:
    """One look at a mapping, by a connection of asyncpg that is in no transaction. It changes nothing.

    Every count is bounded. A part that takes longer than 5 s or waits longer than 0.5 s for a lock is left out, and so are those to which
    it has not come after 8 s, and what the role has no right to. A role that may execute the mapping's functions sees sessions, shares and backlog; the owner of the schema
    with `pg_read_all_stats` sees all. Transactions that are open for less than `old` seconds are not told of.

    `SchemaError`: the table is not there, or this version of the mapping is not installed. `DatabaseError`: the connection is broken.
    A look that is cancelled or times out terminates the connection: what it waited for may never come.
    """
    with translated(f"overview ({table.name})", install_command(table)), given_up_in_doubt(connection):
        functions = function_set(table, await read_shape(connection, table))
        async with rolled_back(connection, patience=f"{PART:.0f}s"):
            await set_locally(connection, lock_timeout=PATIENCE)
            look = _Look(connection, table, functions)
            (me,) = await connection.fetch(ME)
            role = str(me["role"])
            paused, paused_since, sessions = await look.sessions(role)
            return Overview(
                at=me["at"],
                name=table.name,
                table=".".join(table.qualified),
                paused=paused,
                paused_since=paused_since,
                sessions=sessions,
                backlog=await look.backlog(role, sessions),
                failures=await look.failures(role),
                connections=await look.connections(role),
                state=await look.state(role, counted=me["counted"]),
                holders=await look.holders(role, old, sees_all=me["sees_all"]),
                left_out=tuple(look.left_out),
            )


class _Look:
    """The parts, one by one: what hinders one does not hinder the next."""

    def __init__(self, connection: Connection, table: TaskTable, functions: str) -> None:
        self._connection = connection
        self._table = table
        self._functions = functions
        self._schema = quote_name(table.schema)
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + LOOK
        self.left_out: list[str] = []

    async def _rows(
        self, part: str, remedy: str, query: str, *arguments: object
    ) -> Sequence[Mapping[str, Any]] | None:
        rows = await self._asked(query, *arguments)
        if not isinstance(rows, Refused):
            return rows
        if rows.state[:2] in WHOLE and rows.state != NO_RIGHT:
            raise SchemaError(
                f"overview ({self._table.name}): {rows.message}; run: {install_command(self._table)}"
            )
        if rows.state == NO_RIGHT:
            why = f"{rows.message}: {remedy}"
        elif rows.state[:2] in OF_THE_SERVER:
            why = WHY.get(rows.state, f"{rows.message} ({rows.state})")
        else:  # the message may quote a row
            why = f"some row makes an expression of the mapping fail ({rows.state}): the log of the server has more"
        self.left_out.append(f"{part} left out, {why}")
        return None

    async def _asked(self, query: str, *arguments: object) -> Sequence[Mapping[str, Any]] | Refused:
        left = self._until - self._clock()
        if left <= 0:
            return Refused("57014", "there was no time left for it")
        if left < PART:
            await set_locally(self._connection, statement_timeout=f"{left * 1000 + 1:.0f}ms")
        return await attempt(self._connection, query, *arguments)

    def _called(self, verb: str) -> str:
        return f"{self._schema}.{quote_name(f'{verb}_{self._functions}')}"

    async def sessions(self, role: str) -> tuple[bool, datetime | None, Sequence[LiveSession] | None]:
        schema, name = self._schema, self._table.name
        grant = f"{install_command(self._table)} --grant-to {role}"
        facts = await self._rows("sessions", grant, f"SELECT * FROM {self._called('shares')}()")
        pause = await self._rows(
            "since when it is paused",
            f"GRANT SELECT ON {schema}.pause TO {role}",
            f"SELECT p.at FROM {schema}.pause AS p WHERE p.name = $1",
            name,
        )
        leases = await self._rows(
            "keepalives and leases",
            f"GRANT SELECT (id, beat_at, started_at, expires_at, drain_requested) ON {schema}.session TO {role}",
            f"""
            SELECT s.id, s.drain_requested, extract(epoch FROM c.now - coalesce(s.beat_at, s.started_at))::float8 AS beat_age,
                   extract(epoch FROM s.expires_at - c.now)::float8 AS lease_left
              FROM {schema}.session AS s, (SELECT {schema}.clock() AS now) AS c
             WHERE s.id = ANY ($1)
            """,
            [row["session"] for row in facts or ()],
        )
        by_id = {row["id"]: row for row in leases or ()}
        since = pause[0]["at"] if pause else None
        return (
            since is not None or any(row["paused"] for row in facts or ()),
            since,
            None
            if facts is None
            else [_live_session(share, by_id.get(share.session)) for share in explained(facts)],
        )

    async def backlog(self, role: str, sessions: Sequence[LiveSession] | None) -> Backlog | None:
        """The function answers to the oldest live session, so that metrics have one source. Where none lives the table is asked; it
        cannot tell what is held, so not where one may live.
        """
        oldest = next((each.session for each in sessions or () if each.live), None)
        grant = f"{install_command(self._table)} --grant-to {role}"
        rows = await self._rows("backlog", grant, f"SELECT * FROM {self._called('backlog')}($1)", oldest)
        if rows is not None and not rows and (sessions is None or oldest is not None):
            self.left_out.append("backlog left out, no session is known that may tell it: look again")
            return None
        if rows is not None and not rows:
            due = f"t.{quote_name(self._table.claim_columns.available_at)}"
            rows = await self._rows(
                "backlog (no session lives, so the table itself is asked)",
                f"GRANT SELECT ON {self._table.quoted} TO {role}",
                f"""
                SELECT count(*) AS tasks,
                       extract(epoch FROM clock_timestamp() - min(task.due) FILTER (WHERE task.due > '-infinity'))::float8 AS oldest
                  FROM (SELECT {due} AS due FROM {self._table.quoted} AS t
                         WHERE ({one_line_safe(self._table.pending)}) AND {due} <= clock_timestamp()
                         ORDER BY {order_by(self._table, "t.")} LIMIT {COUNTED}) AS task
                """,
            )
        if not rows:
            return None
        tasks = rows[0]["tasks"]
        return Backlog(tasks=tasks, more=tasks >= COUNTED, oldest=rows[0]["oldest"] if tasks else None)

    async def failures(self, role: str) -> Sequence[Failure] | None:
        rows = await self._rows(
            "failures",
            f"GRANT SELECT ON {self._schema}.failure TO {role}",
            f"""
            SELECT f.task_key AS key, f.attempt, f.at, f.session, left(f.error, {ERROR}) AS error
              FROM (SELECT * FROM {self._schema}.failure AS f ORDER BY f.id DESC LIMIT {COUNTED}) AS f
             WHERE f.name = $1
             ORDER BY f.id DESC
             LIMIT {SHOWN}
            """,
            self._table.name,
        )
        return None if rows is None else [Failure(**row) for row in rows]

    async def connections(self, role: str) -> Connections | None:
        views = "pg_catalog.pg_stat_database, pg_catalog.pg_stat_activity"
        rows = await self._rows("connections", f"GRANT SELECT ON {views} TO {role}", CONNECTIONS)
        return None if rows is None else Connections(**rows[0])

    async def state(self, role: str, *, counted: bool) -> TableState | None:
        if not counted:
            self.left_out.append(
                "the table's rows left out, track_counts of the server is off: ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()"
            )
            return None
        grant = f"GRANT SELECT ON pg_catalog.pg_stat_all_tables TO {role}"
        rows = await self._rows("the table's rows", grant, STATE, *self._table.qualified)
        return None if rows is None else TableState(**rows[0])

    async def holders(self, role: str, old: float, *, sees_all: bool) -> Sequence[Holder] | None:
        grant = "; ".join(f"GRANT {each} TO {role}" for each in FOR_HOLDERS)
        rows = await self._rows("what holds vacuum", grant, HOLDERS, old, max(old, OLD_THERE))
        if rows is None:
            return None
        if not sees_all:
            self.left_out.append(
                f"old transactions of other roles left out, {role} may not see since when they are open: GRANT pg_read_all_stats TO {role}"
            )
        return [_holder(row) for row in rows]


def _live_session(share: SessionShare, lease: Mapping[str, Any] | None) -> LiveSession:
    asked = lease is not None and lease["drain_requested"] and share.state == "live"
    told = {field.name: getattr(share, field.name) for field in fields(share)}
    if asked:
        told |= {"state": "draining", "why": "it is asked to drain"}
    seen = lease or {"beat_age": None, "lease_left": None}
    return LiveSession(**told, beat_age=seen["beat_age"], lease_left=seen["lease_left"])


def _holder(row: Mapping[str, Any]) -> Holder:
    name, pid, application = row["name"], row["pid"], row["application"]
    if row["kind"] == "transaction":
        name = str(Locker(pid=pid, application_name=application, role=row["role"], since=None, sure=True))
    elif row["kind"] == "standby":
        name = walsender(pid, application, row["address"], name)
    return Holder(kind=row["kind"], name=name, since=row["since"], transactions=row["transactions"])
