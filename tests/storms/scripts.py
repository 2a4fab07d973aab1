"""Scripts: an hour of a cluster, drawn from a seed. Who comes, stops, is killed or frozen; the weather; the tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from session_lock import Retry, Settings

HOUR = 3600.0

CALM_FROM = 2400.0
"""Nothing goes wrong from here on: what is left is to be done by the end of the hour,"""

LONGER = 900.0
"""or so many seconds later, if it has not been by then."""

SETTINGS = Settings(
    lease_ttl=90.0,
    keepalive_interval=25.0,
    call_timeout=4.0,
    cancel_grace=6.0,
    guard=1.0,
    poll_interval=30.0,
    drain_timeout=100.0,
    shutdown_timeout=8.0,
    task_timeout=300.0,
    retry=Retry(max_attempts=8, delay=2.0, longest=40.0),
    breaker_failures=None,  # an idle instance whose breaker is open may leave tasks alone
)

LEASE = SETTINGS.lease_ttl

WEATHERS = ("laggy", "slow", "lossy", "deaf", "late", "refusing", "away")
"""Of the network. What else there is is calm."""

USUAL = (
    "works", "works", "in the transaction", "in its own transaction", "outside", "outside late", "long", "cleans up",
    "cleans up",
)  # fmt: skip
STUBBORN = "is stubborn"
ODD = (
    "raises", "raises a BaseException", "raises a cancellation", "says nothing", "says too much", "releases",
    "discards", "cleans up", "cleans up", STUBBORN, "hangs",
)  # fmt: skip
RARE = ("exits",)


@dataclass(frozen=True, slots=True)
class Act:
    """What the tasker does in one run of a task, and for how long."""

    kind: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Instance:
    """What an instance is like."""

    batch_size: int
    """0: its tasker is under `each`."""
    concurrency: int
    drift: float
    """By how much its clock is slow (below 0) or fast."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens at a time, to one instance or to the database."""

    at: float
    what: str
    """join, stop, kill, freeze, thaw, weather (for one, or for all), clock (of the database), tasks"""
    who: int = 0
    seconds: float = 0.0
    weather: str = ""
    instance: Instance | None = None
    tasks: Sequence[Sequence[Act]] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """All that is given: the same script plays the same way each time."""

    seed: int
    steps: Sequence[Step]


def script_of(seed: int) -> Script:
    """An hour: up to 6 instances at once, some 15 events, and up to 120 tasks."""
    return _Writer(seed).write()


class _Writer:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rng = random.Random(f"storm {seed}")
        self._steps: list[Step] = []
        self._count = 0
        self._present: list[int] = []
        self._frozen_until: dict[int, float] = {}
        self._clock_steps = self._rng.random() < 0.2
        self._bad_clocks = self._rng.random() < 0.15
        self._exits = self._rng.random() < 0.1

    def write(self) -> Script:
        rng = self._rng
        for at in sorted(rng.uniform(0, 20) for _ in range(rng.randint(2, 4))):
            self._join(at)
        while (at := at + rng.expovariate(1 / 65)) < CALM_FROM:
            self._something(at)
        self._join(CALM_FROM, Instance(0, 10, 0.0))  # whatever has become of the others
        self._steps.append(Step(CALM_FROM, "weather", weather="calm"))
        return Script(self._seed, sorted(self._steps, key=lambda step: step.at))

    def _something(self, at: float) -> None:
        rng = self._rng
        awake = [who for who in self._present if self._frozen_until.get(who, 0.0) <= at]
        kinds = ["tasks"] * 5 + ["weather"] * 4 + ["freeze"] * 2 + ["kill", "stop", "join", "join"]
        kind = rng.choice([*kinds, "clock"] if self._clock_steps else kinds)
        if kind == "join" and len(self._present) < 6:
            self._join(at)
        elif kind == "weather":
            self._storm(at)
        elif kind == "freeze" and awake:
            who = rng.choice(awake)
            until = min(at + LEASE * rng.choice((0.5, 0.9, 1.0, 1.5, 2.0, 10.0)), CALM_FROM)
            self._frozen_until[who] = until
            self._steps += [Step(at, "freeze", who), Step(until, "thaw", who)]
        elif kind in {"kill", "stop"} and len(awake) > 1:
            who = rng.choice(awake)
            self._present.remove(who)
            self._steps.append(Step(at, kind, who))
        elif kind == "clock":
            self._steps.append(Step(at, "clock", seconds=rng.choice((-1, 1)) * rng.uniform(0.1, 2) * LEASE))
        else:
            self._steps.append(Step(at, "tasks", tasks=[self._task() for _ in range(rng.randint(1, 8))]))

    def _join(self, at: float, instance: Instance | None = None) -> None:
        self._steps.append(Step(at, "join", self._count, instance=instance or self._instance()))
        self._present.append(self._count)
        self._count += 1

    def _instance(self) -> Instance:
        rng = self._rng
        drift = rng.uniform(-1e-3, 1e-3)
        if self._bad_clocks and rng.random() < 0.5:
            drift = rng.choice((-0.3, -0.1, 0.1))
        return Instance(rng.choice((0, 0, 1, 3)), rng.choice((1, 2, 3)), drift)

    def _storm(self, at: float) -> None:
        """One kind of weather after the other, for one instance or for all."""
        rng = self._rng
        who = -1 if rng.random() < 0.3 or not self._present else rng.choice(self._present)
        if rng.random() < 0.2:  # the replies of the last keepalives were late, and then there are none
            phases = [("laggy", 0.5), ("away", 1.5)]
        else:
            phases = [
                (rng.choice(WEATHERS), rng.choice((0.1, 0.5, 1.1, 1.5))) for _ in range(rng.randint(1, 3))
            ]
        for weather, leases in phases:
            self._steps.append(Step(at, "weather", who, weather=weather))
            at = min(at + LEASE * leases, CALM_FROM)
        self._steps.append(Step(at, "weather", who, weather="calm"))

    def _task(self) -> Sequence[Act]:
        """At last it comes to its end: what goes wrong goes wrong in the first runs."""
        rng = self._rng
        odd = [self._act(rng.choice(ODD)) for _ in range(rng.choice((0, 0, 0, 1, 1, 2)))]
        if self._exits and rng.random() < 0.05:
            odd.append(self._act(rng.choice(RARE)))
        return (*odd, self._act(rng.choice(USUAL)))

    def _act(self, kind: str) -> Act:
        rng = self._rng
        seconds = min(80.0, rng.choice((0.1, 10.0, 40.0)) * rng.lognormvariate(0, 1))
        if kind in {"long", STUBBORN}:
            seconds = LEASE * rng.uniform(1, 1.5 if kind == "long" else 2.5)
        return Act(kind, seconds)
