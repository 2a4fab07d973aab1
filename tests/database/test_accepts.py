"""`accepts`: a task that needs a version of the application is given to sessions of that one, or a later one, and to no other."""

from __future__ import annotations

import pytest

from session_lock import Limit, Rate, Runner, Settings
from session_lock.database import Cancellation, Outcome
from session_lock.errors import SettingsError
from session_lock.testing import MemoryDatabase, run_virtual
from session_lock.versions import may_take, version_numbers
from tests.database.conftest import NEEDS, keys, under

accepting = under(accepts=NEEDS)


async def add_all(suite, *addresses):
    """One task each, due in this order."""
    return [(await suite.add(address=address))[0] for address in addresses]


@accepting
async def test_a_session_is_given_what_its_version_may_have(limited):
    any_, two, ten, soon, none = await add_all(
        limited, "ann", "needs 2.4", "needs v2.10-rc1", "needs soon", "bob"
    )
    for version, expected in (
        ("2.3.9", [any_, none]),
        ("2.4.0", [two]),
        ("2.9", []),
        ("2.11", [ten]),
        ("99", []),
    ):
        lease = await limited.start(version=version)
        assert keys(await limited.work(lease)) == expected, version
    assert (await limited.row(soon)).session_id is None


@accepting
@pytest.mark.parametrize("version", ["", "7f3a9c1", "latest"])
async def test_a_session_without_a_version_is_refused_where_one_is_compared(limited, version):
    with pytest.raises(
        SettingsError, match=rf"app_version='{version}' cannot be read, and accepts of 'email' compares it"
    ):
        await limited.start(version=version)


def test_a_runner_without_a_version_ends_with_one_clear_sentence():
    database = MemoryDatabase({1: "ann"}, accepts=lambda key, data: None)

    async def send(batch):
        raise AssertionError

    with pytest.raises(SettingsError, match='such as app_version="2.4"'):
        run_virtual(Runner(database, send, Settings(start_jitter=0)).run())


@accepting
async def test_what_it_may_not_have_keeps_it_from_nothing_behind(limited):
    await limited.add(30, address="needs 2")
    behind = await limited.add(3)
    old = await limited.start()
    first = await limited.work(old, 1)
    assert keys(first) == behind[:1]
    rest = await limited.work(old, held=behind[:1], position=first.position)
    assert keys(rest) == behind[1:]


@accepting
async def test_each_task_is_divided_among_those_that_may_have_it(limited):
    old, new = await limited.start(), await limited.start(version="2")
    await limited.add(40, address="needs 3")
    await add_all(limited, *["needs 2"] * 4, *["ann"] * 4)
    assert (await limited.work(old, over_share=False)).share == 2
    work = await limited.work(new, over_share=False)
    assert work.share == 6
    assert len(work.tasks) == 6


@accepting
async def test_one_task_waits_for_nobody_s_share(limited):
    """An idle session of the old version, whose id is the lower, does not stand in its way."""
    old, new = await limited.start(), await limited.start(version="2")
    [key] = await limited.add(address="needs 2")
    work = await limited.work(old, over_share=False)
    assert (keys(work), work.share) == ([], None)
    assert keys(await limited.work(new, over_share=False)) == [key]


@accepting
async def test_it_is_told_when_the_next_one_is_due_that_it_may_have(limited):
    old, new = await limited.start(), await limited.start(version="2")
    await limited.add(address="needs 2", after=10)
    assert (await limited.work(old)).next_due is None
    await limited.add(after=20)
    assert (await limited.work(old)).next_due == pytest.approx(20, abs=2)
    assert (await limited.work(new)).next_due == pytest.approx(10, abs=2)


@accepting
async def test_the_tasks_of_a_dead_session_wait_for_one_of_its_version(limited):
    old, dead = await limited.start(), await limited.start(version="2")
    [key] = await limited.add(address="needs 2")
    assert keys(await limited.work(dead)) == [key]
    await limited.expire(dead)
    for _ in range(3):  # each ends who is dead, and sweeps who is named by no task
        assert keys(await limited.work(old)) == []
    new = await limited.start(version="2.1")
    [claim] = await limited.claim(new)
    assert await limited.finish(new, claim) is Outcome.FINISHED


@accepting
async def test_what_a_dead_session_was_asked_to_cancel_waits_too_and_is_not_run(limited):
    old, dead = await limited.start(), await limited.start(version="2")
    [key] = await limited.add(address="needs 2")
    await limited.work(dead)
    assert await limited.database.cancel(key) is Cancellation.ASKED
    await limited.expire(dead)
    assert keys(await limited.work(old)) == []
    [task] = (await limited.work(await limited.start(version="2"))).tasks
    assert task.cancelled


