"""What the functions that plan duties answer and change, in words: `planned.txt` says what is right.

It is 12:00. There are nine sessions, three duties, and of each of them runs of every kind (see `SET_BACK`); `1 plans a s1 after 12:30 seen: a13:00`
is a call of session 1, that declares duty a by schedule s1, knows of 12:30 as its last time and that it was watched, and plans 13:00.
`python -m tests.sql.planned` prints that file as the SQL has it now: a change of it is what a reviewer reads.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from session_lock.catalog import read_shape
from session_lock.duties import DUTIES
from session_lock.migrations import install
from session_lock.schema import fill, holes
from tests.conftest import fresh_database, prepare_template, running_server
from tests.sql.alone import read_right
from tests.sql.schedule import Lab, open_lab

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
TABLES = {"duty": "name", "duty_run": "name, due_at", "duty_declaration": "name, session"}
SET_BACK = """
UPDATE public.test_clock SET ahead = extract(epoch FROM '2026-06-01 12:00+00' - clock_timestamp());
DELETE FROM session_lock.duty_run; DELETE FROM session_lock.duty; DELETE FROM session_lock.duty_declaration; DELETE FROM session_lock.session;
INSERT INTO session_lock.session (id, nonce, name, capacity, started_at, expires_at, ended_at, draining) OVERRIDING SYSTEM VALUE
SELECT s.id, lpad(to_hex(s.id), 32, '0')::uuid, s.name, 1, '2026-05-01', ('2026-06-01 ' || s.expires)::timestamptz, ('2026-06-01 ' || s.ended)::timestamptz, s.id = 3
  FROM (VALUES (1, 'duties', '13:00+00', NULL), (2, 'duties', '13:00+00', NULL), (3, 'duties', '13:00+00', NULL), (4, 'duties', '13:00+00', '11:00+00'),
               (5, 'duties', '11:30+00', NULL), (6, 'email', '13:00+00', NULL), (7, 'duties', '13:00+00', '11:50+00'), (8, 'duties', '13:00+00', '11:55+00'))
    AS s (id, name, expires, ended);
INSERT INTO session_lock.session (id, name, capacity, started_at, expires_at, ended_at) OVERRIDING SYSTEM VALUE
VALUES (9, 'duties', 1, '2026-05-01', '2026-05-30', '2026-05-30');
INSERT INTO session_lock.duty (name, schedule, since, last_due)
SELECT d, 's' || d, timestamptz '2026-06-01 09:00+00', timestamptz '2026-06-01 12:30+00' FROM unnest(ARRAY['a', 'b', 'z']) AS d;
INSERT INTO session_lock.duty_declaration (name, session, rank, schedule, declared_at, watches)
VALUES ('a', 1, 1, 's1', '2026-06-01 10:00+00', false), ('a', 4, 20, 's2', '2026-06-01 10:00+00', true), ('b', 5, 20, 's2', '2026-06-01 10:00+00', true),
       ('a', 7, 0, 's2', '2026-06-01 10:00+00', true), ('a', 8, 20, 's1', '2026-06-01 10:00+00', true), ('b', 2, 2, 'sb', '2026-06-01 10:00+00', false),
       ('a', 9, 0, 's2', '2026-05-20', false), ('z', 9, 0, 'sz', '2026-05-20', false), ('b', 77, 0, 'sz', '2026-05-20', false);
INSERT INTO session_lock.duty_run (name, due_at, schedule, available_at, finished_at, failed_at, claim_token, session_id)
SELECT d, ('2026-06-01 ' || t.due)::timestamptz - t.ago * interval '40 days', 'old', session_lock.clock(), CASE WHEN t.what = 'finished' THEN session_lock.clock() END,
       CASE WHEN t.what = 'failed' THEN session_lock.clock() - interval '2 min' END, CASE WHEN t.what IN ('begun', 'left') THEN 1 END, CASE t.what WHEN 'begun' THEN 2 WHEN 'left' THEN 4 END
  FROM unnest(ARRAY['a', 'b', 'z']) AS d,
       (VALUES ('11:00+00', 'finished', 0), ('11:10+00', 'failed', 0), ('11:20+00', 'begun', 0), ('11:25+00', 'left', 0), ('11:30+00', 'waits', 0), ('11:40+00', 'waits', 0),
               ('12:30+00', 'waits', 0), ('12:40+00', 'finished', 0), ('12:45+00', 'failed', 0), ('12:50+00', 'begun', 0),
               ('11:00+00', 'finished', 1), ('11:10+00', 'failed', 1), ('11:20+00', 'begun', 1)) AS t (due, what, ago);
