"""What waits, as both databases tell it to one session of all."""

from __future__ import annotations

import pytest

from session_lock.facts import Backlog

from .conftest import Suite


async def test_due_tasks_that_nobody_holds_are_counted_with_the_age_of_the_oldest(suite: Suite):
    await suite.add(2)
    lease = await suite.start()
    await suite.claim(lease)
    assert await suite.database.backlog(lease) == Backlog(0, 0)
    closed, *_ = await suite.add(3, after=0)
    await suite.add(4, after=1000)
    await suite.close(closed)
    await suite.advance(20)
    await suite.add(1, after=0)
    told = await suite.database.backlog(lease)
    assert (told.tasks, told.oldest) == (3, pytest.approx(20, abs=5))


async def test_what_the_dead_held_waits_too(suite: Suite):
    await suite.add(3)
    dead, live = await suite.start(), await suite.start()
    await suite.claim(dead, 2)
    assert (await suite.database.backlog(dead)).tasks == 1
    await suite.expire(dead)
    assert (await suite.database.backlog(live)).tasks == 3


async def test_one_session_is_told(suite: Suite):
    await suite.add(1)
    first, second = await suite.start(), await suite.start()
    assert await suite.database.backlog(first) is not None
    assert await suite.database.backlog(second) is None
    await suite.end(first)
    assert await suite.database.backlog(first) is None
    assert await suite.database.backlog(second) is not None


async def test_it_is_counted_no_further_than_to_its_bound(suite: Suite):
    await suite.add(10_003)
    assert (await suite.database.backlog(await suite.start())).tasks == 10_000
