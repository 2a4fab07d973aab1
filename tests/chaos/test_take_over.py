"""How long the tasks of a process that was killed are nobody's, with a lease of five seconds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.catalogue import MOST_TAKE_OVER, TAKE_OVER
from tests.chaos.recording import Injected
from tests.chaos.storm.checkers import ALL, take_overs
from tests.chaos.storm.ledger import read
from tests.chaos.storm.weather import storm

LEASE = 5.0
KILLED = 10


@pytest.mark.fault("P1", "B4")
async def test_the_tasks_of_the_killed_are_taken_over(
    database: Any, tmp_path: Path, seed: int, injected: Injected
) -> None:
    """One after another, and the one that is left takes over from all of them."""
    async with storm(database, tmp_path, seed, lease=LEASE, ways=["one"] * KILLED + ["batch"]) as it:
        async with asyncio.timeout(30):
            await it.beside.feed([600] * 200)
            while len({run.pid for run in read(tmp_path).runs}) <= KILLED:
                await asyncio.sleep(0.1)
        await it.beside.ask("UPDATE public.chore SET nap = 0")
        survivor = it.instances.pop()
        await it.forks.kill(survivor.pid)
        await it.start(survivor)
        for _ in range(KILLED):
            await it.nemesis.kill(again=False)
            await asyncio.sleep(0.1)
        it.instances.append(survivor)
        await it.clear(within=20)
        evidence = await it.end()
    measured = take_overs(evidence)
    assert len(measured) == KILLED
    injected("P1", KILLED)
    injected.measure(TAKE_OVER, *measured.values())
    assert ALL["C8"](evidence) == []
    assert max(measured.values()) <= MOST_TAKE_OVER
