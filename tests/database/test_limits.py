"""get_work of a mapping with limits: what is held back, what is let through, and when."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from session_lock import Limit, Rate
from session_lock.database import Claim, Handback, Outcome

from .conftest import UNREADABLE, Suite, keys, under

ANN, BOB = "ann@example.org", "bob@example.org"
IN_ORDER = under(Limit(1, by="address", ordered=True), order_by=("id",))


# In all ----------------------------------------------------------------------------------------------------


@under(Limit(3))
async def test_no_more_than_the_limit_are_held_at_once_in_the_whole_group(limited: Suite):
    added = await limited.add(10)
    first, second = await limited.start(), await limited.start()
    one = await limited.claim(first, 2)
    work = await limited.work(second)
    assert [*keys(one), *keys(work)] == added[:3]
    assert work.limited
    assert keys(await limited.work(first, held=keys(one))) == []
    assert await limited.finish(first, one[0]) is Outcome.FINISHED
    assert keys(await limited.work(second, held=keys(work))) == [added[3]]


@under(Limit(3))
async def test_a_limit_that_holds_nothing_back_says_so(limited: Suite):
    await limited.add(3)
    work = await limited.work(await limited.start())
    assert len(work.tasks) == 3
    assert not work.limited


@under(Limit(3))
async def test_a_full_group_knows_of_no_time_to_wait_for(limited: Suite):
    await limited.add(3)
    await limited.add(after=5)
    lease = await limited.start(ttl=300)
    claims = await limited.claim(lease, 3)
    assert (await limited.work(lease, held=keys(claims))).next_due is None
    await limited.finish(lease, *claims)
    assert (await limited.work(lease)).next_due == pytest.approx(5, abs=1)


@under(Limit(2))
async def test_what_is_released_discarded_or_parked_counts_no_more(limited: Suite):
    added = await limited.add(6)
    lease = await limited.start()
    first, second = await limited.claim(lease)
    await limited.database.release_tasks(
        lease, [Handback(first, after=math.inf), Handback(second, discard=True)]
    )
    assert keys(await limited.work(lease)) == added[2:4]


@under(Limit(2))
async def test_what_the_application_closed_counts_no_more(limited: Suite):
    added = await limited.add(4)
    lease = await limited.start()
    assert keys(await limited.claim(lease)) == added[:2]
    await limited.close(added[0])
    assert keys(await limited.work(lease, held=added[:2])) == [added[2]]


@under(Limit(2))
async def test_what_an_instance_holds_counts_until_its_session_is_ended(limited: Suite):
    added = await limited.add(4)
    dead, live = await limited.start(), await limited.start()
    assert keys(await limited.claim(dead)) == added[:2]
    assert keys(await limited.work(live)) == []
    await limited.expire(dead)
    work = await limited.work(live)
    assert [(each.claim.key, each.attempt) for each in work.tasks] == [(key, 2) for key in added[:2]]


@under(Limit(2))
async def test_a_claim_whose_answer_was_lost_is_claimed_again_though_it_fills_the_limit(limited: Suite):
    added = await limited.add(4)
    lease = await limited.start()
    assert keys(await limited.claim(lease)) == added[:2]
    work = await limited.work(lease)
    assert [(each.claim, each.attempt) for each in work.tasks] == [(Claim(key, 2), 1) for key in added[:2]]


@under(Limit(2))
async def test_the_share_is_of_what_the_limit_lets_through(limited: Suite):
    await limited.add(50)
    first, second = await limited.start(), await limited.start()
    mine = await limited.work(first, over_share=False)
    assert (len(mine.tasks), mine.share) == (1, 1)
    assert len((await limited.work(second, over_share=False)).tasks) == 1


@pytest.mark.parametrize(("added", "held_back"), [(3, True), (2, False)])
@under(Limit(2))
async def test_who_has_its_share_of_a_limit_hears_whether_more_is_waiting(limited: Suite, added, held_back):
    await limited.add(added)
    first, second = await limited.start(), await limited.start()
    mine = await limited.work(first, over_share=False)
    assert len((await limited.work(second, over_share=False)).tasks) == 1
    work = await limited.work(first, held=keys(mine), over_share=False)
    assert (keys(work), work.share, work.limited) == ([], 1, held_back)


# For each value --------------------------------------------------------------------------------------------


@under(Limit(2, by="address"))
async def test_each_value_has_a_limit_of_its_own(limited: Suite):
    anns = await limited.add(4, after=-60, address=ANN)
    bobs = await limited.add(4, address=BOB)
    lease, other = await limited.start(), await limited.start()
    claims = await limited.claim(lease)
    assert keys(claims) == [*anns[:2], *bobs[:2]]
    assert keys(await limited.work(other)) == []
    await limited.finish(lease, claims[2])
    assert keys(await limited.work(other)) == [bobs[2]]


@under(Limit(1, by="address"))
async def test_a_value_behind_many_of_a_full_one_is_found(limited: Suite):
    anns = await limited.add(200, after=-60, address=ANN)
    (bob,) = await limited.add(address=BOB)
    lease = await limited.start()
    assert keys(await limited.work(lease, 2)) == [anns[0], bob]


@under(Limit(1, by="address"), Limit(2))
async def test_a_limit_of_each_value_and_one_of_all(limited: Suite):
    added = [(await limited.add(2, address=f"{name}@example.org"))[0] for name in "abc"]
    lease = await limited.start()
    claims = await limited.claim(lease)
    assert keys(claims) == added[:2]
    await limited.finish(lease, claims[0])
    assert len((await limited.work(lease, held=added[:2])).tasks) == 1


@under(Limit(1, by="address"))
async def test_the_next_due_task_of_a_full_value_is_not_waited_for(limited: Suite):
    await limited.add(2, address=ANN)
    await limited.add(after=5, address=ANN)
    await limited.add(after=20, address=BOB)
    lease = await limited.start(ttl=300)
    assert (await limited.work(lease)).next_due == pytest.approx(20, abs=1)


@under(Limit(1, by="address"))
async def test_the_share_of_values_is_how_many_could_be_held(limited: Suite):
    for name in "abcd":
        await limited.add(20, address=f"{name}@example.org")
    first, second = await limited.start(), await limited.start()
    assert (await limited.work(first, over_share=False)).share == 2
    assert len((await limited.work(second, over_share=False)).tasks) == 2


@under(Limit(1, by="address"))
async def test_a_row_that_cannot_be_read_has_a_value_too(limited: Suite):
    await limited.add(2, address=UNREADABLE)
    lease = await limited.start()
    (task,) = (await limited.work(lease)).tasks
    assert task.error is not None


# In order --------------------------------------------------------------------------------------------------


@IN_ORDER
async def test_one_after_the_other_for_each_value(limited: Suite):
    anns, bobs = await limited.add(3, address=ANN), await limited.add(2, address=BOB)
    lease, other = await limited.start(), await limited.start()
    claims = await limited.claim(lease)
    assert keys(claims) == [anns[0], bobs[0]]
    assert keys(await limited.work(other)) == []
    await limited.finish(lease, claims[0])
    assert keys(await limited.work(other)) == [anns[1]]


@IN_ORDER
async def test_a_failed_task_holds_up_those_behind_it_until_it_is_done(limited: Suite):
    anns, (bob,) = await limited.add(2, address=ANN), await limited.add(address=BOB)
    lease = await limited.start(ttl=300)
    first, other = await limited.claim(lease)
    await limited.database.release_tasks(lease, [Handback(first, after=30, error="no")])
    work = await limited.work(lease, held=[bob])
    assert keys(work) == []
    assert work.limited
    assert work.next_due == pytest.approx(30, abs=1)
    await limited.advance(31)
    (again,) = await limited.claim(lease, held=[bob])
    assert again.key == anns[0]
    await limited.finish(lease, again, other)
    assert keys(await limited.work(lease)) == [anns[1]]


@IN_ORDER
async def test_a_discarded_task_lets_the_next_one_through_and_a_parked_one_does_not(limited: Suite):
    anns, bobs = await limited.add(2, address=ANN), await limited.add(2, address=BOB)
    lease = await limited.start()
    ann, bob = await limited.claim(lease)
    await limited.database.release_tasks(lease, [Handback(ann, discard=True), Handback(bob, after=math.inf)])
    work = await limited.work(lease)
    assert keys(work) == [anns[1]]
    assert work.next_due is None
    await limited.close(bobs[0])
    assert keys(await limited.work(lease, held=[anns[1]])) == [bobs[1]]


@IN_ORDER
async def test_the_first_task_of_the_dead_comes_first_again(limited: Suite):
    anns = await limited.add(3, address=ANN)
    dead, live = await limited.start(), await limited.start()
    assert keys(await limited.claim(dead)) == anns[:1]
    await limited.expire(dead)
    assert keys(await limited.work(live)) == anns[:1]


@IN_ORDER
async def test_a_locked_head_is_not_overtaken(limited: Suite):
    anns = await limited.add(2, address=ANN)
    lease = await limited.start()
    async with limited.lock(anns[0]):
        assert keys(await limited.work(lease)) == []
    assert keys(await limited.work(lease)) == [anns[0]]


@IN_ORDER
async def test_a_locked_head_keeps_nobody_from_the_other_values(limited: Suite):
    anns, (bob,) = await limited.add(2, address=ANN), await limited.add(address=BOB)
    async with limited.lock(anns[0]):
        assert keys(await limited.work(await limited.start(), 1)) == [bob]


@under(Rate(2, per=10, by="address"))
async def test_what_is_locked_is_not_counted_as_started(limited: Suite):
    anns, (bob,) = await limited.add(2, address=ANN), await limited.add(address=BOB)
    lease = await limited.start()
    async with limited.lock(anns[0]):
        work = await limited.work(lease, 2)
    assert keys(work) == [anns[1], bob]
    assert keys(await limited.work(lease, held=keys(work))) == [anns[0]]


# In turns --------------------------------------------------------------------------------------------------


@under(fair_by="address")
async def test_values_take_turns_within_a_claim(limited: Suite):
    anns = await limited.add(300, after=-60, address=ANN)
    bobs = await limited.add(3, address=BOB)
    lease = await limited.start(capacity=100)
    claimed = keys(await limited.work(lease, 10))
    assert set(claimed) == {*anns[:7], *bobs}
    assert {key in bobs for key in claimed[:2]} == {True, False}


@under(fair_by="address")
async def test_a_lone_value_gets_everything(limited: Suite):
    anns = await limited.add(50, address=ANN)
    assert keys(await limited.work(await limited.start(capacity=100), 20)) == anns[:20]


@pytest.mark.fault("B6")
@under(fair_by="address")
async def test_values_take_turns_from_claim_to_claim(limited: Suite):
    names = [f"{name}@example.org" for name in "abcd"]
    of = {key: name for name in names for key in await limited.add(40, address=name)}
    lease = await limited.start(capacity=100)
    held: list = []
    position, turns = None, []
    for _ in range(8):
        work = await limited.work(lease, 1, held=held, position=position)
        position, held = work.position, [*held, *keys(work)]
        turns.append(of[held[-1]])
    assert Counter(turns) == dict.fromkeys(names, 2)
    assert turns[:4] == turns[4:]


@under(Limit(10))
async def test_a_look_does_not_end_at_a_position_and_says_nothing_of_how_long_it_took(limited: Suite):
    added = await limited.add(6)
    lease = await limited.start(capacity=100)
    first = await limited.work(lease, 2)
    second = await limited.work(lease, 2, held=keys(first), position=first.position)
    held = [*keys(first), *keys(second)]
    piece = await limited.work(lease, 2, held=held, position=first.position, until=second.position)
    assert (keys(piece), piece.walked) == (added[4:], None)


@under(Limit(2, by="address"), fair_by="address")
async def test_turns_and_a_limit_for_each(limited: Suite):
    anns, bobs = await limited.add(100, after=-60, address=ANN), await limited.add(5, address=BOB)
    lease = await limited.start(capacity=100)
    assert sorted(keys(await limited.work(lease, 50))) == sorted([*anns[:2], *bobs[:2]])


# So many in a time -----------------------------------------------------------------------------------------


@under(Rate(3, per=10))
async def test_no_more_than_the_rate_start_in_its_time(limited: Suite):
    added = await limited.add(10)
    first, second = await limited.start(ttl=300), await limited.start(ttl=300)
    claims = await limited.claim(first, 2)
    assert keys(claims) == added[:2]
    await limited.finish(first, *claims)
    await limited.advance(4)
    work = await limited.work(second)
    assert keys(work) == [added[2]]
    assert work.limited
    assert work.next_due == pytest.approx(6, abs=1)
    await limited.advance(5)
    assert keys(await limited.work(first)) == []
    await limited.advance(2)
    assert keys(await limited.work(first)) == added[3:5]
    work = await limited.work(first, held=added[3:5])
    assert keys(work) == []
    assert work.next_due == pytest.approx(3, abs=1)


@under(Rate(3, per=10))
async def test_a_rate_that_holds_nothing_back_has_no_say(limited: Suite):
    await limited.add(2)
    await limited.add(after=5)
    work = await limited.work(await limited.start(ttl=300))
    assert len(work.tasks) == 2
    assert not work.limited
    assert work.next_due == pytest.approx(5, abs=1)


@under(Rate(3, per=10), Limit(1))
async def test_a_rate_and_a_limit(limited: Suite):
    added = await limited.add(10)
    lease = await limited.start(ttl=300)
    for key in added[:3]:
        claims = await limited.claim(lease)
        assert keys(claims) == [key]
        assert keys(await limited.work(lease, held=[key])) == []
        await limited.finish(lease, *claims)
    assert keys(await limited.work(lease)) == []


@under(Rate(2, per=10, by="address"))
async def test_each_value_has_a_rate_of_its_own(limited: Suite):
    anns = await limited.add(150, after=-60, address=ANN)
    bobs = await limited.add(3, address=BOB)
    lease = await limited.start(ttl=300, capacity=100)
    claims = await limited.claim(lease, 20)
    assert keys(claims) == [*anns[:2], *bobs[:2]]
    await limited.finish(lease, *claims)
    work = await limited.work(lease)
    assert (keys(work), work.limited) == ([], True)
    assert work.next_due == pytest.approx(10, abs=1)
    await limited.advance(11)
    assert keys(await limited.work(lease)) == [*anns[2:4], bobs[2]]
