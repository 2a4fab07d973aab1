"""From where a session looks: cheap looks from the start are made whenever there is a reason, and others seldom."""

from __future__ import annotations

import math
from typing import Any

from session_lock.database import Claim, ClaimedTask, Work
from session_lock.whence import Whence

ROOM = 3


def found(tasks: int, position: str | None = None, walked: float | None = None, **more: Any) -> Work[Any]:
    claimed = [ClaimedTask(Claim(key, 1), 1, None) for key in range(tasks)]
    return Work(30.0, claimed, position=position, walked=walked, **more)


class Looks:
    """Looks one after another, at times of their own."""

    def __init__(self) -> None:
        self.whence = Whence(1.0)

    def __call__(
        self, at: float, tasks: int = 0, position: str | None = None, *, walk: float = 0.0, **more: Any
    ) -> str | None:
        """A look at this time; returns from where. `asked=True` if somebody says that there are tasks."""
        begun = self.whence.begin(at, asked=more.pop("asked", False))
        walked = walk if begun is None else None
        self.whence.found(found(tasks, position, walked, **more), begun, ROOM, at)
        return begun


def test_where_there_is_plenty_it_goes_on_from_there_and_looks_back_once_in_a_poll_interval() -> None:
    look = Looks()
    assert look(0, 3, "a") is None
    assert look(0.1, 3, "b") == "a"
    assert look(0.9, 3, "c") == "b"
    assert look(1.0, 3, "a") is None
    assert look(1.9, 3, "b") == "a"


def test_it_looks_back_soon_where_somebody_has_said_that_there_are_tasks() -> None:
    look = Looks()
    look(0, 3, "a")
    assert look(0.04, 3, "b", asked=True) == "a"
    assert look(0.051, 3, "b") is None  # that was not forgotten
    assert look(0.2, 3, "c") == "b"


def test_too_little_means_from_the_start_at_once() -> None:
    look = Looks()
    look(0, 3, "a")
    assert look(0.1, 1, "b") == "a"
    assert look.whence.again_at == 0  # before now
    assert look(0.1) is None
    assert look(0.2) is None


def test_a_look_from_the_start_that_takes_long_is_made_seldom() -> None:
    look = Looks()
    look(0, 3, "a")
    assert look(1, 1, "b", walk=0.5) is None  # once, it may have had to wait for the processor
    assert look(2, 1, "b", walk=0.5) is None
    assert look(2.1, 1, "c") == "a", "what little it found may stand far back"
    assert look.whence.again_at == 12
    assert look(11.9, 0, asked=True) == "c"
    assert look(12, 0, walk=0.5) is None
    assert look(12.1, 3, "d") == "c"
    assert look(13.5, 3, "e") == "d", "also where there is plenty"
    assert look(22, 0, walk=0.001) is None  # vacuum was through
    assert look(22.1, 0) is None


def test_it_looks_again_when_the_next_task_is_due_and_not_again_and_again_for_it() -> None:
    look = Looks()
    look(0, 3, "a", walk=0.1)
    look(1, 0, walk=0.1, next_due=0.5)
    assert look.whence.again_at == 1.5
    assert look(1.5, 0) == "a"
    assert look.whence.again_at == 3
    assert look(3, 0, walk=0.1) is None
    assert look.whence.again_at == math.inf


def test_looks_from_the_start_that_end_in_a_timeout_are_walks_as_long_as_others_succeed() -> None:
    look = Looks()
    look(0, 3, "a")
    for at in (1, 12):
        assert look.whence.begin(at, asked=False) is None
        look.whence.failed(None, 10)
    assert look(22, 1, "b") == "a"
    assert look(100, 1, "c") == "b"
    assert look(212, 0) is None


def test_after_an_outage_it_looks_from_the_start() -> None:
    look = Looks()
    look(0, 3, "a")
    for at in (1, 12):
        look.whence.begin(at, asked=False)
        look.whence.failed(None, 10)
    look.whence.failed(look.whence.begin(23, asked=False), 10)
    assert look(34, 0) is None


def test_before_it_has_found_anything_it_looks_from_the_start_however_long_that_takes() -> None:
    look = Looks()
    assert [look(at, walk=1) for at in range(5)] == [None] * 5
