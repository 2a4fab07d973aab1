"""The play of a script: instances with real Runners, and the database that they share."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from session_lock import Runner, each, session
from session_lock.database import Claim, Handback, Outcome, Settled
from session_lock.testing import MemoryDatabase, MemoryTransaction, run_virtual
from session_lock.testing.freezing import Freezer
from session_lock.testing.rows import MemorySession, MemoryTask
from tests.storms.log import Log
from tests.storms.network import WHO, Network
from tests.storms.scripts import HOUR, LONGER, SETTINGS, Instance, Script, Step
from tests.storms.taskers import Plan, Resource, Taskers

FAREWELL = SETTINGS.drain_timeout + SETTINGS.cancel_grace + SETTINGS.shutdown_timeout + 1.0
"""Seconds after the hour, in which all stop."""

_lease_clock: ContextVar[Callable[[], float]] = ContextVar("lease_clock")


class Witnessed(MemoryDatabase[Plan]):
    """Notes what becomes of sessions and claims, in the moment when it happens."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.ahead = 0.0
        """By which its clock was stepped."""
        self._log = log
        self._seen: dict[int, float] = {}  # the ends of the leases of sessions that have not ended
        self._newest = 0

    def clock(self) -> float:
        return super().clock() + self.ahead

    def step(self, seconds: float) -> None:
        self.ahead += seconds
        self._log.note("stepped", until=self.ahead)

    def standing(self) -> dict[int, str]:
        parked = set(self.parked)
        return {
            key: row.closed or ("parked" if key in parked else "pending") for key, row in self._tasks.items()
        }

    # Sessions ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _round_trip(self) -> AsyncIterator[float]:
        async with super()._round_trip() as now:
            yield now
            self._look_at_sessions()

    def _end_expired(self, now: float) -> None:
        super()._end_expired(now)
        self._look_at_sessions()

    def _look_at_sessions(self) -> None:
        for id_, expires_at in list(self._seen.items()):
            seen = self._sessions[id_]
            if seen.expires_at != expires_at:
                self._seen[id_] = seen.expires_at
                self._log.note("renewed", who=WHO.get(), session=id_, until=seen.expires_at)
            if seen.ended:
                del self._seen[id_]
                self._log.note("ended", session=id_, how="expired" if seen.expired else "by itself")
        while self._newest < len(self._sessions):
            self._newest += 1
            self._seen[self._newest] = expires_at = self._sessions[self._newest].expires_at
            self._log.note("started", who=WHO.get(), session=self._newest, until=expires_at)

    # Claims --------------------------------------------------------------------------------------------------

    def _claim(self, row: MemoryTask[Plan], session: MemorySession, now: float) -> Any:
        claimed = super()._claim(row, session, now)
        self._log.note("claimed", who=WHO.get(), session=session.id, task=row.key, token=row.token)
        return claimed

    def _finish(self, session: MemorySession, claim: Claim) -> Settled:
        settled = super()._finish(session, claim)
        if settled.outcome is Outcome.FINISHED:
            self._log.note("finished", session=session.id, task=claim.key, token=claim.token)
        return settled

    def _finish_later(
        self, connection: MemoryTransaction, session: MemorySession, claims: Sequence[Claim]
    ) -> None:
        super()._finish_later(connection, session, claims)
        for claim in claims:
            noted = {"session": session.id, "task": claim.key, "token": claim.token}
            connection.write(lambda noted=noted: self._log.note("finished", **noted, how="in a transaction"))

    def _give_back(self, row: MemoryTask[Plan], handback: Handback, now: float) -> Settled:
        id_ = row.session_id
        settled = super()._give_back(row, handback, now)
        self._log.note(
            settled.outcome, session=id_, task=row.key, token=handback.claim.token, until=row.available_at
        )
        return settled


