"""From where a session looks: cheap looks from the start are made whenever there is a reason, and others seldom."""

from __future__ import annotations

import math
from typing import Any

import pytest

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
        self,
        at: float,
        tasks: int = 0,
        position: str | None = None,
        *,
        walk: float = 0.0,
        took: float = 0.0,
        **more: Any,
    ) -> str | None:
        """A look at this time; returns from where. `asked=True` if somebody says that there are tasks."""
        begun = self.whence.begin(at, asked=more.pop("asked", False))
        walked = walk if begun is None else None
        self.whence.found(found(tasks, position, walked, **more), begun, ROOM, at, took)
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
    assert look(1, 1, "b", walk=0.1) is None  # once, it may have had to wait for the processor
    assert look(2, 1, "b", walk=0.1) is None
    assert look(2.1, 1, "c") == "a", "what little it found may stand far back"
    assert look.whence.again_at == 22
    assert look(9.9, 0, asked=True) == "c"
    assert look(22, 0, walk=0.1) is None
    assert look(22.1, 3, "d") == "a", "as far back as it may"
    assert look(22.2, 3, "e") == "d"
    assert look(23.0, 3, "f") == "e", "also where there is plenty"
    assert look(42, 0, walk=0.001) is None  # vacuum was through
    assert look(42.1, 0) is None


@pytest.mark.parametrize(("walk", "pause"), [(0.005, 0), (0.02, 4), (0.3, 60), (2, 60), (4, 80)])
def test_what_stands_before_the_position_is_found_within_a_minute_if_that_takes_no_more_than_a_twentieth_of_the_time(
    walk: float, pause: float
) -> None:
    look = Looks()
    for at in (0, 1000, 2000):
        assert look(at, 3, "a", walk=walk) is None
    look(2000.001, 0)
    assert look.whence.again_at == 2000 + pause


def test_between_them_it_looks_back_to_where_it_was_a_short_while_ago() -> None:
    look = Looks()
    look(0, 3, "a", walk=0.5)
    look(1, 3, "b", walk=0.5)
    assert look(1.1, 3, "c") == "b"
    assert look(11, 3, "d") == "c"
    assert look(11.5, 3, "d") == "b", "that was the position ten seconds ago"
    assert look(11.55, 1, "e") == "d"
    assert look.whence.again_at < 11.6
    assert look(11.6, 0) == "b"
    assert look.whence.again_at == 61, "what it did not see, only a look from the start would"
    assert look(11.7, 0, asked=True) == "b", "at once, since that is cheap"
    assert look(11.8, 3, "c") == "b"
    assert look(11.81, 3, "d") == "c", "what stands after it is not skipped"
    assert look(61, 0, walk=0.5) is None


def test_a_short_look_back_that_takes_long_is_seldom_too() -> None:
    look = Looks()
    look(0, 3, "a", walk=0.5)
    look(1, 3, "b", walk=0.5)
    look(12, 3, "c")
    assert look(12.2, 0, took=0.02) == "b"
    assert look(12.3, 0, took=0.02) == "b"
    assert look(12.4, 0) == "c"
    assert look.whence.again_at == pytest.approx(12.3 + 4)
    assert look.whence.walks("b")
    assert not look.whence.walks("c")
    assert look(16.3, 0, took=0.02) == "b"


def test_it_looks_again_when_the_next_task_is_due_and_not_again_and_again_for_it() -> None:
    look = Looks()
    look(0, 3, "a", walk=0.1)
    look(1, 0, walk=0.1, next_due=0.5)
    assert look.whence.again_at == 1.5
    assert look(1.5, 0) == "a"
    assert look.whence.again_at == 3
    assert look(3, 0, walk=0.1) is None
    assert look.whence.again_at == math.inf
    look(3.1, 0)
    assert look.whence.again_at == 23, "it was looked for"


def fail(look: Looks, at: float, took: float) -> str | None:
    begun = look.whence.begin(at, asked=False)
    look.whence.failed(begun, took)
    return begun


def test_a_look_from_the_start_that_ends_in_a_timeout_was_a_walk_if_the_next_one_from_the_position_succeeds() -> (
    None
):
    look = Looks()
    look(0, 3, "a")
    assert fail(look, 1, 10) is None
    assert look(11, 1, "b") == "a"
    assert look.whence.again_at == 201
    assert look(200.9, 0) == "a", "as far back as it may"
    assert look(201, 0) is None


def test_an_outage_is_no_walk() -> None:
    look = Looks()
    look(0, 3, "a")
    assert fail(look, 1, 10) is None
    assert fail(look, 12, 10) == "a"
    assert fail(look, 23, 10) is None
    assert fail(look, 34, 10) == "a"
    assert look(45, 0) is None


def test_a_look_that_was_not_sent_says_nothing_of_walks() -> None:
    look = Looks()
    for at in (0, 1, 2):
        look(at, 3, "a", walk=0.1)
    assert fail(look, 22, 0.0) is None
    assert look(22.1, 0) == "a"
    assert look.whence.again_at == 42


def test_the_way_to_the_server_is_no_part_of_a_short_look_back() -> None:
    look = Looks()
    look(0, 3, "a", walk=0.5)
    look(1, 3, "b", walk=0.5)
    assert look(1.1, 3, "c", took=0.03) == "b"
    assert look(1.2, 3, "d", took=0.03) == "c"
    look(12, 3, "e", took=0.06)  # the processor was not at hand
    for at in (13.1, 13.2, 13.3):
        assert look(at, 0, took=0.034) == "b"
    for at in (13.4, 13.5):
        assert look(at, 0, took=0.04) == "b"
    assert look(13.6, 0) != "b"


def test_before_it_has_found_anything_it_looks_from_the_start_however_long_that_takes() -> None:
    look = Looks()
    assert [look(at, walk=1) for at in range(5)] == [None] * 5
