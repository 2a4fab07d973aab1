"""Instances that come and go, that hold too much, that die, or that were not there for long."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from session_lock import PostgresDatabase
from tests.chaos.recording import Injected
from tests.chaos.scene import AT_NIGHT, QUICK, WITHIN, Scene
from tests.proxy import proxy
from tests.support import EMAILS

GREEDY = {"prefetch": 100, "prefetch_time": math.inf, "concurrency": 2}
"""It claims all that there is, whether it can begin it or not."""


def counted(scene: Scene, who: Counter[Any], name: Any) -> Callable[[Any], Awaitable[None]]:
    """A tasker that notes who has done its tasks."""

    async def send(task: Any) -> None:
        await scene.send(task)
        who[name] += 1

    return send


@pytest.mark.fault("B1")
async def test_instances_that_come_and_go_move_only_what_was_not_begun(
    scene: Scene, seed: int, injected: Injected
) -> None:
    dice, who = random.Random(seed), Counter[Any]()
    changes = 120 if AT_NIGHT else 8
    scene.seconds = 0.1
    await scene.add(changes * 15)
    async with scene.running(tasker=counted(scene, who, "stays"), **GREEDY):
        for number in range(changes):
            async with scene.running(tasker=counted(scene, who, number), **GREEDY):
                await asyncio.sleep(dice.uniform(0.3, 0.6))
            injected("B1", 2)
        scene.seconds = 0
        await scene.until_finished()
    assert {*scene.runs.values()} == {1}
    assert len(who) > changes / 2, "who came had its part"


@pytest.mark.fault("B2", "B3")
async def test_who_has_all_tasks_or_hoards_them_gives_back_what_others_can_begin(scene: Scene) -> None:
    """The first one has claimed everything, and takes for ever with what it has begun."""
    keys, who = await scene.add(60), Counter[Any]()
    go_on = asyncio.Event()

    async def slow(_: Any) -> None:
        who["slow"] += 1
        await go_on.wait()

    async with scene.running(tasker=slow, **GREEDY):
        await scene.until("count(*) = 60 FROM email WHERE session_id IS NOT NULL")
        scene.seconds = 0.05
        async with AsyncExitStack() as others:
            for number in range(3):
                await others.enter_async_context(scene.running(tasker=counted(scene, who, number), **GREEDY))
            await scene.until("count(*) = 2 FROM email WHERE sent_at IS NULL")
        go_on.set()
        await scene.until_finished()
    assert who.pop("slow") == 2
    assert sum(who.values()) == len(keys) - 2
    assert min(who.values()) >= (len(keys) - 2) / 3 / 3, who


@pytest.mark.fault("B4")
async def test_whoever_is_left_ends_the_sessions_of_the_others(
    scene: Scene, seed: int, injected: Injected
) -> None:
    """Any of four is cut off, and as many as three; among them the one that was first, and that ended the dead before."""
    dice = random.Random(seed)
    scene.seconds = 0.2
    async with AsyncExitStack() as stack:
        networks = [await stack.enter_async_context(proxy(scene.dsn)) for _ in range(4)]
        for network in networks:
            await stack.enter_async_context(scene.running(network.dsn, tasker=scene.write))
        for dead in (
            networks[:1],
            dice.sample(networks, 3),
            *(dice.sample(networks, 2) for _ in range(20 if AT_NIGHT else 0)),
        ):
            await scene.until("count(*) = 4 FROM session_lock.session WHERE ended_at IS NULL")
            await scene.add(40)
            await scene.until("count(DISTINCT session_id) = 4 FROM email WHERE sent_at IS NULL")
            for network in dead:
                network.partition()
                network.cut()
            await scene.until_written()
            for network in dead:
                network.heal()
            injected("B4", len(dead))


@pytest.mark.fault("B5")
async def test_who_comes_after_a_day_without_anybody_begins_at_once(scene: Scene) -> None:
    await scene.add(40)
    async with PostgresDatabase(scene.dsn, EMAILS, listen=False) as emails:
        for _ in range(4):
            await emails.get_work(await emails.start_session(capacity=5, ttl=30), limit=5)
    await scene.set_clock("clock_timestamp() + interval '1 day'")
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with scene.running():
        async with asyncio.timeout(WITHIN):
            while not scene.runs:
                await asyncio.sleep(0.005)
        assert loop.time() - begin < QUICK.lease_ttl
        await scene.until_finished()
        assert await scene.sessions() == (5, 1)
    assert {*scene.runs.values()} == {1}
