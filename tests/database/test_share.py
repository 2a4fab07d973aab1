"""The share: how sessions of one name divide what is scarce."""

from __future__ import annotations

import pytest

from session_lock.database import Outcome

from .conftest import Suite, keys


async def shares(suite: Suite, leases, limit: int = 10):
    """Each session looks once, in turn: (how many it claimed, the share it was told)."""
    works = [await suite.work(lease, limit, over_share=False) for lease in leases]
    return [(len(work.tasks), work.share) for work in works]


async def test_four_tasks_on_three_sessions_are_two_one_one(suite: Suite):
    await suite.add(4)
    leases = [await suite.start() for _ in range(3)]
    assert await shares(suite, leases) == [(2, 2), (1, 1), (1, 1)]


async def test_the_order_of_asking_does_not_matter(suite: Suite):
    await suite.add(4)
    leases = [await suite.start() for _ in range(3)]
    assert await shares(suite, reversed(leases)) == [(1, 1), (1, 1), (2, 2)]


@pytest.mark.fault("B7")
async def test_fewer_tasks_than_sessions(suite: Suite):
    await suite.add(1)
    leases = [await suite.start() for _ in range(3)]
    assert await shares(suite, reversed(leases)) == [(0, 0), (0, 0), (1, 1)]


@pytest.mark.parametrize(
    ("capacities", "tasks", "expected"),
    [
        ((10, 20, 10), 4, [1, 2, 1]),
        ((10, 20, 10), 5, [1, 3, 1]),  # 1.25, 2.5, 1.25: the largest remainder, not the lowest id
        ((30, 10), 6, [5, 1]),  # 4.5, 1.5: a tie goes to the lower id
        ((10, 30), 7, [2, 5]),  # 1.75, 5.25
        ((7, 11, 13), 10, [2, 4, 4]),  # 2.26, 3.55, 4.19
    ],
)
async def test_capacities_weigh(suite: Suite, capacities, tasks, expected):
    await suite.add(tasks)
    leases = [await suite.start(capacity=capacity) for capacity in capacities]
    assert await shares(suite, leases) == [(count, count) for count in expected]


async def test_held_tasks_count(suite: Suite):
    await suite.add(6)
    first, second = await suite.start(), await suite.start()
    assert len((await suite.work(first)).tasks) == 6
    assert await shares(suite, [second]) == [(0, 3)]  # of 6, but none is free


@pytest.mark.fault("B2")
async def test_who_holds_more_than_its_share_gets_no_more(suite: Suite):
    await suite.add(6)
    first, _ = await suite.start(), await suite.start()
    held = keys(await suite.work(first, 4))
    work = await suite.work(first, 6, held=held, over_share=False)
    assert (work.share, keys(work)) == (3, [])


async def test_who_holds_less_than_its_share_is_filled_up(suite: Suite):
    await suite.add(6)
    first, _ = await suite.start(), await suite.start()
    held = keys(await suite.work(first, 1))
    assert len((await suite.work(first, 6, held=held, over_share=False)).tasks) == 2


async def test_alone_a_session_takes_what_it_has_room_for(suite: Suite):
    await suite.add(6)
    assert await shares(suite, [await suite.start()]) == [(6, None)]


async def test_the_share_does_not_bind_where_there_is_plenty(suite: Suite):
    await suite.add(30)
    leases = [await suite.start() for _ in range(3)]
    assert await shares(suite, leases) == [(10, None)] * 3


async def test_it_is_counted_no_further_than_to_allow_what_is_wanted(suite: Suite):
    await suite.add(6)
    first, _ = await suite.start(), await suite.start()
    assert await shares(suite, [first], limit=3) == [
        (3, None)
    ]  # 6 of 20 could be, and half of that is wanted
    other, _ = await suite.start(), await suite.start()
    assert await shares(suite, [other], limit=3) == [(1, 1)]  # of four now: 6 are too few to allow 3


async def test_over_share_takes_what_is_left(suite: Suite):
    await suite.add(4)
    first, _ = await suite.start(), await suite.start()
    work = await suite.work(first)
    assert (len(work.tasks), work.share) == (4, None)


async def test_who_drains_is_not_counted(suite: Suite):
    await suite.add(4)
    first, draining, third = [await suite.start() for _ in range(3)]
    await suite.bump(draining, draining=True)
    assert await shares(suite, [first, third]) == [(2, 2), (2, 2)]


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_who_drains_gets_nothing(suite: Suite, others: int):
    await suite.add(4)
    draining, *_ = [await suite.start() for _ in range(1 + others)]
    await suite.bump(draining, draining=True)
    assert await shares(suite, [draining]) == [(0, None)]
    assert keys(await suite.work(draining, over_share=True)) == []


async def test_who_is_paused_gets_nothing_and_finishes_what_it_has(suite: Suite):
    first, second, _ = await suite.add(3)
    lease = await suite.start()
    claims = await suite.claim(lease, 2)
    await suite.pause()
    work = await suite.work(lease, held=[first, second])
    assert keys(work) == []
    assert await suite.finish(lease, *claims) == [Outcome.FINISHED] * 2
    await suite.resume()
    assert len(keys(await suite.work(lease))) == 1


@pytest.mark.parametrize("end", ["expired", "ended"])
async def test_who_is_gone_is_not_counted(suite: Suite, end: str):
    await suite.add(4)
    first, gone, third = [await suite.start() for _ in range(3)]
    await (suite.expire(gone) if end == "expired" else suite.end(gone))
    assert await shares(suite, [first, third]) == [(2, 2), (2, 2)]


async def test_what_is_not_due_is_not_divided(suite: Suite):
    await suite.add(2)
    await suite.add(20, after=60)
    leases = [await suite.start(), await suite.start()]
    assert await shares(suite, leases) == [(1, 1), (1, 1)]
