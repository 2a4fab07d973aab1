"""Hand-over: who has nothing to do asks those that hold more than their share, and hears of what is given back."""

from __future__ import annotations

import asyncio

import pytest

from session_lock.database import Handback

from .conftest import Suite, keys


async def asked(suite: Suite, lease) -> int:
    return (await suite.bump(lease)).give_back


@pytest.mark.fault("B2", "B3")
async def test_who_holds_more_than_its_share_is_asked_once_for_what_is_above_it(suite: Suite):
    await suite.add(9)
    first, second = await suite.start(), await suite.start()
    assert len((await suite.work(first, 9)).tasks) == 9
    work = await suite.work(second, 10, over_share=False, at_once=10)
    assert (work.tasks, work.share) == ([], 4)
    assert await asked(suite, first) == 4  # of 9 the share of the lower id is 5
    assert await asked(suite, first) == 0
    assert await asked(suite, second) == 0


async def test_each_is_asked_for_its_own_surplus(suite: Suite):
    await suite.add(12)
    first, second, third = [await suite.start(capacity=capacity) for capacity in (20, 20, 40)]
    await suite.work(first, 4)
    await suite.work(second, 8)
    await suite.work(third, 30, over_share=False, at_once=30)
    assert (await asked(suite, first), await asked(suite, second)) == (1, 5)


async def test_who_could_not_begin_more_asks_for_nothing(suite: Suite):
    await suite.add(9)
    first, second = await suite.start(), await suite.start()
    await suite.work(first, 9)
    for at_once in (0, None):
        await suite.work(second, 10, over_share=False, at_once=at_once)
        assert await asked(suite, first) == 0


async def test_the_tasks_of_a_session_that_drains_are_in_nobodys_share(suite: Suite):
    await suite.add(14)
    leaver, hoarder, idle = [await suite.start() for _ in range(3)]
    assert len((await suite.work(leaver, 10)).tasks) == 10
    assert len((await suite.work(hoarder, 4)).tasks) == 4
    await suite.bump(leaver, draining=True)
    await suite.work(idle, 10, over_share=False, at_once=10)
    assert await asked(suite, hoarder) == 2


async def test_it_is_asked_again_later(suite: Suite):
    await suite.add(9)
    first, second = await suite.start(), await suite.start()
    await suite.work(first, 9)
    for _ in range(2):
        await suite.work(second, 10, over_share=False, at_once=10)
        assert await asked(suite, first) == 4
        await suite.advance(1)


async def test_who_ran_all_that_it_held_is_asked_less_often(suite: Suite):
    await suite.add(9)
    first, second = await suite.start(), await suite.start()
    await suite.work(first, 9)
    await suite.database.bump_session(first, ttl=30, draining=False, running=9)
    times = []
    for _ in range(5):
        await suite.work(second, 10, over_share=False, at_once=10)
        beat = await suite.database.bump_session(first, ttl=30, draining=False, running=9)
        times.append(beat.give_back)
        await suite.advance(0.4)
    assert times == [4, 0, 0, 4, 0]


async def test_nobody_claims_ahead_while_somebody_has_had_nothing_to_do(suite: Suite):
    await suite.add(9)
    first, second, third = [await suite.start() for _ in range(3)]
    held = keys(await suite.work(first, 5))
    await suite.work(second, 4)
    await suite.work(third, 10, over_share=False, at_once=10)
    assert await asked(suite, first) > 0
    await suite.add(50)
    held += keys(await suite.work(first, 3, over_share=False, at_once=1, held=held))
    assert len(held) == 6
    assert (await suite.work(first, 3, over_share=False, at_once=0, held=held)).tasks == []
    await suite.advance(1.5)
    assert len((await suite.work(first, 3, over_share=False, at_once=0, held=held)).tasks) == 3


async def test_where_less_is_there_than_all_could_hold_nobody_claims_ahead_also_within_its_share(
    suite: Suite,
):
    await suite.add(15)
    first, _ = await suite.start(), await suite.start()
    held = keys(await suite.work(first, 2, over_share=False, at_once=2))
    work = await suite.work(first, 2, over_share=False, at_once=0, held=held)
    assert (len(held), work.tasks, work.share) == (2, [], 8)


