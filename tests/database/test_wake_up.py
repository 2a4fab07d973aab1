"""`listening`, of both databases: who listens is told of new tasks, and nobody else."""

from __future__ import annotations

import asyncio
import math

from session_lock.database import Handback


async def test_a_new_task_wakes_whoever_listens(suite):
    first, second = asyncio.Event(), asyncio.Event()
    async with suite.database.listening(first.set), suite.database.listening(second.set):
        await suite.until_heard(first, second)
        await suite.add()
        await suite.wake()
        await first.wait()
        await second.wait()


async def test_a_task_that_is_opened_again_wakes(suite):
    [key] = await suite.add()
    await suite.close(key)
    woken = asyncio.Event()
    async with suite.database.listening(woken.set):
        await suite.until_heard(woken)
        await suite.reopen(key)
        await suite.wake()
        await woken.wait()


async def test_a_task_for_later_wakes_too(suite):
    woken = asyncio.Event()
    async with suite.database.listening(woken.set):
        await suite.until_heard(woken)
        await suite.add(after=60)
        await suite.wake()
        await woken.wait()


async def test_who_has_left_is_not_told(suite):
    left, stays = asyncio.Event(), asyncio.Event()
    async with suite.database.listening(stays.set):
        async with suite.database.listening(left.set):
            await suite.until_heard(left, stays)
        await suite.add()
        await suite.wake()
        await stays.wait()
    assert not left.is_set()


async def test_nothing_wakes_while_there_is_nothing_new(suite):
    woken = asyncio.Event()
    lease = await suite.start()
    await suite.add()
    async with suite.database.listening(woken.set):
        await suite.until_heard(woken)
        await suite.finish(lease, *await suite.claim(lease))
        await suite.end(lease)
        await suite.database.identity()
    assert not woken.is_set()


async def test_what_is_tried_again_wakes(suite):
    [key] = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.database.release_tasks(lease, [Handback(claim, after=math.inf) for claim in claims])
    woken = asyncio.Event()
    async with suite.database.listening(woken.set):
        await suite.until_heard(woken)
        assert await suite.database.retry(all_parked=True) == [key]
        await woken.wait()
