"""Show a play: `python -m tests.simulation SIZE SEED [STEPS]`, its script, what was seen, and what is wrong with it."""

from __future__ import annotations

import logging
import sys

from tests.simulation.checks import CHECKS
from tests.simulation.scripts import script_of
from tests.simulation.world import Event, Log, Look, play


def show(log: Log) -> None:
    for step in log.script.steps:
        print(
            f"{step.at:8.3f} join {[*step.join]} leave {[*step.leave]} die {[*step.die]} tasks {len(step.tasks)}"
        )
    seen: list[Event | Look] = sorted([*log.events, *log.looks], key=lambda each: each.at)
    for each in seen:
        print(f"{each.at:8.3f} {_told(each)}")
    for check in CHECKS:
        for wrong in check(log):
            print(f"{check.__name__}: {wrong}")


def _told(each: Event | Look) -> str:
    if isinstance(each, Event):
        return f"{each.what} {each.task} by {each.session}"
    sessions = (
        f"{one.session}: {one.running} of {one.held} run, slots {one.slots}, target {one.target}{' (excused)' * one.excused}"
        for one in each.sessions
    )
    return f"{each.claimable} claimable; {'; '.join(sessions)}"


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    size, seed, *steps = map(int, sys.argv[1:])
    show(play(script_of(seed, size, steps=steps[0] if steps else 5)))
