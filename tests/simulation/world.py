"""A cluster in virtual time: real Runners that share a `MemoryDatabase`, and come, go and die as a script says."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from session_lock import Runner, Settings, Task, each
from session_lock.database import Handback, Work
from session_lock.testing import FaultyDatabase, MemoryDatabase, run_virtual
from session_lock.testing.rows import MemorySession, MemoryTask
from tests.simulation.scripts import LONGEST, Instance, Script

LOOK_EVERY = 0.1
"""Virtual seconds between two looks from outside."""

SETTINGS: dict[str, Any] = {
    "lease_ttl": 10.0,
    "keepalive_interval": 1.5,
    "call_timeout": 3.0,
    "cancel_grace": 1.0,
    "guard": 0.5,
}


@dataclass(slots=True)
class Event:
    """What happened to a task, by the database or by a tasker."""

    at: float
    what: str
    """claimed, begun, done, handed over (to whoever has asked), left (by who stops, or goes on with one task alone), finished;
    none there: a look found nothing, since there was nothing
    """
    task: int
    session: int


@dataclass(slots=True)
class Seen:
    """One session, at one look from outside."""

    session: int
    slots: int
    target: int
    held: int
    running: int
    excused: bool
    """Its calls of the database take their time, or it runs a task alone under which sessions have died."""

    @property
    def unstarted(self) -> int:
        return self.held - self.running

    @property
    def free(self) -> int:
        """Calls of the tasker that could begin, if there were a task."""
        return max(0, self.slots - self.held)


@dataclass(slots=True)
class Look:
    """The whole, at one moment."""

    at: float
    claimable: int
    sessions: list[Seen]


@dataclass
class Log:
    """What was seen of a script's play."""

    script: Script
    events: list[Event] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    died: set[int] = field(default_factory=set)
    """Sessions of instances that died."""
    attempts: dict[int, int] = field(default_factory=dict)
    unfinished: list[int] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    """Of Runners that died of one."""
    ended_at: float = 0.0

    def changes(self) -> list[float]:
        """When sessions came, went or expired, or tasks arrived."""
        return [step.at for step in self.script.steps]


