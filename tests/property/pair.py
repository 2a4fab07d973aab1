"""Two databases that are asked the same: `PostgresDatabase`, by the SQL on a server, and `MemoryDatabase`, the oracle.

Time stands still in both, and is moved in both. Differences that are meant, and what is done about them here:

* Nonces are random, positions are opaque, and what a refusal says is the server's: that there is one is compared.
* The outcomes of one call, and the keys that a session is to cancel, come in any order: they are compared sorted.
* `MemoryDatabase` has no sweep of ended sessions. A row that was opened again by hand and names one that was swept is found by
  the second look in PostgreSQL, by the first in memory: here the session comes back to the list at once (`PostgresSide.reopen`).
* The server's timeouts are of real time: a wait for a lock is short, and a transaction that has outlived its lease is ended
  by hand as the server would do it (`Pair.advance`). Real waits are the matter of `tests/sql/test_schedules.py`.
* An order that does not begin with `available_at` has the index of due times, without which the SQL does not know the next one.
* The failures of a row that is deleted are forgotten in memory: those of rows that are there are compared.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import astuple, replace
from typing import Any, NamedTuple

import asyncpg
import pytest

from session_lock.catalog import read_shape
from session_lock.database import Beat, Settled, Work
from session_lock.errors import DatabaseError, SessionLockError
from session_lock.explaining import SessionShare
from session_lock.schema import render
from session_lock.session import Lease
from session_lock.tasks import TaskKey
from session_lock.testing import Closed, MemoryTransaction
from tests.conftest import TestDatabase
from tests.database.conftest import GOOD, MemoryHarness, PostgresHarness
from tests.support import EMAILS

# What is compared after each step ------------------------------------------------------------------------------


class Task(NamedTuple):
    status: str
    session: int | None
    token: int
    attempts: int
    available_at: float
    """Infinity: parked."""

    @property
    def pending(self) -> bool:
        return self.status == "pending"


class Session(NamedTuple):
    capacity: int
    expires_at: float
    ended: bool
    expired: bool
    draining: bool
    drain_requested: bool
    idle: bool
    give_back: int
    asked_at: float | None
    running: int
    cancel_keys: list[str]


class State(NamedTuple):
    now: float
    tasks: dict[int, Task]
    sessions: dict[int, Session]
    failures: list[list[Any]]
    """key, attempt, when, session, error; in the order in which they came, by key"""
    paused: bool
    effects: list[str]
    """What was written in finishing transactions that committed."""

    def live(self, session: int | None) -> bool:
        one = self.sessions.get(session or 0)
        return one is not None and not one.ended and one.expires_at > self.now


STATE = """
SELECT json_build_array(
  (SELECT last_value / 1e6 FROM public.moved_time),
  (SELECT json_object_agg(t.id, json_build_array(
            CASE WHEN t.failed_at IS NOT NULL THEN 'discarded' WHEN t.sent_at = 'epoch' THEN 'closed'
                 WHEN t.sent_at IS NOT NULL THEN 'finished' ELSE 'pending' END,
            t.session_id, coalesce(t.claim_token, 0), t.attempts, extract(epoch FROM t.available_at)))
     FROM public.email AS t),
  (SELECT json_object_agg(s.id, json_build_array(
            s.capacity, extract(epoch FROM s.expires_at), s.ended_at IS NOT NULL, s.ended_at IS NOT NULL AND s.ended_at >= s.expires_at,
            s.draining, s.drain_requested, s.idle, s.give_back, extract(epoch FROM s.asked_at), s.running,
            ARRAY(SELECT k FROM unnest(s.cancel_keys) AS k ORDER BY k)))
     FROM session_lock.session AS s),
  (SELECT json_agg(json_build_array(t.id, f.attempt, extract(epoch FROM f.at), f.session, f.error) ORDER BY t.id, f.id)
     FROM session_lock.failure AS f JOIN public.email AS t ON t.id::text = f.task_key),
  EXISTS (SELECT FROM session_lock.pause),
  (SELECT json_agg(e.note ORDER BY e.note) FROM public.effect AS e))
