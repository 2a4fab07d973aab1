"""`shares`: what it tells of each session, and why it got no more."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest

import session_lock
from session_lock import Limit, PostgresDatabase, SettingsError
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

from .conftest import NEEDS, Suite, under


async def told(suite: Suite) -> list[tuple[str, int, int, int, str]]:
    found = await session_lock.shares(suite.database)
    return [
        (each.state, each.target, each.held, each.unstarted, each.why.partition(":")[0]) for each in found
    ]


async def test_one_story(suite: Suite):
    assert await told(suite) == []
    first = await suite.start(capacity=4)
    await suite.start(capacity=4)
    assert await told(suite) == [("live", 0, 0, 0, "no task is due that it could do")] * 2
    await suite.add(3)
    await suite.add(after=60)
    assert {each[4] for each in await told(suite)} == {"tasks are free and it runs none"}
    await suite.work(first, 2, over_share=False)
    await suite.database.bump_session(first, ttl=30, draining=False, running=1)
    assert await told(suite) == [
        ("live", 2, 2, 1, "it has its share of the 3 tasks that are due"),
        ("live", 1, 0, 0, "tasks are free and it runs none"),
    ]
    held = [row.claim.key for row in (await suite.work(first)).tasks]
    assert len(held) == 3  # it did not say what it holds
    assert await told(suite) == [
        ("live", 2, 3, 2, "all that is due is held"),
        ("live", 1, 0, 0, "all that is due is held"),
    ]
    assert "asked for what they have not begun" in (await session_lock.shares(suite.database))[1].why
    await suite.add(20)
    await suite.work(first, held=held)
    assert (await told(suite))[0] == ("live", 4, 4, 3, "it holds all that its capacity allows")
    await suite.pause()
    assert {each[4] for each in await told(suite)} == {"the mapping is paused"}
    await suite.resume()
    await suite.bump(first, draining=True)
    assert (await told(suite))[0] == ("draining", 0, 4, 4, "it is draining")
    await suite.expire(first)
    assert (await told(suite))[0] == ("expired", 0, 4, 4, "its lease has run out")
    await suite.database.cancel(held[0])  # which ends it
    assert (await told(suite))[0] == ("ended", 0, 3, 3, "it has ended")


async def test_with_room_it_looks_and_busy_it_does_not(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start(capacity=15)
    await suite.work(lease, 3)  # for three slots, and gets one: there is room
    (other,) = await suite.add()
    assert (await told(suite))[0] == ("live", 2, 1, 1, "tasks are free and it has room")
    await suite.work(lease, 1, held=[key])
    await suite.add()
    await suite.database.bump_session(lease, ttl=30, draining=False, running=2)
    (share,) = await session_lock.shares(suite.database)
    assert (share.idle, share.running, share.unstarted) == (False, 2, 0)
    assert share.why == "tasks are free, and it is busy with 2: it looks again when a call ends"
    await suite.remove(key)
    await suite.remove(other)
    (share,) = await session_lock.shares(suite.database)
    assert (share.held, share.running, share.unstarted) == (0, 2, 0)
    assert share.why.startswith("it is busy with 2, more than it holds: the rows of others are gone")


@under(accepts=NEEDS)
async def test_what_is_not_for_it(limited: Suite):
    await limited.start(version="1")
    await limited.start(version="2")
    await limited.add(address="needs 2", count=2)
    assert [(target, why) for _, target, _, _, why in await told(limited)] == [
        (0, "what is free is not for it, by the mapping's accepts"),
        (2, "tasks are free and it runs none"),
    ]


@under(accepts=NEEDS)
async def test_each_version_has_its_shares(limited: Suite):
    """5 tasks for all of 28, by capacity, and 3 for 20 of these."""
    for version, capacity in (("2", 8), ("1", 4), ("3", 4), ("2", 8), ("1", 4)):
        await limited.start(version=version, capacity=capacity)
    await limited.bump(await limited.start(version="3"), draining=True)
    await limited.add(5)
    await limited.add(3, address="needs 2")
    assert [target for _, target, _, _, _ in await told(limited)] == [2, 1, 2, 2, 1, 0]


@under(Limit(1))
async def test_what_limits_hold_back(limited: Suite):
    await limited.add(3)
    first, _ = await limited.start(), await limited.start()
    await limited.work(first)
    assert [(target, held, why) for _, target, held, _, why in await told(limited)] == [
        (1, 1, "limits of the mapping hold the other tasks back"),
        (0, 0, "limits of the mapping hold the other tasks back"),
    ]


async def test_what_it_is_asked_of():
    with pytest.raises(SettingsError, match="shares takes a PostgresDatabase, or a connection of asyncpg"):
        await session_lock.shares("postgresql://")


async def test_a_session_of_another_version_of_the_mapping_takes_what_is_pending_by_that_one(database):
    later = replace(EMAILS, pending="sent_at IS NULL AND address <> ''")
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE)
        for mapping in (EMAILS, later):
            await apply_mapping(admin, mapping, grant_to="app")
        await add_emails(admin, 3)
        async with (
            PostgresDatabase(database.app_dsn, EMAILS) as before,
            PostgresDatabase(database.app_dsn, later) as after,
        ):
            for each in (before, after):
                await each.start_session(capacity=2, ttl=30)
            assert [share.why.partition(":")[0] for share in await session_lock.shares(before)] == [
                "tasks are free and it runs none",
                "it runs another version of the mapping, and takes what is pending by that one",
            ]
            assert "another version" in (await session_lock.shares(after))[0].why
    finally:
        await admin.close()
