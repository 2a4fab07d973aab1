from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.demo_process import Demo

COURSE = (
    "tasks finished runs reruns finished_twice killed frozen refused takeover_seconds seconds tasks_per_second "
    "per_runner"
)


@pytest.fixture
def play(demo: Callable[..., Demo], database: Any) -> Callable[..., dict[str, Any]]:
    """Run a scenario as a user does, in a database of its own; returns what --json says, which has these figures."""

    def run(scenario: str, figures: str, *words: str) -> dict[str, Any]:
        process = demo("--scenario", scenario, "--json", "--dsn", database.admin_dsn, *words)
        status, out, err = process.wait()
        assert (status, err) == (0, ""), out
        result: dict[str, Any] = json.loads(out)
        assert list(result) == ["scenario", "good", *figures.split(), *COURSE.split()]
        assert (result["scenario"], result["good"]) == (scenario, True)
        return result

    return run
