"""All at once: processes are killed and frozen, backends ended, connections cut, replies lost, the server crashed and replaced."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from session_lock.embedded import temp_postgres
from tests.chaos.recording import Injected
from tests.chaos.standby import make_synchronous, standby_of
from tests.chaos.storm.checkers import ALL, wrongs
from tests.chaos.storm.nemesis import Plan
from tests.chaos.storm.weather import storm
from tests.conftest import TestDatabase, prepare_template

# A password is checked 1,000 times in a storm: that shall not be what takes the time.
SETTINGS = {
    "scram_iterations": 1,
    "max_connections": 200,
    "log_line_prefix": "%m %e ",
    "wal_retrieve_retry_interval": "100ms",
    "wal_level": "replica",
}

BEFORE = Plan(seconds=15, kills=6, stops=14, terminations=340, restarts=3, network=140, lost_replies=40)
AFTER = Plan(seconds=7, kills=2, stops=6, terminations=160, network=60, lost_replies=16)
TASKS = 20_000


@pytest.mark.timeout(180)
@pytest.mark.fault("P1", "P3", "N1", "N2", "N3", "N4", "N6", "N13", "D1", "D2")
async def test_a_storm(tmp_path: Path, seed: int, injected: Injected) -> None:
    with ExitStack() as servers:
        server = servers.enter_context(temp_postgres(**SETTINGS))
        await prepare_template(server.dsn)
        async with storm(TestDatabase(server.dsn, "postgres"), tmp_path, seed, server=server) as it:
            await it.blow(BEFORE, TASKS * 2 // 3)
            standby = await asyncio.to_thread(servers.enter_context, standby_of(server))
            await make_synchronous(await it.beside.connection())
            await it.blow(AFTER, TASKS // 3)
            await it.fail_over(standby)
            await it.clear(within=40)
            await it.look_at_shares(100, seconds=2)
            evidence = await it.end()
            for fault, times in it.nemesis.times.items():
                injected(fault, times)
    injected("tasks", len({change.task for change in evidence.changes}))
    found = wrongs(
        evidence, ALL.keys() - {"C8"}
    )  # which is for a server that is there: see test_take_over.py
    for checker, wrong in found.items():
        injected.wrong(checker, len(wrong))
    print({"tasks": len(evidence.fed), **it.nemesis.times}, f"{len(evidence.runs)} runs")
    assert {checker: wrong[:5] for checker, wrong in found.items() if wrong} == {}
