"""A database that moves, or fails over, while all slots are busy, or while the old one is down."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from session_lock import DatabaseError, Runner, RunnerGroup, SchemaError
from tests.unit.faults import Faulty
from tests.unit.scenes import CANARY, Sleeper, assert_free, do_all, running, settings, table
from tests.unit.test_fetch import Finder
from tests.unit.virtual import now, until, virtual


def busy(**changes: Any) -> Any:
    """One slot, and room for two tasks that wait for it."""
    return settings(batch_size=1, concurrency=1, tasks_per_session=3, drain_timeout=50, **changes)


@virtual
async def test_a_move_is_noticed_while_all_slots_are_busy_for_long() -> None:
    here, there = table(5), table(1)
    finder, tasker = Finder(here), Sleeper(30)
    async with running(Runner(finder, tasker, busy(poll_interval=900))):
        await until(
            lambda: tasker.begun and sum(row.session_id is not None for row in here._tasks.values()) == 3
        )
        moved = now()
        finder.database = there
        await until(lambda: sum(row.session_id is not None for row in here._tasks.values()) == 1)
        assert now() - moved < 6  # what is not begun is given back at once, within a keepalive and a call
        tasker.seconds = 0
        await until(lambda: there.finished)
        assert here.finished == [1]  # what ran there ended there
        assert 30 <= now() < 31
        assert_free(here)
        assert [row.attempts for row in here._tasks.values()] == [1, 0, 0, 0, 0]
        assert [keys for _, keys in tasker.begun] == [[1], [1]]
    assert_free(there)


@pytest.mark.parametrize("how", ["hangs", "refuses"])
@virtual
async def test_when_the_old_one_is_down_the_move_does_not_wait_for_it(how: str) -> None:
    here, there = table(1), table(1)
    finder = Finder(here)
    async with running(Runner(finder, do_all, settings(poll_interval=5))):
        await until(lambda: here.finished)
        await asyncio.sleep(7)
        if how == "hangs":
            here.hang("*")
        else:
            here.fail("*")
        finder.database = there
        moved = now()
        await until(lambda: there.finished)
    assert now() - moved < 10
    assert_free(there)


@pytest.mark.parametrize("how", ["hangs", "refuses"])
@virtual
async def test_a_fail_over_is_followed_as_soon_as_the_old_one_does_not_answer(how: str) -> None:
    """The same database at another address: the session goes on, and what is done meanwhile is recorded there."""
    old = table(4)
    new = Faulty(old.inner)
    finder, tasker = Finder(old), Sleeper(2)
    async with running(Runner(finder, tasker, busy())):
        await until(lambda: tasker.begun)
        if how == "hangs":
            old.hang("*")
        else:
            old.fail("*")
        finder.database = new
        await until(lambda: len(new.finished) == 4, within=15)
    assert len(new.sessions) == 1
    assert sorted(keys[0] for _, keys in tasker.begun) == [1, 2, 3, 4]
    assert_free(new)


@virtual
async def test_it_is_looked_for_at_once_and_no_more_often_than_it_does_not_answer() -> None:
    old = table(1)
    new = Faulty(old.inner)
    finder = Finder(old)
    rarely = settings(keepalive_interval=60, lease_ttl=300, poll_interval=900)
    async with running(Runner(finder, Sleeper(2), rarely)):
        await until(lambda: old.count("get_work") == 2)
        old.fail("finish_tasks")
        finder.database = new
        took = await until(lambda: new.finished, within=300)
        assert took == pytest.approx(2.5, abs=0.6)
        asked = finder.asked
        await asyncio.sleep(50)
        assert finder.asked <= asked + 1


@virtual
async def test_a_fail_over_is_followed_while_the_runner_stops() -> None:
    old = table(1)
    new = Faulty(old.inner)
    finder, tasker = Finder(old), Sleeper(10)
    async with running(Runner(finder, tasker, settings())) as run:
        await until(lambda: tasker.begun)
        old.hang("*")
        run.cancel()
        await asyncio.sleep(1)
        finder.database = new
        with pytest.raises(asyncio.CancelledError):
            await run
    assert new.finished == [1]
    assert_free(new)


@pytest.mark.parametrize(
    "answer", [OSError("dns"), DatabaseError("x", retryable=False), None, 3, "hang"], ids=repr
)
@virtual
async def test_a_finder_that_fails_leaves_a_busy_session_where_it_is_and_says_so(
    answer: Any, caplog: Any
) -> None:
    caplog.set_level(logging.WARNING)
    database, other = table(5), table(1)
    finder, tasker = Finder(database), Sleeper(100)
    group = RunnerGroup(Runner(finder, tasker, busy()), Runner(other, do_all, settings()))
    async with group:
        await until(lambda: tasker.begun)
        finder.database = answer
        caplog.clear()
        asked = finder.asked
        await asyncio.sleep(90)
        assert 9 < finder.asked - asked < 20  # beside the keepalives, and no more often
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert 3 <= len(told) <= 5  # at the 1st, 2nd, 4th, 8th, 16th
        assert all("stays where it is: the database finder" in text for text in told)
        await until(lambda: database.finished)
        other.add(2, CANARY)
        await until(lambda: other.finished == [1, 2])
        finder.database = database
    assert group.failed is None
    assert len(database.sessions) == 1


@virtual
async def test_a_busy_session_whose_other_database_cannot_serve_ends_as_one_that_looks_does() -> None:
    here, there = table(5), table(0)
    there.fail("identity", SchemaError("install it"))
    finder, tasker = Finder(here), Sleeper(20)
    with pytest.raises(SchemaError, match="install it"):
        async with running(Runner(finder, tasker, busy())) as run:
            await until(lambda: tasker.begun)
            finder.database = there
            await run
    assert here.finished == [1]
    assert_free(here)


@virtual
async def test_a_busy_session_whose_other_database_is_away_stays_and_moves_later() -> None:
    here, there = table(1), table(1)
    away = there.fail("identity")
    finder, tasker = Finder(here), Sleeper(60)
    async with running(Runner(finder, tasker, busy())):
        await until(lambda: tasker.begun)
        finder.database = there
        await asyncio.sleep(30)
        assert there.finished == []
        away.heal()
        tasker.seconds = 0
        await until(lambda: there.finished)
        assert here.finished == [1]
    assert_free(here)