class Watched(MemoryDatabase[float]):
    """Notes what becomes of claims."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self.members: list[Member] = []

    def _note(self, what: str, task: int, session: int | None) -> None:
        self._log.events.append(Event(self.clock(), what, task, session or 0))

    async def get_work(self, *args: Any, **options: Any) -> Work[float]:
        work = await super().get_work(*args, **options)
        if not work.tasks and not self.claimable():
            self._note("none there", -1, args[0].id)
        return work

    def claimable(self) -> int:
        """Tasks that nobody holds: those of the dead from when somebody has noticed."""
        return sum(
            row.session_id is None or self._sessions[row.session_id].ended for row in self._open.values()
        )

    def _claim(self, row: MemoryTask[float], session: MemorySession, now: float) -> Any:
        self._note("claimed", row.key, session.id)
        return super()._claim(row, session, now)

    def _give_back(self, row: MemoryTask[float], handback: Handback, now: float) -> Any:
        (giver,) = (member for member in self.members if member.session == row.session_id)
        self._note("left" if giver.is_leaving or giver.is_excused else "handed over", row.key, row.session_id)
        return super()._give_back(row, handback, now)

    def _close(self, row: MemoryTask[float], how: Any) -> None:
        self._note("finished", row.key, row.session_id)
        super()._close(row, how)


class Member:
    """An instance that runs."""

    def __init__(self, database: Watched, instance: Instance, log: Log) -> None:
        self.instance = instance
        self.wire = FaultyDatabase(database)
        if instance.latency:  # not of the keepalives: it shall live
            self.wire.delay("get_work", instance.latency)
        self.is_dead = False
        self.running: Counter[int] = Counter()
        """Tasks in calls of the tasker, by session."""
        self._log = log
        settings = Settings(
            concurrency=instance.concurrency,
            prefetch=instance.prefetch,
            start_jitter=0,
            drain_timeout=LONGEST * 20,
            **SETTINGS,
        )
        self.runner: Runner[float] = Runner(self.wire, each(self._do), settings)
        self.engine = asyncio.create_task(self.runner.run())

    async def _do(self, task: Task[float]) -> None:
        loop = asyncio.get_running_loop()
        self._log.events.append(Event(loop.time(), "begun", task.key, task.session_id))
        self.running[task.session_id] += 1
        try:
            await asyncio.sleep(task.data * self.instance.slowness)
            if self.is_dead:
                await loop.create_future()
        finally:
            self.running[task.session_id] -= 1
        self._log.events.append(Event(loop.time(), "done", task.key, task.session_id))

    @property
    def session(self) -> int:
        hold = self.runner._hold
        return 0 if hold is None else hold.lease.id

    @property
    def is_excused(self) -> bool:
        hold = self.runner._hold
        return self.instance.latency > 0 or (hold is not None and hold.lone is not None)

    @property
    def is_leaving(self) -> bool:
        hold = self.runner._hold
        return hold is None or hold.ending is not None

    def leave(self) -> None:
        self.runner.stop()

    def die(self) -> None:
        self._log.died.add(self.session)
        self.is_dead = True
        self.wire.partition()
        self.runner.stop()

    async def end(self) -> None:
        if self.engine.done() and (error := self.engine.exception()) is not None:
            self._log.errors.append(error)
        self.engine.cancel()
        await asyncio.wait({self.engine})


def play(script: Script, *, within: float = 2000.0) -> Log:
    """Play it to the end of its tasks, or for so many virtual seconds."""
    state = random.getstate()
    random.seed(script.seed)  # of jitter
    try:
        return run_virtual(_play(script, within), limit=within * 2)
    finally:
        random.setstate(state)


async def _play(script: Script, within: float) -> Log:
    loop = asyncio.get_running_loop()
    log = Log(script)
    database = Watched(log)
    members = database.members
    looking = asyncio.create_task(_look_again_and_again(database, log))
    for step in script.steps:
        await asyncio.sleep(step.at - loop.time())
        for number in step.leave:
            members[number].leave()
        for number in step.die:
            members[number].die()
        database.members += [Member(database, instance, log) for instance in step.join]
        if step.tasks:
            first = len(database._tasks)
            for number, seconds in enumerate(step.tasks, first):
                database.add(number, seconds)
    while database.pending and loop.time() < within:
        await asyncio.sleep(LOOK_EVERY)
    log.ended_at, log.unfinished = loop.time(), database.pending
    log.attempts = {row.key: row.attempts for row in database._tasks.values()}
    looking.cancel()
    for member in members:
        member.runner.stop()
    for member in members:
        await member.end()
    return log


async def _look_again_and_again(database: Watched, log: Log) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY)
        log.looks.append(_look(database))


def _look(database: Watched) -> Look:
    now = database.clock()
    counts = Counter(row.session_id for row in database._open.values())
    sharing = database._sharing(now)
    targets = targets_of(counts.total(), sharing)
    seen = []
    for member in database.members:
        id_ = member.session
        if id_ in sharing and not member.is_dead:
            seen.append(
                Seen(
                    id_,
                    slots=member.instance.concurrency,
                    target=targets[id_],
                    held=counts[id_],
                    running=member.running[id_],
                    excused=member.is_excused,
                )
            )
    return Look(now, database.claimable(), seen)


def targets_of(tasks: int, capacities: dict[int, int]) -> dict[int, int]:
    """By capacity, in whole numbers, by the largest remainder: once more, so that an error of the library's own is seen."""
    total = sum(capacities.values())
    if tasks >= total:
        return dict(capacities)
    exact = {id_: tasks * capacity / total for id_, capacity in capacities.items()}
    targets = {id_: int(part) for id_, part in exact.items()}
    left = tasks - sum(targets.values())
    for id_ in sorted(exact, key=lambda id_: (-(tasks * capacities[id_] % total), id_))[:left]:
        targets[id_] += 1
    return targets


def by_task(events: Sequence[Event]) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        found[event.task].append(event)
    return found
