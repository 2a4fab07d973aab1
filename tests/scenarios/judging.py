"""The tables of a scenario on which nobody has worked, to be filled by hand, and its judge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from session_lock.cli.demo.access import Access
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.part import Part
from session_lock.cli.demo.scenario import Scenario
from session_lock.cli.demo.stage import Stage, set_stage


@dataclass
class Court:
    scenario: Scenario
    stage: Stage
    cast: Cast

    async def execute(self, statement: str, *arguments: Any, at: int = 0) -> None:
        """`demo.` in it is the demo's schema, in the first database unless said."""
        pool = self.stage.places[at].pool
        await pool.execute(statement.replace("demo.", "session_lock_demo."), *arguments)

    async def judge(self) -> Any:
        verdict = await self.scenario.judge(self.stage, self.cast)
        assert verdict.good is verdict.to_json()["good"]
        assert ("THIS IS WRONG" in verdict.sentences()[0]) is not verdict.good
        return verdict


@asynccontextmanager
async def court(scenario: Scenario, *databases: Any) -> AsyncIterator[Court]:
    accesses = [Access(database.admin_dsn) for database in databases]
    async with set_stage(scenario, *accesses) as stage, Cast(Part("", "", {}, 0, 1)) as cast:
        yield Court(scenario, stage, cast)