async def test_where_work_is_scarce_nobody_claims_ahead(suite: Suite):
    await suite.add(15)
    first, second = await suite.start(), await suite.start()
    held = keys(await suite.work(first, 10, over_share=False, at_once=3))
    assert len(held) == 3
    assert len((await suite.work(second, 10, over_share=False, at_once=20)).tasks) == 7  # its share
    work = await suite.work(first, 7, over_share=False, at_once=0, held=held)
    assert (work.tasks, work.share) == ([], 8)


async def test_nor_beyond_the_share_after_its_patience(suite: Suite):
    await suite.add(6)
    first, _ = await suite.start(), await suite.start()
    assert len((await suite.work(first, 6, over_share=True, at_once=2)).tasks) == 2


async def test_where_there_is_plenty_or_nobody_to_share_with_it_claims_ahead(suite: Suite):
    await suite.add(30)
    first = await suite.start()
    assert len((await suite.work(first, 5, over_share=False, at_once=1)).tasks) == 5
    second = await suite.start()
    assert len((await suite.work(second, 5, over_share=False, at_once=1)).tasks) == 5


async def test_the_asked_one_is_told_and_what_it_gives_back_wakes_the_other(suite: Suite):
    await suite.add(8)
    first, second = await suite.start(), await suite.start()
    claims = await suite.claim(first, 8)
    told, woken, other = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with (
        suite.database.listening(other.set, lease=first, asked=told.set),
        suite.database.listening(woken.set, lease=second, asked=lambda: None),
    ):
        await suite.until_heard(woken)
        await suite.until_heard(other)
        told.clear()
        await suite.work(second, 10, over_share=False, at_once=10)
        async with asyncio.timeout(5):
            await told.wait()
        assert not woken.is_set()
        surplus = claims[-(await asked(suite, first)) :]
        handbacks = [Handback(claim, give_back_attempt=True) for claim in surplus]
        await suite.database.release_tasks(first, handbacks, wake=True)
        async with asyncio.timeout(5):
            await woken.wait()
    work = await suite.work(second, 10, over_share=False, at_once=10)
    assert keys(work) == keys(surplus)
    assert [task.attempt for task in work.tasks] == [1] * 4


async def test_the_end_of_a_session_and_its_draining_wake_the_others(suite: Suite):
    first, second = await suite.start(), await suite.start()
    woken = asyncio.Event()
    async with suite.database.listening(woken.set):
        await suite.until_heard(woken)
        await suite.work(second)  # which has room from now on
        await suite.bump(first, draining=True)
        async with asyncio.timeout(5):
            await woken.wait()
        woken.clear()
        await suite.end(first)
        async with asyncio.timeout(5):
            await woken.wait()


async def test_what_is_given_back_is_told_also_to_those_that_have_no_room(suite: Suite):
    """Tasks before the position from which they look: they shall look from the start."""
    await suite.add(40)
    first, second = await suite.start(), await suite.start()
    claims = await suite.claim(first, 6)
    assert len(await suite.claim(second, 10)) == 10
    woken = asyncio.Event()

    async def hear() -> None:
        async with asyncio.timeout(5):
            await woken.wait()
        woken.clear()

    async with suite.database.listening(woken.set):
        await suite.until_heard(woken)
        await suite.database.release_tasks(first, [Handback(claims[0], give_back_attempt=True)], wake=True)
        await hear()
        await suite.bump(first, draining=True)
        await hear()
        await suite.database.release_tasks(first, [Handback(claims[1], give_back_attempt=True)], wake=True)
        await hear()
        await suite.end(first, *claims[2:])
        await hear()


async def test_who_ends_an_expired_session_wakes_the_others(suite: Suite):
    await suite.start(ttl=1)
    second, third = await suite.start(ttl=100), await suite.start(ttl=100)
    woken = asyncio.Event()
    async with suite.database.listening(woken.set):
        await suite.until_heard(woken)
        await suite.work(second)
        await suite.advance(2)
        await suite.work(third)
        async with asyncio.timeout(5):
            await woken.wait()
