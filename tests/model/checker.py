"""Goes through all states of a protocol, nearest first, so that what it finds has the shortest trace that there is."""

from __future__ import annotations

import gc
from array import array
from dataclasses import dataclass
from itertools import pairwise

from tests.model.promises import OF_STATES, OF_STEPS, done, helps, hopes
from tests.model.protocol import Protocol
from tests.model.states import State, Step, World
from tests.model.symmetry import Names, reduced


@dataclass(frozen=True)
class Report:
    states: int
    steps: int
    broken: str = ""
    """The promise that does not hold."""
    trace: tuple[str, ...] = ()
    complete: bool = True
    """Whether these are all. If not, nobody has asked whether the tasks can still be done."""

    def __str__(self) -> str:
        lines = (f"{number:3} {line}" for number, line in enumerate(self.trace, 1))
        return "\n".join(
            [
                f"{self.states} states, {self.steps} steps: {self.broken or 'all is kept'}{'' if self.complete else ' so far'}",
                *lines,
            ]
        )


def check(protocol: Protocol, *, at_most: int = 10_000_000) -> Report:
    """All states, or as many, or up to the first that is wrong."""
    gc.disable()  # nothing of it goes in circles, and it is a million objects
    try:
        return _check(protocol, at_most)
    finally:
        gc.enable()


def _check(protocol: Protocol, at_most: int) -> Report:
    first = protocol.world.first()
    number = {first: 0}
    states = [first]
    parents = array("l", [-1])
    sources, targets = array("l"), array("l")
    steps = 0
    for place, state in enumerate(states):  # which grows
        for step in protocol.steps(state):
            steps += 1
            for kept in OF_STEPS:
                if not kept(state, step):
                    return Report(
                        len(states), steps, kept.__name__, trace(protocol, states, parents, place, step)
                    )
            after = step.state
            target = number.get(after, -1)
            if target < 0:
                after, _ = reduced(after)
                target = number.setdefault(after, len(states))
            if target == len(states):
                states.append(after)
                parents.append(place)
                for holds in OF_STATES:
                    if not holds(after):
                        return Report(
                            len(states), steps, holds.__name__, trace(protocol, states, parents, target)
                        )
                if target == at_most:
                    return Report(at_most, steps, complete=False)
            if helps(step):
                sources.append(place)
                targets.append(target)
    lost = out_of_reach(states, sources, targets)
    if lost is not None:
        return Report(len(states), steps, done.__name__, trace(protocol, states, parents, lost))
    return Report(len(states), steps)


def out_of_reach(states: list[State], sources: array[int], targets: array[int]) -> int | None:
    """The nearest state from which the goal cannot be reached any more."""
    ends = array(
        "l", bytes(array("l").itemsize * (len(states) + 1))
    )  # those of a target are in before[ends[target]:ends[target + 1]]
    for target in targets:
        ends[target + 1] += 1
    for place in range(len(states)):
        ends[place + 1] += ends[place]
    before, free = array("l", sources), array("l", ends)
    for source, target in zip(sources, targets, strict=True):
        before[free[target]] = source
        free[target] += 1

    good = bytearray(map(done, states))
    found = [place for place, is_good in enumerate(good) if is_good]
    for place in found:  # which grows
        for source in before[ends[place] : ends[place + 1]]:
            if not good[source]:
                good[source] = 1
                found.append(source)
    return next((place for place, state in enumerate(states) if not good[place] and hopes(state)), None)


def trace(
    protocol: Protocol, states: list[State], parents: array[int], place: int, last: Step | None = None
) -> tuple[str, ...]:
    """The steps from the first state to this one, and one more. Names are given anew at each state; here they are kept."""
    way = [place]
    while way[-1]:
        way.append(parents[way[-1]])
    told, names = [], Told(protocol.world)
    for here, there in pairwise(states[place] for place in reversed(way)):
        for step in protocol.steps(here):
            if step.state == there:
                told.append(names.tell(step))
                break
            after, new = reduced(step.state)
            if after == there:
                told.append(names.tell(step))
                names.change(new)
                break
    return (*told, names.tell(last)) if last else tuple(told)


class Told:
    """What Runners, sessions and tasks are called in a trace: A and B, A1 and A2 for the sessions of A, 1 and 2."""

    def __init__(self, world: World) -> None:
        self.runners = list("ABCDEF"[: world.runners])
        self.tasks = list(range(1, world.tasks + 1))
        self.sessions = {0: "-"}
        self.started = dict.fromkeys(self.runners, 0)

    def tell(self, step: Step) -> str:
        runner = self.runners[step.runner] if step.runner >= 0 else ""
        if step.what == "starts a session":
            self.started[runner] += 1
            self.sessions[len(step.state.sessions)] = f"{runner}{self.started[runner]}"
        task = f", task {self.tasks[step.task]}" if step.task >= 0 else ""
        what = step.what.replace("{session}", f"session {self.sessions[step.session]}")
        return f"{runner} {what}{task}".strip().replace(" 's", "'s")

    def change(self, names: Names) -> None:
        self.runners = [self.runners[old] for old in names.runners]
        self.tasks = [self.tasks[old] for old in names.tasks if old >= 0]
        self.sessions = {new: self.sessions[old] for old, new in names.sessions.items()}
