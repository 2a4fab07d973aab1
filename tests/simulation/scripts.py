"""Scripts: which instances there are, when they come, leave and die, and which tasks there are for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 20.0
"""Seconds, of a task, on an instance of usual speed."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What an instance is like."""

    concurrency: int = 2
    prefetch: int | None = None
    slowness: float = 1.0
    """Its tasks take so many times as long."""

    latency: float = 0.0
    """Seconds that each of its looks for work takes longer."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens at a time: instances start, others stop or die, tasks arrive."""

    at: float
    join: Sequence[Instance] = ()
    leave: Sequence[int] = ()
    die: Sequence[int] = ()
    tasks: Sequence[float] = ()
    """The seconds that each of them takes."""


@dataclass(frozen=True, slots=True)
class Script:
    """All that is given: the same script plays the same way each time."""

    seed: int
    steps: Sequence[Step]

    @property
    def tasks(self) -> list[float]:
        return [seconds for step in self.steps for seconds in step.tasks]


def crowd(seed: int, size: int = 500) -> Script:
    """So many instances, of which some leave, some die and others come, all in half a minute."""
    rng = random.Random(f"crowd {seed}")
    instances = [
        Instance(rng.choice((1, 2)), rng.choice((0, None)), rng.choice((1, 1, 2))) for _ in range(size)
    ]
    first, later = instances[: size * 4 // 5], instances[size * 4 // 5 :]
    gone = rng.sample(range(len(first)), size // 20)
    tasks = [rng.uniform(0.5, 2.0) for _ in range(size * 2)]
    return Script(
        seed,
        [
            Step(0.5, join=first, tasks=tasks),
            Step(3.0, join=later, leave=gone[: size // 50], die=gone[size // 50 :]),
        ],
    )


def script_of(seed: int, size: int, *, steps: int = 5) -> Script:
    """Up to `size` instances at once, of different sizes and speeds, which come, leave and die; tasks of hundredths to tens of
    seconds, now fewer and now more than there are slots.
    """
    rng = random.Random(f"{seed} {size}")

    def instance() -> Instance:
        lags = size > 2 and rng.random() < 0.1
        return Instance(
            concurrency=rng.choice((1, 2, 4)),
            prefetch=rng.choice((0, None)),
            slowness=rng.choice((1, 1, 1, 4)),
            latency=2.5 if lags else 0.0,
        )

    def some_tasks(slots: int) -> list[float]:
        count = max(2, int(slots * rng.choice((0.6, 1.2, 4.0))))
        if rng.random() < 0.4:  # so that much is claimed ahead, and then the slots are busy for long
            return [rng.choice((0.02, 0.02, 0.02, rng.uniform(3, LONGEST))) for _ in range(count)]
        usual = rng.choice((0.05, 1.0, 5.0))
        return [min(LONGEST, usual * rng.lognormvariate(0, 1)) for _ in range(count)]

    started = max(1, size // 2)
    instances = [Instance(concurrency=4), *(instance() for _ in range(started - 1))]  # the first one stays
    slots = sum(each.concurrency for each in instances)
    play = [Step(0.5, join=instances, tasks=some_tasks(slots))]
    present = list(range(started))
    total, at = started, 0.5
    for _ in range(steps):
        at += rng.uniform(5, 15)
        how_many = max(1, size // 4)
        kind = rng.choice(("join", "leave", "die", "tasks"))
        if kind in {"leave", "die"} and len(present) > how_many:
            gone = rng.sample(present[1:], how_many)
            present = [number for number in present if number not in gone]
            play.append(Step(at, leave=gone) if kind == "leave" else Step(at, die=gone))
        elif kind == "join" and len(present) + how_many <= size:
            joined = [instance() for _ in range(how_many)]
            slots += sum(each.concurrency for each in joined)
            play.append(Step(at, join=joined, tasks=some_tasks(slots) if rng.random() < 0.3 else ()))
            present += range(total, total + how_many)
            total += how_many
        else:
            play.append(Step(at, tasks=some_tasks(slots)))
    return Script(seed, play)
