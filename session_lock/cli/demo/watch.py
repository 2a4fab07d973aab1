"""What can be seen of the demo from outside: the tables, looked at many times a second."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from session_lock import TaskTable
from session_lock.cli.demo.stage import SCHEMA, Place, Stage
from session_lock.errors import SessionLockError

LOOK_EVERY = 0.05
CHECK_EVERY = 0.05
RATE_OVER = 2.0
PATIENCE = 60.0

LOOK = f"""
WITH held AS (
  SELECT t.session_id AS session, count(*) AS held,
         count(*) FILTER (WHERE EXISTS (
           SELECT FROM {SCHEMA}.run AS r WHERE r.task = t.id AND r.token = t.claim_token AND r.session = t.session_id)) AS begun
    FROM {{table}} AS t
   WHERE t.finished_at IS NULL AND t.session_id IS NOT NULL
   GROUP BY t.session_id
), finished AS (
  SELECT e.session, count(*) AS finished FROM {SCHEMA}.event AS e WHERE e.what = 'finished' GROUP BY e.session
)
SELECT s.id, split_part(s.label, ':', -1)::integer AS pid, s.capacity, s.ended_at IS NOT NULL AS ended,
       coalesce(h.held, 0) AS held, coalesce(h.begun, 0) AS begun, coalesce(f.finished, 0) AS finished
  FROM {SCHEMA}.session AS s
  LEFT JOIN held AS h ON h.session = s.id
  LEFT JOIN finished AS f ON f.session = s.id
 ORDER BY s.id
"""


@dataclass(frozen=True, slots=True)
class SeenSession:
    database: str
    id: int
    pid: int
    capacity: int
    ended: bool
    held: int
    begun: int
    """Of the held ones: those that a call of the tasker has begun."""

    finished: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One look."""

    sessions: tuple[SeenSession, ...] = ()

    @property
    def finished(self) -> int:
        return sum(session.finished for session in self.sessions)

    def at(self, database: str) -> Seen:
        """What of it is in one of the databases."""
        return Seen(tuple(session for session in self.sessions if session.database == database))

    def of(self, pid: int) -> list[SeenSession]:
        """The sessions of a process, the newest last."""
        return [session for session in self.sessions if session.pid == pid]

    def begun(self, pid: int) -> int:
        return sum(session.begun for session in self.of(pid))

    def done(self, pid: int) -> int:
        return sum(session.finished for session in self.of(pid))


class Watch:
    """The latest look, and how fast things went over the last ones."""

    def __init__(self, stage: Stage, table: TaskTable, *, every: float = LOOK_EVERY) -> None:
        self.places: Sequence[Place] = stage.places
        self._every = every
        self._look = LOOK.format(table=table.table)
        self._looking = asyncio.Lock()
        self._history: deque[tuple[float, Seen]] = deque()
        self.now: Seen = Seen()

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every)

    async def look(self) -> Seen:
        async with self._looking:
            self.now = Seen(
                tuple([session for place in self.places for session in await self._sessions_at(place)])
            )
            at = asyncio.get_running_loop().time()
            self._history.append((at, self.now))
            while self._history[0][0] < at - RATE_OVER:
                self._history.popleft()
            return self.now

    async def _sessions_at(self, place: Place) -> tuple[SeenSession, ...]:
        """Where the server is stopped: as they were."""
        if place.up:
            try:
                return tuple(SeenSession(place.name, *row) for row in await place.pool.fetch(self._look))
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                if place.up:
                    raise
        return self.now.at(place.name).sessions

    def rate(self, count: Callable[[Seen], int]) -> float:
        """What is counted, per second, of late."""
        if len(self._history) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._history[0], self._history[-1]
        return (count(last) - count(first)) / (last_at - first_at)

    async def until(self, condition: Callable[[Seen], bool], check: Callable[[], None]) -> None:
        """Wait; raise what `check` raises meanwhile, and give up when no task is finished for a minute."""
        clock = asyncio.get_running_loop().time
        finished, since = self.now.finished, clock()
        while not condition(self.now):
            check()
            if self.now.finished != finished:
                finished, since = self.now.finished, clock()
            if clock() - since > PATIENCE:
                raise SessionLockError(f"no task was finished for {PATIENCE:.0f} seconds: {finished} are")
            await asyncio.sleep(CHECK_EVERY)


async def alongside(main: Coroutine[Any, Any, None], *others: Coroutine[Any, Any, None]) -> None:
    """Run `main`, and the others beside it: they end with it, and an error of any ends all."""
    tasks = [asyncio.create_task(each) for each in (main, *others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
