"""The server's clock steps forward and back, and runs faster than the instances': leases by it, taskers by ours."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

from session_lock import PostgresDatabase, SessionLost
from tests.chaos.recording import Injected
from tests.chaos.scene import AT_NIGHT, WITHIN, Scene
from tests.proxy import proxy
from tests.support import EMAILS


@pytest.mark.fault("D6", "D7")
async def test_a_clock_that_jumps_an_hour_to_and_fro(scene: Scene, seed: int, injected: Injected) -> None:
    """Tasks may run twice; what is written in finishing transactions is there once."""
    dice = random.Random(seed)
    scene.seconds = 0.1
    jumps = 100 if AT_NIGHT else 6
    lost = "count(*) FROM session_lock.session WHERE ended_at IS NOT NULL"
    async with scene.running(tasker=scene.write), scene.running(tasker=scene.write):
        for number in range(jumps):
            await scene.add(40)
            await asyncio.sleep(dice.uniform(0.1, 0.5))
            await scene.set_clock(
                f"clock_timestamp() + interval '{'1 hour' if number % 2 == 0 else '0 seconds'}'"
            )
            injected("D7" if number % 2 else "D6")
            if number == 0:
                await scene.until(f"(SELECT {lost}) > 0")
        # What was to be tried again an hour from now, by the clock that was.
        await scene.admin.execute("UPDATE email SET available_at = '-infinity' WHERE sent_at IS NULL")
        await scene.until_written()
    assert (await scene.sessions())[0] > 2, "leases were over at once"


@pytest.mark.fault("D7")
async def test_after_a_step_back_the_dead_are_taken_over_late_and_the_living_go_on(scene: Scene) -> None:
    keys = await scene.add(3)
    async with PostgresDatabase(scene.dsn, EMAILS, listen=False) as emails:
        await scene.set_clock("clock_timestamp()")
        dead = await emails.start_session(capacity=2, ttl=0.3)
        held = [task.claim.key for task in (await emails.get_work(dead, limit=2)).tasks]
        await scene.set_clock("clock_timestamp() - interval '1 hour'")
        await scene.admin.execute("UPDATE email SET available_at = '-infinity'")  # else it is due in an hour
        async with scene.running():
            await scene.until("count(*) = 1 FROM email WHERE sent_at IS NOT NULL")
            await asyncio.sleep(1)
            assert scene.runs.keys() == {*keys} - {*held}
            await scene.set_clock("clock_timestamp()")
            await scene.until_finished()
        with pytest.raises(SessionLost):
            await emails.bump_session(dead, ttl=60, draining=False)


@pytest.mark.fault("D8")
async def test_a_clock_that_is_faster_by_a_twentieth_ends_no_lease_before_its_holder_knows(
    scene: Scene,
) -> None:
    """An instance that is cut off holds its task no more by its own clock while it does by the server's."""
    begin = await scene.ask("clock_timestamp()::text")
    await scene.set_clock(f"timestamptz '{begin}' + 1.05 * (clock_timestamp() - timestamptz '{begin}')")
    begun, told = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def stubborn(task: Any) -> None:
        begun.set()
        while task.lease_left():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.005)
        told.set_result(await scene.ask("expires_at - session_lock.clock() > '0' FROM session_lock.session"))

    await scene.add(1)
    async with proxy(scene.dsn) as network, scene.running(network.dsn, stubborn, lease_ttl=6, guard=1.2):
        await begun.wait()
        await asyncio.sleep(1)
        network.partition()
        async with asyncio.timeout(WITHIN):
            assert await told
        network.cut()
