"""docs/reference/health.md has all that `health()` tells. The code of docs/how-to/probes.md runs in tests/contrib/test_probes.py."""

from __future__ import annotations

import asyncio
import re
from dataclasses import fields
from typing import get_args

import pytest

from session_lock import Health, Runner, Settings
from session_lock.contrib.probing import PATHS, TOLD
from session_lock.health import State
from session_lock.testing import MemoryDatabase, run_virtual
from tests.docs.pages import Page

REFERENCE = Page("health.md", folder="reference").text
FLAT = " ".join(REFERENCE.split())
HOW_TO = Page("probes.md").text


def test_the_fields() -> None:
    table = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", REFERENCE, flags=re.MULTILINE)
    assert sorted(table) == sorted(["live", *(each.name for each in fields(Health))])


def test_the_states_and_what_they_are_to_a_probe() -> None:
    table = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes|no) \| (yes|no) \|$", REFERENCE, flags=re.MULTILINE)
    assert [state for state, *_ in table] == list(get_args(State))
    for state, live, ready in table:
        assert (live == "yes") is Health(name="", state=state, ready=False).live
        assert (ready == "yes") is (state in {"running", "paused"})


def test_what_a_probe_is_told() -> None:
    *first, last = (f"`{name}`" for name in TOLD)
    assert f"of each Runner {', '.join(first)} and {last}." in FLAT
    for path in PATHS:
        assert f"path: {path}," in HOW_TO


def test_the_margin_of_a_lease() -> None:
    async def main() -> float:
        async with Runner(MemoryDatabase(), lambda batch: batch, config) as runner:
            while not runner.ready:
                await asyncio.sleep(0.01)
            return runner.health().lease_margin

    config = Settings(start_jitter=0)
    assert "from `lease_ttl` - `guard` - `cancel_grace`" in FLAT
    assert run_virtual(main()) == pytest.approx(
        config.lease_ttl - config.guard - config.cancel_grace, abs=0.1
    )
