"""What befalls the instances of a storm, by dice that a seed throws: who is struck, how, when and for how long."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg

from session_lock.session import boottime
from tests.chaos.storm.evidence import Event
from tests.proxy import BOTH, Link

if TYPE_CHECKING:
    from tests.chaos.storm.weather import Storm

AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What it is like when the server is away, for ourselves too."""

NETWORK = {"cut": 30, "reset": 25, "hole": 15, "one_way": 10, "delay": 15, "partition": 5}
"""How many of a hundred events of the network are of which kind."""

KINDS = {"cut": "N1", "reset": "N1", "hole": "N2", "one_way": "N2", "delay": "N4", "partition": "N6"}


TERMINATE = """
WITH there AS MATERIALIZED (
  SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'storm ') AND datname = current_database()
)
SELECT pg_terminate_backend(pid) FROM there WHERE (SELECT count(*) FROM there) >= $1 ORDER BY random() LIMIT 1
"""
"""One of at least so many: who is struck as soon as it is up never comes to do anything."""


@dataclass(frozen=True)
class Plan:
    """How often each shall take place, spread over so many seconds."""

    seconds: float
    kills: int = 0
    stops: int = 0
    starved: int = 0
    terminations: int = 0
    restarts: int = 0
    network: int = 0
    lost_replies: int = 0

    def drawn(self, dice: random.Random) -> list[tuple[float, str]]:
        """The strokes in their order, each with its time."""
        kinds = {
            "kill": self.kills, "stop": self.stops, "stop_briefly": self.stops // 5, "starve": self.starved, "terminate": self.terminations,
            "restart": self.restarts, "network": self.network, "lose_reply": self.lost_replies,
        }  # fmt: skip
        drawn = [
            (self.seconds * dice.random(), kind)
            for kind, times in kinds.items()
            if kind != "restart"
            for _ in range(times)
        ]
        # A restart takes a while: they do not come together.
        drawn += [
            (self.seconds * (number + dice.random() / 2) / self.restarts, "restart")
            for number in range(self.restarts)
        ]
        return sorted(drawn)