class Process:
    """An instance: what it runs stands still when it is frozen, and for ever when it is killed."""

    def __init__(self, who: int, instance: Instance, world: World) -> None:
        self.who = who
        self.instance = instance
        self.network = Network(world.database, world.log, who)
        self._world = world
        self._log = world.log
        self._born_at = asyncio.get_running_loop().time()
        self._is_frozen = self._is_killed = self._is_to_stop = False
        taskers = Taskers(world.log, world.resource, who)
        self._runner: Runner[Plan] = Runner(
            self.network,
            taskers.for_batch if instance.batch_size else each(taskers.for_one),
            replace(SETTINGS, batch_size=max(1, instance.batch_size), concurrency=instance.concurrency),
            idle_spans=False,
        )
        self._freezer = Freezer()
        world.log.instances[who] = instance
        world.log.note("joined", who=who, how=str(instance))
        # What it creates inherits both: who it is, and its clock.
        who_before, clock_before = WHO.set(who), _lease_clock.set(self._clock)
        self._freezer.start(self._live())
        WHO.reset(who_before)
        _lease_clock.reset(clock_before)

    def _clock(self) -> float:
        passed = asyncio.get_running_loop().time() - self._born_at
        return self._born_at + passed * (1 + self.instance.drift)

    async def _live(self) -> None:
        how = ""
        try:
            await self._runner.run()
        except BaseException as error:
            how = type(error).__name__
        self._log.note("left", who=self.who, how=how)
        if how == "SystemExit":
            self._world.restart(self)

    def stop(self) -> None:
        """A signal: it waits until a frozen process goes on."""
        if self._is_killed or self._is_to_stop:
            return
        self._is_to_stop = True
        if not self._is_frozen:
            self._stop_now()

    def _stop_now(self) -> None:
        self._log.note("stops", who=self.who)
        self._runner.stop()

    def kill(self) -> None:
        self._is_killed = True
        self._log.note("killed", who=self.who)
        self._freezer.freeze()

    def freeze(self) -> None:
        self._is_frozen = True
        self._log.note("frozen", who=self.who)
        self._freezer.freeze()

    def thaw(self) -> None:
        self._is_frozen = False
        if self._is_killed:
            return
        self._log.note("thawed", who=self.who)
        self._freezer.thaw()
        if self._is_to_stop:
            self._stop_now()

    def left_behind(self) -> list[str]:
        """Asyncio tasks that have not ended, of an instance that was not killed."""
        if self._is_killed:
            return []
        return sorted(f"{task.get_name()} of {self.who}" for task in self._freezer.tasks if not task.done())

    def bury(self) -> None:
        """The play is over."""
        self._freezer.thaw()
        for task in self._freezer.tasks:
            task.cancel()


def play(script: Script) -> Log:
    """Play the hour, and judge nothing."""
    state = random.getstate()
    random.seed(script.seed)  # of jitter
    try:
        return run_virtual(_play(script), limit=HOUR * 2)
    finally:
        random.setstate(state)


async def _play(script: Script) -> Log:
    session._clock = lambda: _lease_clock.get()()  # `run_virtual` puts the real one back
    clock = asyncio.get_running_loop().time
    world = World(script)
    for step in script.steps:
        await asyncio.sleep(step.at - clock())
        world.take(step)
    await asyncio.sleep(HOUR - clock())
    # What is begun late, and given back by a call that was too long for its `task_timeout`, may want some time more.
    while world.unsettled() and clock() < HOUR + LONGER:
        await asyncio.sleep(10)
    world.stop()
    await asyncio.sleep(FAREWELL)
    log = world.close()
    await asyncio.sleep(FAREWELL)  # until what is frozen has ended too
    return log


class World:
    """The instances of a play, and what they share."""

    def __init__(self, script: Script) -> None:
        self.log = Log(script)
        self.database = Witnessed(self.log)
        self.resource = Resource()
        self._processes: dict[int, Process] = {}

    def take(self, step: Step) -> None:
        match step.what:
            case "join":
                assert step.instance is not None
                self._processes[step.who] = Process(step.who, step.instance, self)
            case "stop" | "kill" | "freeze" | "thaw":
                getattr(self._processes[step.who], step.what)()
            case "weather":
                self.log.note("weather", who=step.who, how=step.weather)
                for process in self._processes.values():
                    if step.who in {-1, process.who}:
                        process.network.weather = step.weather
            case "clock":
                self.database.step(step.seconds)
            case "tasks":
                for plan in step.tasks:
                    self.database.add(len(self.database._tasks), plan)

    def unsettled(self) -> bool:
        """Whether there is something to do, now or at some time."""
        return any(row.available_at < math.inf for row in self.database._open.values())

    def restart(self, process: Process) -> None:
        """As a supervisor does."""
        who = max(self._processes) + 100  # not the number of one that the script knows
        self._processes[who] = Process(who, process.instance, self)

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()

    def close(self) -> Log:
        """What was seen. Nothing counts that comes after it."""
        log = replace(
            self.log,
            events=list(self.log.events),
            standing=self.database.standing(),
            left_behind=[name for process in self._processes.values() for name in process.left_behind()],
        )
        for process in self._processes.values():
            process.bury()
        return log