"""


def told(answer: Any) -> Any:
    """What is compared of an answer."""
    match answer:
        case Work():
            tasks = [
                (task.claim, task.attempt, task.data, type(task.error), task.alone, task.cancelled)
                for task in answer.tasks
            ]
            hints = (
                answer.position is None, answer.next_due, answer.share, answer.limited, answer.walked is None,
            )  # fmt: skip
            return answer.left, tasks, told([*answer.settled]), hints
        case Beat():
            return answer.left, answer.give_back, answer.pause, answer.drain, sorted(answer.cancel)
        case [Settled(), *_]:
            return sorted((each.key, each.outcome, each.error is None) for each in answer)
        case [SessionShare(), *_]:
            return [astuple(each) for each in answer]
        case [int(), *_]:
            return sorted(answer)
    return answer


# The two sides -------------------------------------------------------------------------------------------------


class Side:
    """A database, the hand on its rows, and what its sessions and transactions are known by."""

    def __init__(self, harness: Any) -> None:
        self.harness = harness
        self.database = harness.database
        self.leases: dict[int, Lease] = {}
        self.positions: dict[int, list[str]] = {}
        self.begun: dict[str, tuple[AbstractAsyncContextManager[Any], Any]] = {}
        self.stranger: AbstractAsyncContextManager[None] | None = None

    async def transaction(self, name: str) -> Any:
        """Its connection; it begins when it is asked for first."""
        if name not in self.begun:
            block = self.harness.begin()
            self.begun[name] = block, await block.__aenter__()
        return self.begun[name][1]

    async def commit(self, name: str) -> None:
        block, _ = self.begun.pop(name)
        await block.__aexit__(None, None, None)

    async def roll_back(self, name: str) -> None:
        block, _ = self.begun.pop(name)
        error = RolledBack()
        try:
            await block.__aexit__(RolledBack, error, None)
        except RolledBack:
            pass

    async def lose(self, name: str) -> None:
        """The server has ended it, since it has outlived its lease."""
        if isinstance(self.begun[name][1], MemoryTransaction):
            with pytest.raises(DatabaseError, match="longer than the lease"):
                await self.commit(name)
        else:
            await self.roll_back(name)

    async def lock(self, key: TaskKey) -> None:
        self.stranger = self.harness.lock(key)
        await self.stranger.__aenter__()

    async def unlock(self) -> None:
        if self.stranger is not None:
            await self.stranger.__aexit__(None, None, None)
            self.stranger = None


class RolledBack(Exception):
    pass


class MemorySide(MemoryHarness):
    """In memory, at a time of our own."""

    now = 0.0

    def __init__(self, *, discard: bool, limits: Mapping[str, Any]) -> None:
        super().__init__(discard=discard, key_type="bigint", limits=limits)
        self.database.clock = lambda: self.now

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def waits(self, call: Awaitable[Any]) -> Any:
        """One that would wait for a lock is given up, as the server's `lock_timeout` has it."""
        task = asyncio.ensure_future(call)
        for _ in range(30):  # turns of the loop
            if task.done():
                return await task
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        raise DatabaseError("it waits for a lock")

    async def state(self) -> State:
        database = self.database
        return State(
            self.now,
            {key: self._task(database[key]) for key in database._tasks},
            {each.id: self._session(each) for each in database.sessions},
            [
                [key, each.attempt, each.at, each.session_id, each.error]
                for key, failures in sorted(database.failures.items())
                for each in failures
            ],
            database._paused,
            sorted(self._written),
        )

    def _task(self, row: Any) -> Task:
        status = {None: "pending", Closed.BY_APPLICATION: "closed"}.get(row.closed, row.closed)
        return Task(str(status), row.session_id, row.token, row.attempts, row.available_at)

    def _session(self, row: Any) -> Session:
        return Session(
            row.capacity, row.expires_at, row.ended, row.expired, row.draining, row.drain_requested, row.idle,
            row.give_back, None if row.asked_at == -math.inf else row.asked_at, row.running, sorted(row.cancel_keys),
        )  # fmt: skip


OWN_TIME = """
CREATE SEQUENCE public.moved_time MINVALUE 0 START 0;  -- microseconds; seen by all at once, as time is
CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql VOLATILE
AS $$ SELECT to_timestamp(last_value / 1e6::float8) FROM public.moved_time $$;
CREATE OR REPLACE FUNCTION session_lock.limit_transaction(p_left interval) RETURNS void LANGUAGE sql AS '';
DO $$
DECLARE
  one regprocedure;
BEGIN
  FOR one IN SELECT p.oid FROM pg_proc AS p WHERE p.proconfig @> ARRAY['lock_timeout=2s'] LOOP
    EXECUTE format('ALTER FUNCTION %s SET lock_timeout = %L', one, '5ms');
  END LOOP;
END
$$;
"""

ANEW = """
TRUNCATE public.email, public.effect, session_lock.session, session_lock.failure, session_lock.pause, session_lock.started RESTART IDENTITY;
SELECT setval('public.moved_time', 0)
"""


