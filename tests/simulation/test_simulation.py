"""Plays of the cluster in virtual time, each judged by all checks; and each check is seen to find what it is for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from session_lock.hold import Hold
from session_lock.pace import Pace
from session_lock.testing import MemoryDatabase
from session_lock.testing.sharing import MemoryShares
from tests.simulation import checks
from tests.simulation.scripts import crowd, script_of
from tests.simulation.world import Log, play

PLAYS = {2: 20, 3: 20, 5: 15, 8: 15, 16: 8, 32: 3, 64: 1}
"""Seeds, by the most instances at once."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Deaths are no news here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def wrongs(log: Log) -> list[str]:
    return [f"{check.__name__}: {wrong}" for check in checks.CHECKS for wrong in check(log)]


@pytest.mark.parametrize(("size", "seed"), [(size, seed) for size in PLAYS for seed in range(PLAYS[size])])
def test_a_play(size: int, seed: int) -> None:
    found = wrongs(play(script_of(seed, size)))
    assert not found, f"see it by: python -m tests.simulation {size} {seed}"


@pytest.mark.timeout(240)  # 10 seconds of a core, in virtual time
def test_a_crowd_of_500() -> None:
    assert wrongs(play(crowd(1))) == []


# What the checks are for --------------------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def nobody_asks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryShares, "_ask_for_tasks", lambda *_: None)


def slow_calls_count_as_fast(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pace, "_slow", lambda *_: 0)


def who_stops_keeps_what_it_has_not_begun(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hold, "give_back", lambda *_: None)


def nobody_goes_beyond_its_share(patch: pytest.MonkeyPatch) -> None:
    room = MemoryShares._room

    def bound(*args: Any, **options: Any) -> Any:
        return room(*args, **{**options, "over_share": False})

    patch.setattr(MemoryShares, "_room", bound)


def the_dead_are_not_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryDatabase, "_end_expired", lambda *_: None)


def all_claim_ahead_where_work_is_scarce(patch: pytest.MonkeyPatch) -> None:
    room = MemoryShares._room

    def unbound(*args: Any, **options: Any) -> Any:
        return room(*args, **{**options, "at_once": None})

    patch.setattr(MemoryShares, "_room", unbound)


def what_runs_is_given_to_others(patch: pytest.MonkeyPatch) -> None:
    is_free = MemoryDatabase._is_free

    def now_and_then(database: Any, row: Any, session: Any, held: Any) -> bool:
        free = is_free(database, row, session, held)
        return free or (row.key % 7 == 3 and row.session_id is not None and row.session_id != session.id)

    patch.setattr(MemoryDatabase, "_is_free", now_and_then)


def what_runs_is_moved(patch: pytest.MonkeyPatch) -> None:
    hand_over = Hold.hand_over

    def with_the_running(hold: Hold[Any], count: int) -> None:
        hand_over(hold, count)
        hold.cancel_running()

    patch.setattr(Hold, "hand_over", with_the_running)


@pytest.mark.parametrize(
    ("check", "broken", "size", "seed"),  # the first play that finds it, so that the search is short
    [
        (checks.balance, nobody_asks, 3, 1),
        (checks.balance, slow_calls_count_as_fast, 3, 1),
        (checks.balance, who_stops_keeps_what_it_has_not_begun, 3, 1),
        (checks.idle, nobody_goes_beyond_its_share, 3, 0),
        (checks.movement, all_claim_ahead_where_work_is_scarce, 8, 153),
        (checks.loss, the_dead_are_not_ended, 3, 1),
        (checks.loss, what_runs_is_moved, 3, 0),
        (checks.loss, what_runs_is_given_to_others, 3, 0),
    ],
)
def test_a_check_finds_what_it_is_for(
    check: Callable[[Log], list[str]], broken: Break, size: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    assert any(check(play(script_of(number, size), within=400)) for number in range(seed, seed + 30))
