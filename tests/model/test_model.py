"""The rules keep the promise in every state; and each fault is found, and breaks what it is said to break."""

from __future__ import annotations

import inspect

import pytest

from tests.model import faults, promises
from tests.model.checker import check
from tests.model.protocol import Protocol
from tests.model.worlds import AT_NIGHT, BY_DEFAULT

FAULTS: list[type[faults.Fault]] = [
    each for each in vars(faults).values() if inspect.isclass(each) and faults.Fault in each.__bases__
]


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_all_is_kept(name: str) -> None:
    world, states = BY_DEFAULT[name]
    report = check(Protocol(world))
    assert not report.broken, str(report)
    assert report.states == states


def test_it_is_said_if_there_are_more_states() -> None:
    report = check(Protocol(BY_DEFAULT["two Runners"][0]), at_most=1000)
    assert (report.states, report.complete) == (1000, False)
    assert str(report).endswith("steps: all is kept so far")


def test_they_are_enough_states() -> None:
    assert sum(states for _, states in BY_DEFAULT.values()) > 100_000
    assert sum(states for _, states in (*BY_DEFAULT.values(), *AT_NIGHT.values())) > 1_000_000


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault: type[faults.Fault]) -> None:
    report = check(fault(fault.where))
    assert report.broken == fault.breaks.__name__, str(report)
    assert len(report.trace) == fault.shortest, str(report)


def test_each_promise_is_broken_by_a_fault() -> None:
    assert {fault.breaks for fault in FAULTS} == {*promises.OF_STATES, *promises.OF_STEPS, promises.done}


def test_a_trace_tells_what_happened_from_the_first_state_on() -> None:
    assert check(faults.NotAmongTheLiving(faults.NotAmongTheLiving.where)).trace == (
        "A starts a session",
        "A's look begins",
        "B starts a session",
        "B's look begins",
        "B's look claims, task 1",
        "A's look claims, task 1",
    )
