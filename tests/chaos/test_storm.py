"""All at once: processes are killed and frozen, backends ended, connections cut, replies lost, the server crashed and replaced.

SESSION_LOCK_STORM=night makes it a thirtieth part of what a night is to have of each (`python -m tests.chaos night`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from session_lock.embedded import Server, temp_postgres
from tests.chaos.recording import Injected
from tests.chaos.standby import make_synchronous, standby_of
from tests.chaos.storm.checkers import UNHURRIED, wrongs
from tests.chaos.storm.evidence import Evidence
from tests.chaos.storm.nemesis import Plan
from tests.chaos.storm.weather import Storm, storm
from tests.conftest import TestDatabase, prepare_template

AT_NIGHT = os.environ.get("SESSION_LOCK_STORM") == "night"

if AT_NIGHT:
    BEFORE = Plan(
        seconds=20, kills=50, stops=8, starved=4, terminations=240, restarts=4, network=120, lost_replies=28
    )
    AFTER = Plan(seconds=8, kills=20, stops=4, terminations=110, network=50, lost_replies=10)
    TASKS = 34_000
    LOSING = BEFORE, TASKS
else:
    BEFORE = Plan(
        seconds=14, kills=6, stops=14, starved=2, terminations=340, restarts=3, network=140, lost_replies=40
    )
    AFTER = Plan(seconds=6, kills=2, stops=6, terminations=160, network=60, lost_replies=16)
    TASKS = 20_000
    LOSING = Plan(seconds=2, kills=1, stops=1, starved=1, terminations=10, network=10, lost_replies=4), 2_000

# A password is checked a thousand times in a storm: that shall not be what takes the time. And a standby that was without its
# primary for a while finds what it has missed.
SETTINGS = {
    "scram_iterations": 1, "log_line_prefix": "%m %e ", "wal_retrieve_retry_interval": "100ms", "wal_keep_size": "2GB",
}  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """One that may be harmed."""
    with temp_postgres(**SETTINGS) as it:
        await prepare_template(it.dsn)
        yield it


@asynccontextmanager
async def standby(server: Server) -> AsyncIterator[str]:
    """While it is made the server is away, and the loop goes on."""
    made = standby_of(server)
    dsn = await asyncio.to_thread(made.__enter__)
    try:
        yield dsn
    finally:
        made.__exit__(None, None, None)


def judge(it: Storm, evidence: Evidence, injected: Injected) -> None:
    for fault, times in it.nemesis.times.items():
        injected(fault, times)
    injected("tasks", len({change.task for change in evidence.changes}))
    found = wrongs(evidence, UNHURRIED)
    for checker, wrong in found.items():
        injected.wrong(checker, len(wrong))
    print({"tasks": len(it.fed), **it.nemesis.times}, f"{len(evidence.runs)} runs")
    assert {checker: wrong[:5] for checker, wrong in found.items() if wrong} == {}


@pytest.mark.timeout(300)
@pytest.mark.fault("P1", "P3", "P4", "N1", "N2", "N3", "N4", "N6", "N13", "D1", "D2")
async def test_a_storm(server: Server, tmp_path: Path, seed: int, injected: Injected) -> None:
    async with storm(TestDatabase(server.dsn, "postgres"), tmp_path, seed, server=server) as it:
        await it.blow(BEFORE, TASKS * 2 // 3)
        async with standby(server) as other:
            await make_synchronous(await it.beside.connection())
            await it.blow(AFTER, TASKS // 3)
            await it.fail_over(other)
            await it.clear(within=60)
            # In what storms leave behind looks from the start take long, so that sessions share from a position on (ADR 0015).
            await it.look_at_shares(100, seconds=2)
            await it.clear(within=60)
            evidence = await it.end()
    judge(it, evidence, injected)


@pytest.mark.timeout(300)
@pytest.mark.fault("P1", "P3", "P4", "N1", "N2", "N3", "N4", "N6", "N13", "D1", "D3")
async def test_a_fail_over_that_loses_commits(
    server: Server, tmp_path: Path, seed: int, injected: Injected
) -> None:
    """All is as promised in the history that is left: so are tokens, and the effects of transactions."""
    plan, tasks = LOSING
    async with (
        standby(server) as other,
        storm(TestDatabase(server.dsn, "postgres"), tmp_path, seed, server=server) as it,
    ):
        await it.blow(plan, tasks * 4 // 5)
        losing = asyncio.create_task(it.fail_over(other, losing=1.0))
        await it.blow(Plan(seconds=1), tasks // 5)
        await losing
        assert it.lost > 0, "no commit was lost"
        await it.clear(within=60)
        evidence = await it.end()
    judge(it, evidence, injected)