@accepting
async def test_anybody_may_cancel_or_retry_it(limited):
    [key] = await limited.add(address="needs 2")
    assert await limited.database.cancel(key) is Cancellation.DISCARDED


# With limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limited",
    [
        {"limits": (Limit(2),), "accepts": NEEDS},
        {"limits": (Limit(1, by="address"),), "accepts": NEEDS},
        {"limits": (Rate(5, per=60, by="address"),), "accepts": NEEDS},
        {"fair_by": "address", "accepts": NEEDS},
    ],
    indirect=True,
    ids=["limit", "limit by value", "rate by value", "fair"],
)
async def test_limits_are_over_what_a_session_may_have(limited):
    newer = await add_all(limited, *[f"needs 2.{number}" for number in range(30)])
    [any_] = await limited.add()
    old, new = await limited.start(capacity=50), await limited.start(version="2", capacity=50)
    work = await limited.work(old, over_share=False)
    assert (keys(work), work.share, work.limited) == ([any_], 1, False)
    work = await limited.work(old, held=[any_], over_share=False)
    assert (keys(work), work.limited) == ([], False)
    assert keys(await limited.work(new)) == newer[:1]


@under(Limit(1, by="address"), accepts=NEEDS)
async def test_the_share_and_the_next_due_time_under_a_limit_are_of_what_it_may_have(limited):
    old, _ = await limited.start(), await limited.start(version="2")
    await limited.add(40)
    await add_all(limited, *[f"needs 2.{number}" for number in range(30)])
    await limited.add(address="needs 2", after=10)
    await limited.add(address="bob", after=20)
    work = await limited.work(old, 5, over_share=False)
    assert (work.share, len(work.tasks)) == (1, 1)
    work = await limited.work(old, 5, held=keys(work))
    assert (work.limited, work.tasks) == (True, [])
    assert work.next_due == pytest.approx(20, abs=2)


@under(Limit(1, by="address", ordered=True), order_by=("id",), accepts="CASE WHEN id % 2 = 1 THEN '2' END")
async def test_order_is_kept_where_the_first_one_is_not_for_all(limited, implementation):
    if implementation == "memory":
        limited.database._accepts._accepts = lambda key, data: "2" if key % 2 else None
    first, second = await limited.add(2)
    old, new = await limited.start(), await limited.start(version="2")
    assert keys(await limited.work(old)) == []
    [claim] = await limited.claim(new)
    assert claim.key == first
    await limited.finish(new, claim)
    assert keys(await limited.work(old)) == [second]


# Versions ----------------------------------------------------------------------------------------------

READ = {
    "2": (2,), "2.0": (2,), "2.0.0": (2,), "2.4": (2, 4), "v2.4": (2, 4), "V2.4": (2, 4), " 2.4 ": (2, 4), "2.10": (2, 10),
    "2.4-rc1": (2, 4), "2.4+build.7": (2, 4), "2.4rc1": (2, 4), "2.4.dev3": (2, 4), "2.": (2,), "2-rc1": (2,), "0": (0,), "0.0": (0,),
    "0.1": (0, 1), "10.20": (10, 20), "2.04": (2, 4), "20261124": (20261124,), "1" * 200: (int("1" * 100),), "2.4\n": (2, 4),
    "": None, "v": None, "latest": None, "7f3a9c1": None, "12345abc": None, "-1": None, ".5": None, "release-2": None, "٢": None,
}  # fmt: skip


def test_how_a_version_is_read():
    assert {version: version_numbers(version) for version in READ} == READ


async def test_sql_reads_it_likewise(suite, implementation):
    if implementation == "memory":
        return
    rows = await suite.harness._admin.fetch(
        "SELECT own, session_lock.version_numbers(own) AS numbers, needed, session_lock.may_take(session_lock.version_numbers(own), needed) AS may"
        " FROM unnest($1::text[]) AS own, unnest($1::text[] || NULL) AS needed",
        list(READ),
    )
    for row in rows:
        assert (row["numbers"] and tuple(row["numbers"])) == READ[row["own"]], row
        assert row["may"] is may_take(row["own"], row["needed"]), row


@accepting
async def test_nobody_is_asked_for_what_the_asker_may_not_have(limited):
    await limited.add(1)
    await limited.add(10, address="needs 2")
    old, _ = await limited.start(version="1"), await limited.start(version="1")
    new = await limited.start(version="2")
    assert len(keys(await limited.work(new, 8))) == 8
    await limited.work(old, 10, over_share=False, at_once=10)
    assert (await limited.bump(new)).give_back == 1