class Nemesis:
    def __init__(self, storm: Storm, dice: random.Random) -> None:
        self._storm, self._dice = storm, dice
        self._later: set[asyncio.Task[None]] = set()
        self.times = Counter[str]()
        """By the faults of the catalogue."""
        self.events: list[Event] = []
        self._stopped: dict[int, float] = {}
        self._armed: list[asyncio.Future[Link]] = []
        self._restarting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._restarting.set_result(None)

    async def rage(self, plan: Plan) -> None:
        """Carry out the plan. What finds no victim is tried again at the end; never two at once, so that somebody gets up between."""
        drawn = plan.drawn(self._dice)
        strokes = deque([(at - before, kind) for (before, _), (at, kind) in pairwise([(0.0, ""), *drawn])])
        most = 5 * len(strokes)
        while strokes and most:
            gap, kind = strokes.popleft()
            await asyncio.sleep(gap)
            if not await getattr(self, kind)():
                strokes.append((plan.seconds / len(drawn), kind))
            most -= 1
        await self.calm()

    async def calm(self) -> None:
        """Undo all that is under way."""
        for pid in [*self._stopped]:
            self._go_on(pid)
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        await self._restarting
        for instance in self._storm.instances:
            instance.network.heal()
            for link in instance.network.links:
                link.delay = 0.0
        lost = [one for one in self._armed if one.done()]
        self.times["N3"] += len(lost)
        for one in self._armed:
            one.cancel()
        self._armed.clear()

    # Processes -------------------------------------------------------------------------------------------

    async def kill(self, *, again: bool = True) -> bool:
        """And start another one in its place, unless it shall not be there `again`."""
        instance = self._dice.choice(self._storm.instances)
        at = boottime()
        if instance.pid in self._stopped:
            self._note_stop(instance.pid)
        self.events.append(Event("kill", instance.pid, at))
        await self._storm.forks.kill(instance.pid)
        if again:
            await self._storm.start(instance)
        else:
            self._storm.instances.remove(instance)
        self.times["P1"] += 1
        return True

    async def stop(self) -> bool:
        """For longer than the lease."""
        lease = self._storm.lease
        if not self._stop(self._dice.choices([1.2 * lease, 2 * lease, 10 * lease], [60, 37, 3])[0]):
            return False
        self.times["P3"] += 1
        return True

    async def stop_briefly(self) -> bool:
        return self._stop(0.5 * self._storm.lease)

    async def starve(self) -> bool:
        """For two leases a process gets a twentieth of the time: it counts as one stop."""
        running = [one.pid for one in self._storm.instances if one.pid not in self._stopped]
        if len(running) < 3:
            return False
        pid = self._dice.choice(running)
        self._stopped[pid] = boottime()
        self._spawn(self._starve(pid, boottime() + 2 * self._storm.lease))
        self.times["P4"] += 1
        return True

    async def _starve(self, pid: int, until: float) -> None:
        while pid in self._stopped and boottime() < until:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.19)
            if pid in self._stopped:
                os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(0.01)
        self._go_on(pid)

    def _stop(self, seconds: float) -> bool:
        running = [one.pid for one in self._storm.instances if one.pid not in self._stopped]
        if len(running) < 3:
            return False
        pid = self._dice.choice(running)
        self._stopped[pid] = boottime()
        os.kill(pid, signal.SIGSTOP)
        self._after(seconds, lambda: self._go_on(pid))
        return True

    def _go_on(self, pid: int) -> None:
        if pid in self._stopped:
            os.kill(pid, signal.SIGCONT)
            self._note_stop(pid)

    def _note_stop(self, pid: int) -> None:
        self.events.append(Event("stop", pid, self._stopped.pop(pid), boottime()))

    # The server ------------------------------------------------------------------------------------------

    async def terminate(self) -> bool:
        with suppress(*AWAY):
            if await self._storm.beside.ask(TERMINATE, len(self._storm.instances)):
                self.times["N13"] += 1
                return True
        return False

    async def restart(self) -> bool:
        """At once, while the rest goes on."""
        assert self._storm.server is not None
        if not self._restarting.done():
            return False
        self._restarting = asyncio.create_task(asyncio.to_thread(self._storm.server.restart, "immediate"))
        self.times["D1"] += 1
        return True

    # The network -----------------------------------------------------------------------------------------

    async def network(self) -> bool:
        """On one connection of one instance, or all of them."""
        network = self._dice.choice(self._storm.instances).network
        links = [link for link in network.links if not link.held]
        if len(links) < 2:
            return False
        (kind,) = self._dice.choices([*NETWORK], [*NETWORK.values()])
        link, seconds = self._dice.choice(links), self._dice.uniform(0.2, 1.5) * self._storm.lease
        match kind:
            case "cut" | "reset":
                link.cut(reset=kind == "reset")
            case "hole":
                link.hold()
                self._after(seconds, link.cut)
            case "one_way":
                link.hold(self._dice.choice(BOTH))
                self._after(seconds, link.let_through)
            case "delay":
                link.delay = 0.3 * seconds
                self._after(seconds, lambda: setattr(link, "delay", 0.0))
            case "partition":
                network.partition()
                self._after(2 * seconds, network.heal)
        self.times[KINDS[kind]] += 1
        return True

    async def lose_reply(self) -> bool:
        """To the COMMIT of a finishing transaction, or to the call that finishes tasks."""
        instance = self._dice.choice(self._storm.instances)
        if instance.pid in self._stopped:
            return False
        statement = "COMMIT" if instance.way == "transaction" else "finish_tasks"
        cut_after = self._dice.choice([0.0, 0.05, None])
        self._armed.append(instance.network.lose_reply(statement, cut_after=cut_after))
        return True

    # Later -----------------------------------------------------------------------------------------------

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            act()

        self._spawn(wait())

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._later.add(task)
        task.add_done_callback(self._later.discard)