"""
WORDS = {
    r"in force": "UPDATE session_lock.duty SET schedule = 's1' WHERE name = 'a'",
    r"watched": "UPDATE session_lock.duty_declaration SET watches = true WHERE session = 1",
    r"2 declares too": "INSERT INTO session_lock.duty_declaration VALUES ('a', 2, 2, 's1', '2026-06-01 10:00+00', false), ('b', 1, 1, 'sb', '2026-06-01 10:00+00', false)",
    r"many wait": "INSERT INTO session_lock.duty_run (name, due_at, schedule, available_at) SELECT 'a', '2026-06-01 10:00+00'::timestamptz + g * interval '1 s', 's1', now() FROM generate_series(1, 105) AS g",
    r"2 comes to z": "INSERT INTO session_lock.duty_declaration VALUES ('z', 2, 2, 'sz', '2026-06-01 10:00+00', false)",
    r"3 declares too": "INSERT INTO session_lock.duty_declaration VALUES ('a', 3, 3, 's3', '2026-06-01 10:00+00', false)",
    r"all went at 11:35": "UPDATE session_lock.session SET ended_at = '2026-06-01 11:35+00' WHERE id IN (7, 8)",
    r"that is noted": "UPDATE session_lock.duty SET since = '2026-06-01 11:35+00' WHERE name = 'a'",
    r"who was there is forgotten": "DELETE FROM session_lock.duty_declaration WHERE watches",
    r"y is there": "INSERT INTO session_lock.duty (name) VALUES ('y')",
    r"nobody declares z": "DELETE FROM session_lock.duty_declaration WHERE name = 'z'",
}  # fmt: skip
FORGET = "SELECT session_lock.forget_duties(session_lock.clock())"
GATE = """
ALTER TABLE session_lock.session RENAME TO sessions_behind;
CREATE FUNCTION public.gate_of_sessions() RETURNS boolean LANGUAGE plpgsql VOLATILE AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN true; END';
CREATE VIEW session_lock.session AS SELECT * FROM session_lock.sessions_behind WHERE public.gate_of_sessions();
"""
NO_GATE = "DROP VIEW session_lock.session; DROP FUNCTION public.gate_of_sessions; ALTER TABLE session_lock.sessions_behind RENAME TO session"
PLAYS = [
    "1 plans a s1",
    "1 plans b s1",
    "1 plans a s1 b sb",
    "3 plans a s3",
    "4 plans a s3",
    "6 plans a s3",
    "1 plans a s1 in repeatable read",
    "in force; all went at 11:35; 1 plans a s1 after 12:30 lapsed: a11:30 a13:00 b11:40 b14:00",
    "in force; 1 plans a s1 after 12:00 lapsed: a11:30 a13:00",
    "in force; 1 plans a s1 after 12:30 seen: a11:30 a13:00",
    "in force; 1 plans a s1 after 12:30 lapsed: b13:00",
    "in force; watched; 2 declares too; 1 plans a s1 after 12:30 seen: a13:00",
    "in force; watched; 1 plans a s1 after 12:30 seen",
    "in force; 2 declares too; 1 plans a s1 after 12:30 lapsed: a13:00",
    "in force; all went at 11:35; 1 plans a s1 after 12:30 lapsed: a13:00",
    "in force; all went at 11:35; 1 plans a s1 after 12:30 lapsed: a11:40 a13:00",
    "in force; who was there is forgotten; 1 plans a s1 after 12:30 lapsed: a13:00",
    "all went at 11:35; 1 plans a s1 after - lapsed: a13:00",
    "who was there is forgotten; 1 plans a s1 after - lapsed: a13:00",
    "in force; many wait; 1 plans a s1",
    "3 declares too; 1 plans a s1",
    "1 plans a s1, and 2 plans a s2",
    "in force; watched; 2 declares too; 1 plans a s1 after 12:30 seen: a13:00, and 2 plans a s1 after 12:30 seen: a13:30",
    "in force; all went at 11:35; that is noted; 2 declares too; 1 plans a s1 after 12:30 lapsed: a13:00, in the midst of which 2 plans a s1 after 12:30 lapsed: a13:30",
    "1 plans c s1 after - lapsed: c12:00 c13:00",
    "forget",
    "2 comes to z; forget",
    "nobody declares z; forget",
    "forget beside somebody who has z",
    "y is there; forget beside somebody who has z",
    "forget beside somebody who refers to z",
    "forget, and others have the rest",
    "forget while somebody declares z",
    "who shares a",
]


@dataclass
class Plan:
    lab: Lab
    words: dict[str, str]
    first: asyncpg.Connection
    second: asyncpg.Connection

    async def put(self, function: str) -> None:
        await self.lab.admin.execute(fill(function, self.words))

    async def play(self, name: str) -> list[str]:
        """What the last step answered, and all that changed."""
        await self.first.execute(SET_BACK)
        *before, last = name.split("; ")
        for step in before:
            await self.first.execute(WORDS[step])
        was = await self._rows()
        try:
            said = await self._last(last)
        except asyncpg.PostgresError as error:
            said = [f"-> {error.sqlstate}"]
        finally:
            for connection in (self.first, self.second):
                await connection.execute("ROLLBACK") if connection.is_in_transaction() else None
        is_ = await self._rows()
        changed = sorted({*was.items()} ^ {*is_.items()}, key=lambda item: (item[0], item in is_.items()))
        return [
            *said,
            *(f"{'+' if item in is_.items() else '-'} {item[0]}: {item[1]}".rstrip(": ") for item in changed),
        ]

    async def _last(self, step: str) -> list[str]:
        if step == "who shares a":
            row = await self.first.fetchrow(
                "SELECT ids, capacities FROM session_lock.sharing_duty('{7,1,2}', '{5,6,7}', 'a')"
            )
            return [f"-> {row['ids']} {row['capacities']}"]
        if step.startswith("forget"):
            if step.endswith("has z"):
                await self.second.execute(
                    "BEGIN; SELECT FROM session_lock.duty WHERE name = 'z' FOR UPDATE; SELECT FROM session_lock.duty_declaration WHERE name = 'z' FOR UPDATE"
                )
            if step.endswith("refers to z"):
                await self.second.execute(
                    "BEGIN; SELECT FROM session_lock.duty WHERE name = 'z' FOR KEY SHARE; SELECT FROM session_lock.duty_declaration WHERE name = 'z' FOR KEY SHARE"
                )
            if step.endswith("declares z"):
                return await self._forget_while_it_is_declared()
            if step.endswith("the rest"):
                await self.first.execute("BEGIN")
            await self.first.execute(FORGET)
            if step.endswith("the rest"):
                left = await self.second.fetch(
                    "SELECT name FROM session_lock.duty ORDER BY name FOR UPDATE SKIP LOCKED"
                )
                await self.first.execute("COMMIT")
                return [f"-> {' '.join(row['name'] for row in left)}"]
            return []
        if ", in the midst of which " in step:
            return await self._in_the_midst(*step.split(", in the midst of which "))
        one, _, other = step.partition(", and ")
        if not other:
            return await self._call(self.first, one)
        await self.first.execute("BEGIN")
        said = await self._call(self.first, one)
        task = asyncio.ensure_future(self._call(self.second, other))
        waits = await self.lab.waits(self.second.get_server_pid(), task)
        said.append("the other waits" if waits else "the other does not wait")
        await self.first.execute("COMMIT")
        return [*said, *await task]

    async def _in_the_midst(self, one: str, other: str) -> list[str]:
        """The one is stopped before it takes away what was missed."""
        await self.lab.admin.execute(
            "BEGIN; SELECT FROM session_lock.duty_run WHERE name = 'a' AND finished_at IS NULL FOR UPDATE"
        )
        tasks = []
        for connection, step in ((self.first, one), (self.second, other)):
            tasks.append(asyncio.ensure_future(self._call(connection, step)))
            await self.lab.waits(connection.get_server_pid(), tasks[-1])
        await self.lab.admin.execute("COMMIT")
        return [line for said in await asyncio.gather(*tasks) for line in said]

    async def _forget_while_it_is_declared(self) -> list[str]:
        """Stopped in its first look, after its snapshot was taken."""
        await self.second.execute(GATE + "SELECT pg_advisory_lock(77)")
        task = asyncio.ensure_future(self.first.execute(FORGET))
        try:
            await self.lab.waits(self.first.get_server_pid(), task)
            await self.second.execute(WORDS["2 comes to z"])
        finally:
            await self.second.execute("SELECT pg_advisory_unlock(77)")
            await asyncio.wait([task])
            await self.second.execute(NO_GATE)
        await task
        return []

    async def _call(self, connection: asyncpg.Connection, step: str) -> list[str]:
        match = re.fullmatch(
            r"(\d) plans ((?:\w s\w ?)+?)(?: after (\S+) (seen|lapsed))?(?:: (.*))?( in repeatable read)?",
            step,
        )
        assert match, step
        session, declared, last, lapsed, due, isolated = match.groups()
        pairs = declared.split()
        names, schedules, plan = pairs[::2], pairs[1::2], (due or "").split()
        if isolated:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        rows = await connection.fetch(
            "SELECT * FROM session_lock.plan_duties($1, $2, $1, $3, $4, $5, $6, $7, $8)",
            int(session), UUID(int=int(session)), names, schedules, [_moment(last) if last else None] * len(names),
            [None if lapsed is None else lapsed == "lapsed"] * len(names), [each[0] for each in plan], [_moment(each[1:]) for each in plan],
        )  # fmt: skip
        return [
            f"-> {row['name']}{' in force' * bool(row['in_force'])}{' lapsed' * row['lapsed']}, since {_told(row['since'])}, last {_told(row['last_due'])},"
            f" unbegun {' '.join(map(_told, row['unbegun'])) if len(row['unbegun']) < 9 else len(row['unbegun'])}, at {_told(row['at'])}"
            for row in rows
        ]  # fmt: skip

    async def _rows(self) -> dict[str, str]:
        found = {}
        for table, key in TABLES.items():
            for row in await self.first.fetch(f"SELECT * FROM session_lock.{table} ORDER BY {key}"):
                fields = {
                    name: _told(value)
                    for name, value in row.items()
                    if value not in (None, False, 0) and name not in ("id", "finished_at", "available_at")
                }
                words = [fields.pop(name) for name in key.split(", ")]
                found[f"{table} {' '.join(words)}"] = ", ".join(
                    f"{name} {value}" for name, value in fields.items()
                )
        return found


def _moment(text: str) -> datetime | None:
    return None if text == "-" else datetime.fromisoformat(f"2026-06-01 {text}+00:00")


def _told(value: Any) -> str:
    if not isinstance(value, datetime):
        return str(value)
    return f"{value.astimezone(UTC):%H:%M}{' long ago' * (value < NOON - timedelta(days=2))}"


async def open_plan(lab: Lab, dsn: str) -> Plan:
    """In a lab that has a clock of its own, and the duties; `dsn` is its superuser's."""
    connections = [await asyncpg.connect(dsn) for _ in range(2)]
    lab.opened += connections
    for connection in connections:
        await connection.execute("SET statement_timeout = '5s'")
    return Plan(lab, holes(DUTIES, await read_shape(lab.admin, DUTIES)), *connections)


def right() -> dict[str, list[str]]:
    """What `planned.txt` says, by the names of the plays."""
    return read_right("planned.txt")


async def main() -> None:
    with running_server() as dsn:
        await prepare_template(dsn)
        async with fresh_database(dsn, "template1") as database, open_lab(database) as lab:
            await install(lab.admin, DUTIES)
            await lab.own_clock()
            plan = await open_plan(lab, database.admin_dsn)
            for name in PLAYS:
                print(name, *(f"    {line}" for line in await plan.play(name)), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
