"""The local deadline: from before the call, only forward, never beyond what was granted."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from session_lock import SessionLost
from session_lock import session as module
from session_lock.session import CLOCK_RATE_BOUND, Lease, Session


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "lease_clock", clock)
    return clock


def new(**kwargs: float) -> Session:
    session = Session(Lease(7, uuid4(), 30))
    session.extend(sent_at=1000.0, left=30.0, ttl=30.0, guard=1.0)
    return session


def test_it_counts_from_before_the_call_was_sent_whenever_the_answer_came(clock: Clock) -> None:
    session = new()
    clock.now = 1002.5  # the answer is read here
    assert session.deadline == pytest.approx(1000 + 30 * (1 - CLOCK_RATE_BOUND) - 1)
    session.extend(sent_at=1000.0, left=30.0, ttl=30.0, guard=1.0)
    assert session.deadline == pytest.approx(1000 + 30 * (1 - CLOCK_RATE_BOUND) - 1)
    assert session.left() == pytest.approx(28.97 - 2.5)


def test_it_moves_only_forward(clock: Clock) -> None:
    session = new()
    before = session.deadline
    session.extend(sent_at=990.0, left=30.0, ttl=30.0, guard=1.0)  # an early keepalive's late answer
    session.extend(sent_at=1001.0, left=2.0, ttl=30.0, guard=1.0)
    assert session.deadline == before
    session.extend(sent_at=1001.0, left=30.0, ttl=30.0, guard=1.0)
    assert session.deadline == pytest.approx(before + 1)


def test_a_server_whose_clock_stepped_back_grants_no_more_than_the_ttl(clock: Clock) -> None:
    session = new()
    before = session.deadline
    session.extend(sent_at=1000.0, left=3600.0, ttl=30.0, guard=1.0)
    assert session.deadline == before


def test_a_clock_that_counted_a_suspend_ends_the_lease(clock: Clock) -> None:
    session = new()
    session.assert_held()
    clock.now += 60
    assert session.left() == 0
    with pytest.raises(SessionLost, match="session 7 is lost"):
        session.assert_held()


def test_what_is_known_to_be_lost_has_nothing_left(clock: Clock) -> None:
    session = new()
    session.lost = True
    assert session.left() == 0
    with pytest.raises(SessionLost):
        session.assert_held()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no CLOCK_BOOTTIME here")
def test_the_clock_is_the_one_that_counts_suspends() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= module.lease_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_where_there_is_none_the_monotonic_clock_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    before = time.monotonic()  # noqa: TID251
    assert before <= module.lease_clock() <= time.monotonic()  # noqa: TID251


def test_a_lease_does_not_show_its_nonce() -> None:
    lease = Lease(7, uuid4(), 30)
    assert str(lease.nonce) not in f"{lease!r} {Session(lease)!r} {lease}"
