"""Crossings: a call is stopped at one of its lock points, others run against it, then it goes on; and all is judged.

A crossing has a name, and its name is all of it:

    finish in @ before COMMIT | another takes over          two connections
    give back @ at the task table | cancel @ before ROLLBACK | another looks     three; those that were stopped go on in turn

`python -m tests.sql.crossing NAME` plays that one and shows it; without a name it plays all pairs at all points, and 2000 drawn triples.
Nothing sleeps: a crossing moves on when the server says that a call waits, or when the call is over.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from tests.conftest import fresh_database, prepare_template, running_server
from tests.sql.judge import Seen, judge
from tests.sql.scene import Scene, open_scene
from tests.sql.schedule import open_lab
from tests.sql.statements import STATEMENTS

COMMIT, ROLLBACK = "before COMMIT", "before ROLLBACK"
ITS_SESSION, ITS_TASK = "at its session's row", "at its task's row"
LOCKS = {
    ITS_SESSION: "SELECT FROM session_lock.session ORDER BY id FOR UPDATE NOWAIT",
    ITS_TASK: "SELECT FROM public.email ORDER BY id FOR UPDATE NOWAIT",
    "at the task table": "LOCK TABLE public.email IN ACCESS EXCLUSIVE MODE NOWAIT",
}
GATES = [
    f"{when} a write to {table}" for table in ("email", "session", "failure") for when in ("before", "after")
]
POINTS = [COMMIT, ROLLBACK, *LOCKS, *GATES]


@dataclass
class Call(Seen):
    """A statement on its way, on the connections of a slot."""

    scene: Scene = field(kw_only=True, repr=False)
    slot: int = field(kw_only=True)
    point: str | None = None
    stopped: bool = False
    task: asyncio.Future[None] = field(init=False, repr=False, default_factory=asyncio.Future)
    may_end: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def __post_init__(self) -> None:
        self.pid = self.connection.get_server_pid()

    @property
    def connection(self) -> asyncpg.Connection:
        return (self.scene.people if self.statement.by_people else self.scene.apps)[self.slot]

    async def run(self) -> None:
        transaction = self.connection.transaction() if self.point in (COMMIT, ROLLBACK) else None
        try:
            if transaction:
                await transaction.start()
            self.answer = await self.statement.act(self.scene, self.slot)
            if transaction:
                self.stopped = True
                await self.may_end.wait()
        except asyncpg.PostgresError as error:
            self.error = error.sqlstate
        self.committed = self.error is None and self.point != ROLLBACK
        if transaction:
            await (transaction.commit() if self.committed else transaction.rollback())

    async def begin(self) -> None:
        """As far as it comes."""
        admin, holder = self.scene.lab.admin, self.scene.holders[self.slot]
        if self.statement.later:
            await self.scene.lab.advance(self.statement.later)
        if self.point in LOCKS:
            try:
                # A row's lock is asked for without a wait, but not that of its table before it.
                await holder.execute("BEGIN; SET LOCAL lock_timeout = '50ms'; " + LOCKS[self.point])
            except (
                asyncpg.LockNotAvailableError
            ):  # one that is stopped already has it: so this one is not stopped here
                await holder.execute("ROLLBACK")
                self.point = None
        elif self.point in GATES:
            await holder.execute(f"BEGIN; SELECT pg_advisory_xact_lock({self.pid})")
            await admin.execute(f"INSERT INTO public.gate VALUES ({self.pid}, '{self.point}', {self.pid})")
        await self.look_at_session()
        self.task = asyncio.ensure_future(self.run())
        self.stopped = bool(await self.settle() or self.stopped)

    async def look_at_session(self) -> None:
        """Whether the session was over before the call could have looked at it last."""
        if self.statement.session is None:
            return
        ended, expired = await self.scene.lab.admin.fetchrow(
            "SELECT coalesce(bool_and(ended_at IS NOT NULL), true), coalesce(bool_and(expires_at <= session_lock.clock()), true)"
            "  FROM session_lock.session WHERE id = $1",
            self.statement.session,
        )  # fmt: skip
        looks_again = (
            not self.stopped
            or self.point == ITS_SESSION
            or (self.point == ITS_TASK and self.statement.waits_for_rows)
        )
        self.over = ended or (expired and looks_again)

    async def settle(self) -> list[int]:
        """Until it is over, or open before its end, or waits: for whom."""
        while not (self.stopped and self.point in (COMMIT, ROLLBACK)):
            done, _ = await asyncio.wait([self.task], timeout=0.003)  # to ask all the time takes much of both
            if done:
                break
            pids = await self.scene.lab.admin.fetchval("SELECT pg_blocking_pids($1)", self.pid)
            if pids:
                self.waited_for += [pid for pid in pids if pid not in self.waited_for]
                return pids
        return []

    async def go_on(self) -> None:
        """What stopped it is taken away."""
        if not self.task.done():
            over = self.over
            await self.look_at_session()
            if self.task.done():  # that was news of its end, which came before
                self.over = over
        if self.point in LOCKS or self.point in GATES:
            await self.scene.holders[self.slot].execute("ROLLBACK")
        self.may_end.set()
        await self.settle() if self.point not in (COMMIT, ROLLBACK) else await asyncio.sleep(0)


@dataclass
class Played:
    name: str
    calls: list[Call]
    wrongs: list[str]

    @property
    def is_crossing(self) -> bool:
        """Whether all that were to be stopped were."""
        return all(call.stopped for call in self.calls[:-1])

    def __str__(self) -> str:
        lines = [
            f"{self.name}",
            *(f"  {call.told()}" for call in self.calls),
            *(f"  WRONG: {wrong}" for wrong in self.wrongs),
        ]
        return "\n".join([*lines, f'  to see it again: uv run python -m tests.sql.crossing "{self.name}"'])


async def play(scene: Scene, name: str, *, judged: bool = True) -> Played:
    """One crossing; what was wrong is in the result."""
    calls: list[Call] = []
    await scene.set_back()
    try:
        async with asyncio.timeout(10):
            for slot, part in enumerate(name.split(" | ")):
                statement, _, point = part.partition(" @ ")
                calls.append(Call(STATEMENTS[statement], scene=scene, slot=slot, point=point or None))
                await calls[-1].begin()
            for call in calls:
                await call.go_on()
            await asyncio.gather(*(call.task for call in calls))
    except TimeoutError:
        raise AssertionError(f"{name}: waits for ever") from None
    finally:
        await _clear(calls)
    return Played(name, calls, await judge(scene, calls) if judged else [])


async def _clear(calls: list[Call]) -> None:
    """After a crossing that was not played to its end, its connections are as before."""
    if left := [call for call in calls if not call.task.done()]:
        await asyncio.wait(
            [asyncio.ensure_future(call.scene.holders[call.slot].execute("ROLLBACK")) for call in calls]
        )
        for call in left:
            call.task.cancel()
        await asyncio.wait([call.task for call in left])
        for call in left:
            await call.connection.execute("ROLLBACK")


# Which there are ---------------------------------------------------------------------------------------


async def points_of(scene: Scene) -> dict[str, list[str]]:
    """At which points each statement can be stopped at all."""

    async def is_met(point: str) -> bool:
        return (await play(scene, point, judged=False)).is_crossing

    return {
        name: [point for point in POINTS if await is_met(f"{name} @ {point} | pause")] for name in STATEMENTS
    }


def pairs(points: dict[str, list[str]]) -> Iterator[str]:
    """Every statement at each of its points, against every statement."""
    for stopped, at in points.items():
        for point in at:
            for free in points:
                yield f"{stopped} @ {point} | {free}"


PICKED = [
    "keepalive @ before COMMIT | drain",
    "finish in @ before COMMIT | keepalive",
    "look @ before COMMIT | another looks",
    "write @ before COMMIT | look",
    "write @ before COMMIT | retry",
    "another looks @ before COMMIT | look",
    "finish in @ at its task's row | another takes over",
    "finish in @ before COMMIT | end",
    "cancel @ before COMMIT | give back",
    "give back one @ before COMMIT | cancel",
    "cancel of another's @ before COMMIT | another takes one over",
]
"""Where what takes turns would not meet what a fault needs to be seen."""


def each_pair_once(points: dict[str, list[str]]) -> Iterator[str]:
    """Every two statements; which of them is stopped, and where, takes turns. And those that were picked."""
    yield from PICKED
    names = list(points)
    for row, one in enumerate(names):
        for column, other in enumerate(names[: row + 1]):
            stopped, free = (one, other) if (row + column) % 2 else (other, one)
            at = points[stopped]
            yield f"{stopped} @ {at[(row + column) // 2 % len(at)]} | {free}"


def triples(points: dict[str, list[str]], seed: int) -> Iterator[str]:
    """Drawn for ever."""
    draw = random.Random(seed)
    names = list(points)
    while True:
        first, second, third = (draw.choice(names) for _ in range(3))
        yield f"{first} @ {draw.choice(points[first])} | {second} @ {draw.choice(points[second])} | {third}"


# From a shell ------------------------------------------------------------------------------------------


@asynccontextmanager
async def own_scene() -> AsyncIterator[Scene]:
    """On a server of its own, without pytest."""
    with running_server() as dsn:
        async with fresh_database(dsn, "template1") as database:
            await prepare_template(database.admin_dsn)
            async with open_lab(database) as lab, open_scene(lab, database.admin_dsn) as scene:
                yield scene


async def main(names: list[str]) -> int:
    async with own_scene() as scene:
        if names:
            played = [await play(scene, name) for name in names]
            print(*played, sep="\n")
            return sum(bool(each.wrongs) for each in played)
        seed = random.randrange(2**32)
        points = await points_of(scene)
        total = wrong = 0
        for name in itertools.chain(pairs(points), itertools.islice(triples(points, seed), 2000)):
            one = await play(scene, name)
            total += one.is_crossing
            if one.wrongs:
                wrong += 1
                print(one, flush=True)
        print(f"{total} crossings, triples drawn from seed {seed}: {wrong} wrong")
        return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
