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
from session_lock.cli.demo.stage import demo_schema
from session_lock.cli.demo.watch import Watch


@dataclass
class Court:
    scenario: Scenario
    connection: Any
    cast: Cast
    watch: Watch

    async def execute(self, statement: str, *arguments: Any) -> None:
        """`demo.` in it is the demo's schema."""
        await self.connection.execute(statement.replace("demo.", "session_lock_demo."), *arguments)

    async def judge(self) -> Any:
        verdict = await self.scenario.judge(self.connection, self.cast, self.watch)
        assert verdict.good is verdict.to_json()["good"]
        assert ("THIS IS WRONG" in verdict.sentences()[0]) is not verdict.good
        return verdict


@asynccontextmanager
async def court(database: Any, scenario: Scenario) -> AsyncIterator[Court]:
    access = Access(database.admin_dsn)
    async with (
        demo_schema(access, scenario) as connection,
        Watch(access, scenario.table) as watch,
        Cast(Part("", "", "", 0, 1)) as cast,
    ):
        yield Court(scenario, connection, cast, watch)