class PostgresSide(PostgresHarness):
    """On a server, at a time of our own, which stands still; over connections that stay."""

    def __init__(self, admin: asyncpg.Connection, test_database: TestDatabase) -> None:
        super().__init__(admin, test_database)
        self._callers: list[asyncpg.Connection] = []
        self._strangers: list[asyncpg.Connection] = []
        self._opened: list[asyncpg.Connection] = []

    @classmethod
    @asynccontextmanager
    async def opened(cls, test_database: TestDatabase, **options: Any) -> AsyncIterator[PostgresSide]:
        async with super().opened(test_database, **options) as harness:
            await harness._admin.execute("SET lock_timeout = '1s'")
            await harness._admin.execute(OWN_TIME)
            table = replace(EMAILS, **options["limits"])
            if table.order[0][0] != table.claim_columns.available_at:
                shape = await read_shape(harness._admin, table)
                await harness._admin.execute(render("tasks.due.index.sql", table, shape))
            try:
                yield harness
            finally:
                for connection in harness._opened:
                    connection.terminate()

    async def anew(self) -> None:
        await self._admin.execute(ANEW)

    async def advance(self, seconds: float) -> None:
        await self._admin.execute(
            f"SELECT setval('public.moved_time', last_value + {round(seconds * 1e6)}) FROM public.moved_time"
        )

    async def add(self, count: int = 1, *, after: float | None = None, address: str = GOOD) -> list[TaskKey]:
        (key,) = await super().add(count, after=after, address=address)
        return [key]

    async def reopen(self, key: TaskKey) -> None:
        await super().reopen(key)
        await self._admin.execute(
            "UPDATE session_lock.session SET swept_at = NULL WHERE id = (SELECT session_id FROM public.email WHERE id = $1)",
            key,
        )

    async def waits(self, call: Awaitable[Any]) -> Any:
        return await call

    @asynccontextmanager
    async def lock(self, key: TaskKey) -> AsyncIterator[None]:
        async with self._transaction(self._strangers, self._dsns.admin_dsn) as stranger:
            await stranger.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", key)
            yield

    def begin(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        return self._transaction(self._callers, self._dsns.app_dsn)

    @asynccontextmanager
    async def _transaction(
        self, idle: list[asyncpg.Connection], dsn: str
    ) -> AsyncIterator[asyncpg.Connection]:
        if not idle:
            idle.append(await asyncpg.connect(dsn, server_settings={"lock_timeout": "5ms"}))
            self._opened.append(idle[0])
        connection = idle.pop()
        try:
            async with connection.transaction():
                yield connection
        finally:
            idle.append(connection)

    async def state(self) -> State:
        now, tasks, sessions, failures, paused, effects = json.loads(await self._admin.fetchval(STATE))
        return State(
            now,
            {int(key): Task(*task[:4], float(task[4])) for key, task in (tasks or {}).items()},
            {int(key): Session(*session) for key, session in (sessions or {}).items()},
            failures or [],
            paused,
            effects or [],
        )


# Both ----------------------------------------------------------------------------------------------------------

Call = Callable[[Side], Awaitable[Any]]


class Pair:
    """Both sides; one step after the other is taken in `loop`."""

    sides: tuple[Side, Side]
    state: State
    """As it was seen last, the same on both sides."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, postgres: PostgresSide, options: Mapping[str, Any]
    ) -> None:
        self._loop = loop
        self._postgres = postgres
        self._options = options

    def begin(self) -> None:
        """With empty tables, at time 0."""
        self._loop.run_until_complete(self._postgres.anew())
        self.sides = Side(self._postgres), Side(MemorySide(**self._options))
        self.state = self._loop.run_until_complete(self.sides[1].harness.state())

    def end(self) -> None:
        for side in self.sides:
            self._loop.run_until_complete(side.unlock())
            for name in list(side.begun):
                self._loop.run_until_complete(side.roll_back(name))

    def ask(self, call: Call) -> Any:
        """The same of both: what is returned is the same, or the kind of error (None is returned then), and all that is stored."""
        return self._loop.run_until_complete(self._ask(call))

    async def _ask(self, call: Call) -> Any:
        answers = [await _answer(call, side) for side in self.sides]
        in_sql, in_memory = map(told, answers)
        assert in_sql == in_memory, f"the answer\n  of the SQL:  {in_sql}\n  in memory:   {in_memory}"
        states = [await side.harness.state() for side in self.sides]
        assert states[0] == states[1], _difference(*states)
        before, self.state = self.state, states[0]
        check_promises(before, self.state)
        return None if isinstance(answers[0], type) else answers[0]


async def _answer(call: Call, side: Side) -> Any:
    try:
        return await side.harness.waits(call(side))
    except SessionLockError as error:
        return type(error)


def _difference(in_sql: State, in_memory: State) -> str:
    lines = ["what is stored differs"]
    for name, one, other in zip(State._fields, in_sql, in_memory, strict=True):
        if one == other:
            continue
        if not isinstance(one, dict):
            one, other = {"": one}, {"": other}
        lines += [
            f"  {name} {key}\n    by the SQL:  {one.get(key)}\n    in memory:   {other.get(key)}"
            for key in {**one, **other}
            if one.get(key) != other.get(key)
        ]
    return "\n".join(lines)


def check_promises(before: State, after: State) -> None:
    """What must hold of each step, whatever the two sides agree on."""
    for key, task in after.tasks.items():
        was = before.tasks.get(key)
        if was is None:
            continue
        assert task.token >= was.token, f"the token of task {key} shrinks"
        if task.status == "finished" != was.status:
            assert was.status == "pending", f"task {key} is finished twice"
            assert after.live(was.session), f"task {key} is finished by a session that is not live"
        if task.session not in {None, was.session}:
            assert task.token == was.token + 1, f"task {key} changes hands without a new token"
            assert not after.live(was.session), f"task {key} is taken from a live session"
            assert after.live(task.session), f"task {key} is given to a session that is not live"
    for id_, session in after.sessions.items():
        was = before.sessions.get(id_)
        assert was is None or not was.ended or session.ended, f"session {id_} is revived"
    assert len(after.effects) == len(set(after.effects)), "an effect is there twice"
