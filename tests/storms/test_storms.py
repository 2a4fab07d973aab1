"""Hours of faults, each judged by all promises; and each fault of the product is seen to be found."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.storms import faults, promises
from tests.storms.replay import replay

HOURS = 200
AT_ONCE = 10
OTHER_HOURS = 60


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Deaths are no news here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("begin", range(0, HOURS, AT_ONCE))
def test_all_is_kept(begin: int) -> None:
    for seed in range(begin, begin + AT_ONCE):
        hour = replay(seed)
        assert not hour.wrong, str(hour)


def test_the_same_seed_plays_the_same_hour() -> None:
    played = [
        subprocess.run(
            [sys.executable, "-m", "tests.storms", "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert " claimed instance " in played[0]
    assert played[0] == played[1]


# What the promises are for --------------------------------------------------------------------------------------

FOUND: dict[faults.Fault, tuple[int, set[promises.Promise]]] = {
    faults.the_deadline_counts_from_the_reply: (52, {promises.in_its_lease}),
    faults.nobody_fences_itself: (0, {promises.in_its_lease}),
    faults.a_lost_session_still_holds: (5, {promises.in_its_lease}),
    faults.a_loss_cancels_nobody: (0, {promises.in_its_lease, promises.apart}),
    faults.a_finish_is_tried_once: (11, {promises.all_done}),
    faults.no_keepalive_while_it_drains: (0, {promises.cancelled_with_reason}),
    faults.a_keepalive_that_fails_is_the_last: (2, {promises.cancelled_with_reason}),
    faults.the_abandoned_are_given_away: (7, {promises.in_its_lease, promises.apart}),
    faults.a_stop_waits_for_the_stubborn: (7, {promises.stopped_in_time}),
    faults.who_stops_keeps_its_session: (0, {promises.stopped_in_time, promises.none_for_ever}),
    faults.who_loses_its_session_takes_its_time: (1, {promises.came_back}),
    faults.what_fails_is_finished: (0, {promises.accomplished}),
    faults.a_finish_without_the_token: (27, {promises.fenced, promises.apart, promises.again_with_reason}),
    faults.the_expired_live_until_they_are_ended: (2, {promises.fenced, promises.dead_for_ever}),
    faults.a_draining_session_is_not_renewed: (0, {promises.kept}),
    faults.the_dead_are_not_ended: (3, {promises.all_done, promises.followed}),
    faults.the_dead_keep_their_tasks: (0, {promises.all_done}),
    faults.who_shows_no_life_for_a_while_is_dead: (2, {promises.one_owner, promises.apart}),
    faults.what_is_held_is_claimed_again: (0, {promises.apart, promises.again_with_reason}),
    faults.a_claim_whose_answer_was_lost_is_lost: (3, {promises.all_done}),
    faults.tokens_go_back: (0, {promises.one_owner, promises.newest_outside}),
    faults.a_finished_task_stays_open: (0, {promises.finished_once}),
    faults.effects_do_not_wait_for_the_commit: (3, {promises.effects_once}),
    faults.a_rollback_of_the_finish_alone: (0, {promises.finished_once, promises.kept}),
}
"""An early hour in which each is found, and by what. A change of the Runner may move it: then it is found in another one."""


@pytest.mark.parametrize("fault", FOUND, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault: faults.Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    seed, broken = FOUND[fault]
    wanted = {promise.__name__ for promise in broken}
    fault(monkeypatch)
    assert any(wanted <= {*replay(hour).wrong} for hour in (seed, *range(OTHER_HOURS)))


def test_each_fault_is_looked_for() -> None:
    known = {each for each in vars(faults).values() if inspect.getmodule(each) is faults}
    assert {*FOUND} == known


def test_each_promise_is_broken_by_a_fault() -> None:
    assert set().union(*(broken for _, broken in FOUND.values())) == {*promises.PROMISES}
