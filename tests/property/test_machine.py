"""The SQL and `MemoryDatabase` do the same, whatever is done to them; and each fault that is put into one of them is found.

The same examples in each run, or as many others as `SESSION_LOCK_EXAMPLES` says: `nox -s properties`, which prints their seed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from session_lock.limits import Limit, Rate
from session_lock.testing import MemoryDatabase, MemorySession, MemoryTask, MemoryTransaction
from tests.conftest import TestDatabase
from tests.database.conftest import NEEDS
from tests.property.machine import Machine
from tests.property.pair import Pair, PostgresSide, Session, State, Task, check_promises
from tests.sql.schedule import SESSIONS, TASKS, fault, put_in

AT_NIGHT = int(os.environ.get("SESSION_LOCK_EXAMPLES", "0"))

EXAMPLES = settings(
    max_examples=AT_NIGHT or 300,
    stateful_step_count=60,
    derandomize=not AT_NIGHT,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)

MAPPINGS: dict[str, tuple[float, dict[str, Any]]] = {
    "plain": (0.5, {}),
    "without discard": (0.1, {"discard": False}),
    "limits": (0.1, {"limits": {"limits": (Limit(4), Limit(2, by="address"))}}),
    "ordered": (0.1, {"limits": {"limits": (Limit(1, by="address", ordered=True),), "order_by": ("id",)}}),
    "rates": (0.1, {"limits": {"limits": (Rate(3, per=4.0), Rate(1, per=1.0, by="address"))}}),
    "accepts": (0.1, {"limits": {"accepts": NEEDS}}),
}
"""Which part of the examples, and how the mapping differs from the plain one."""


@pytest.fixture
def pair(request: pytest.FixtureRequest, database: TestDatabase) -> Iterator[Pair]:
    """With the faults or the mapping that the test asks for."""
    asked = getattr(request, "param", {})
    options: dict[str, Any] = {"discard": True, "limits": {}, **asked.get("mapping", {})}
    with asyncio.Runner() as runner:
        opening = PostgresSide.opened(database, **options)
        with put_in(*asked.get("faults", ())):
            postgres = runner.run(opening.__aenter__())
        yield Pair(runner.get_loop(), postgres, options)
        runner.run(opening.__aexit__(None, None, None))


@pytest.mark.timeout(3 * 3600 if AT_NIGHT else 300)
@pytest.mark.parametrize(
    ("part", "pair"),
    [(part, {"mapping": mapping}) for part, mapping in MAPPINGS.values()],
    ids=list(MAPPINGS),
    indirect=["pair"],
)
def test_both_do_the_same(part: float, pair: Pair) -> None:
    examples = settings(EXAMPLES, max_examples=round(EXAMPLES.max_examples * part))
    run_state_machine_as_test(lambda: Machine(pair), settings=examples)


# What it has found: the printed steps, as they were ------------------------------------------------------------------


def test_a_transaction_that_has_failed_can_only_be_rolled_back(pair):
    state = Machine(pair)
    state.begin()
    state.finish_in(keys="all", runner="B", transaction="a")
    state.finish_in(keys="mine", runner="B", transaction="a")
    state.teardown()


def test_a_transaction_that_has_failed_locks_nothing(pair):
    state = Machine(pair)
    state.begin()
    state.add(address="forbidden", after=None)
    work = {"limit": 5, "at_once": None, "over_share": True, "stretch": "whole", "finish": None}
    state.start(runner="C", capacity=5, ttl=30.0, version="1")
    state.get_work(runner="C", reply_lost=False, **work)
    state.finish_in(keys="mine", runner="C", transaction="a")
    state.finish(keys=1, runner="C", stale=False)
    assert state.pair.state.tasks[1].status == "finished"
    state.teardown()


def test_a_forged_end_waits_for_nobody(pair):
    state = Machine(pair)
    state.begin()
    state.finish_in(keys="mine", runner="B", transaction="a")
    state.forge(runner="B", verb="end")
    state.teardown()


def test_who_ends_after_its_lease_has_expired(pair):
    state = Machine(pair)
    state.begin()
    state.advance(seconds=16.0)
    state.advance(seconds=16.0)
    state.end(keys="mine", runner="B")
    assert state.pair.state.sessions[2].expired
    state.teardown()


def test_a_cancel_that_is_refused_has_ended_nobody(pair):
    state = Machine(pair)
    state.begin()
    state.add(address="kept", after=None)
    state.advance(seconds=16.0)
    state.advance(seconds=16.0)
    state.cancel(key=5)
    assert not state.pair.state.sessions[2].ended
    state.teardown()


@pytest.mark.parametrize("pair", [{"mapping": MAPPINGS["limits"][1]}], ids=["limits"], indirect=True)
def test_no_more_is_shared_than_the_group_may_hold_though_the_first_ones_are_of_one_value(pair):
    state = Machine(pair)
    state.begin()
    state.add(address="forbidden", after=None)
    state.add(address="forbidden", after=None)
    state.add(address="unreadable", after=None)
    state.shares()
    state.teardown()


def test_two_finishing_calls_of_nothing_in_one_transaction_have_an_effect_each(pair):
    state = Machine(pair)
    state.begin()
    state.finish_in(keys="mine", runner="A", transaction="a")
    state.finish_in(keys="mine", runner="A", transaction="a")
    state.commit(transaction="a")
    state.teardown()


@pytest.mark.parametrize("pair", [{"mapping": MAPPINGS["limits"][1]}], ids=["limits"], indirect=True)
def test_under_limits_a_look_from_a_position_that_finds_enough_does_not_look_from_the_start_too(pair):
    state = Machine(pair)
    state.begin()
    state.cancel(key=1)
    state.get_work(
        at_once=None, finish=None, limit=5, stretch="whole", over_share=False, reply_lost=False, runner="B"
    )
    state.get_work(
        at_once=None, finish="mine", limit=5, stretch="onward", over_share=False, reply_lost=False, runner="B"
    )
    state.teardown()


def test_who_can_begin_nothing_at_once_is_told_no_share_where_somebody_was_asked_lately(pair):
    state = Machine(pair)
    state.begin()
    work = {"limit": 5, "over_share": False, "stretch": "whole", "reply_lost": False}
    state.get_work(runner="B", at_once=None, finish=None, **work)
    for _ in range(3):
        state.get_work(runner="A", at_once=None, finish="mine", **work)
    state.get_work(runner="A", at_once=1, finish=None, **work)
    assert state.pair.state.sessions[2].asked_at is not None
    state.get_work(runner="B", at_once=0, finish=None, **work)
    state.teardown()


# What it is for --------------------------------------------------------------------------------------------------------

IN_SQL = [
    fault(
        "a stale token will do", TASKS,
        ("           WHEN task.token IS DISTINCT FROM claim.token THEN 'lost'\n", ""),
    ),
    fault(
        "a nonce will do that is not the session's", SESSIONS,
        ("s.nonce = p_nonce AND s.ended_at IS NULL\n     FOR KEY SHARE", "s.ended_at IS NULL\n     FOR KEY SHARE"),
    ),
    fault(
        "a keepalive revives who has expired", SESSIONS,
        ("IF v_expires IS NULL OR v_expires <= v_now THEN", "IF v_expires IS NULL THEN"),
    ),
    fault(
        "a claim whose reply was lost counts as an attempt", TASKS,
        ("t.__attempts__ + (t.__session_id__ IS DISTINCT FROM my.id)::integer", "t.__attempts__ + 1"),
    ),
    fault("what is to be given back is told again", SESSIONS, ("give_back = 0, running", "running")),
    fault(
        "who ends keeps the attempts", TASKS,
        ("SET __session_id__ = NULL, __attempts__ = greatest(t.__attempts__ - 1, 0)\n   WHERE t.__key__ = ANY (my.held)",
         "SET __session_id__ = NULL\n   WHERE t.__key__ = ANY (my.held)"),
    ),
    fault(
        "what is given back at once loses its place", TASKS,
        ("WHEN r.after IS NULL THEN t.__available_at__", "WHEN r.after IS NULL THEN my.clock"),
    ),
    fault("who is paused gets work", SESSIONS, (" AND NOT s.draining AND NOT v_paused)", " AND NOT s.draining)")),
    fault(
        "what was closed by hand is finished", TASKS,
        ("WHEN task.holder = p_id AND task.pending THEN 'held'", "WHEN task.holder = p_id THEN 'held'"),
    ),
    fault("ties go to the higher id", SESSIONS, ("remainder DESC, part.id)", "remainder DESC, part.id DESC)")),
]  # fmt: skip

RARE = {
    "claimed in the order of the keys",
    "what is to be given back is told again",
    "what is given back at once loses its place",
    "what was closed by hand is finished",
}
"""Tried at night: they take more examples."""


def expires_a_moment_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemorySession, "live", lambda self, now: not self.ended and self.expires_at >= now)


def a_failed_transaction_commits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryTransaction, "fail", lambda _: None)


def locked_rows_are_given_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryTask, "locked", False)


def all_that_failed_is_suspect(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryTask, "note", lambda *_: None)


def a_piece_goes_on_to_the_end(patch: pytest.MonkeyPatch) -> None:
    between = MemoryDatabase._between
    patch.setattr(
        MemoryDatabase, "_between", lambda self, rows, position, _: between(self, rows, position, None)
    )


IN_MEMORY = [
    expires_a_moment_late,
    a_failed_transaction_commits,
    locked_rows_are_given_out,
    all_that_failed_is_suspect,
    a_piece_goes_on_to_the_end,
]


def is_found(pair: Pair) -> None:
    unshrunk = settings(
        EXAMPLES, max_examples=1000 if AT_NIGHT else 60, derandomize=True, phases=[Phase.generate]
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(lambda: Machine(pair), settings=unshrunk)


@pytest.mark.timeout(1800 if AT_NIGHT else 60)
@pytest.mark.parametrize(
    "pair",
    [pytest.param({"faults": [each]}, id=each.name) for each in IN_SQL if AT_NIGHT or each.name not in RARE],
    indirect=True,
)
def test_a_fault_of_the_sql_is_found(pair):
    is_found(pair)


@pytest.mark.timeout(1800 if AT_NIGHT else 60)
@pytest.mark.parametrize(
    "break_it", IN_MEMORY if AT_NIGHT else IN_MEMORY[2:3], ids=lambda each: each.__name__
)
def test_a_fault_in_memory_is_found(pair, monkeypatch, break_it):
    break_it(monkeypatch)
    is_found(pair)


PENDING, FINISHED = Task("pending", 1, 3, 1, 0.0), Task("finished", None, 3, 1, 0.0)
LIVE = Session(2, 30.0, False, False, False, False, False, 0, None, 0, [])
ENDED, EXPIRED = LIVE._replace(ended=True), LIVE._replace(expires_at=0.0)


def state_of(
    task: Task, first: Session = LIVE, second: Session = LIVE, effects: tuple[str, ...] = ()
) -> State:
    return State(1.0, {1: task}, {1: first, 2: second}, [], False, [*effects])


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        (state_of(PENDING), state_of(PENDING._replace(token=2)), "shrinks"),
        (state_of(PENDING._replace(status="discarded")), state_of(FINISHED), "finished twice"),
        (state_of(PENDING, EXPIRED), state_of(FINISHED, EXPIRED), "finished by a session that is not live"),
        (state_of(PENDING, ENDED), state_of(PENDING._replace(session=2), ENDED), "without a new token"),
        (state_of(PENDING), state_of(PENDING._replace(session=2, token=4)), "taken from a live"),
        (state_of(PENDING, ENDED), state_of(PENDING._replace(session=2, token=4), ENDED, ENDED), "given to a session"),
        (state_of(PENDING, ENDED), state_of(PENDING), "revived"),
        (state_of(PENDING), state_of(PENDING, effects=("a", "a")), "there twice"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)  # fmt: skip
def test_a_broken_promise_is_seen_also_if_both_break_it(before, after, wrong):
    check_promises(before, before)
    with pytest.raises(AssertionError, match=wrong):
        check_promises(before, after)
