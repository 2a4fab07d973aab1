"""docs/how-to/coming-from.md: its code runs, and what it names is there."""

from __future__ import annotations

import asyncio
import re
from smtplib import SMTPException
from typing import Any

import session_lock
from session_lock.testing import MemoryDatabase, run_virtual
from tests.docs.examples import ROOT
from tests.docs.pages import Page


def test_the_tasks_that_are_moved() -> None:
    page = Page("coming-from.md")
    page.run(holding="SMTPException")
    assert page.done
    tried: list[str] = []

    def deliver(address: str) -> None:
        tried.append(address)
        if address == "ben" and tried.count("ben") < 3:
            raise SMTPException("try later")
        if address == "cid":
            raise KeyError(address)

    async def play() -> MemoryDatabase[Any]:
        database = MemoryDatabase(
            {number: {"address": who} for number, who in enumerate(["ann", "ben", "cid"])}
        )
        async with page["make_runner"](database, deliver):
            while len(database.finished) < 2:
                await asyncio.sleep(0.1)
        return database

    database = run_virtual(play())
    assert sorted(database.finished) == [0, 1]
    assert sorted(tried) == ["ann", "ben", "ben", "ben", "cid"]


def test_what_it_names_is_there() -> None:
    text = (ROOT / "docs" / "how-to" / "coming-from.md").read_text()
    named = set(re.findall(r"`(?:\w+=)?([A-Z]\w+)\b", text)) - {"INSERT", "RetryStrategy"}
    assert named <= {*session_lock.__all__, "MemoryDatabase", "Limit"}, named
