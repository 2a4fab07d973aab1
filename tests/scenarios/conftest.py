from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from session_lock.embedded import find_bin_dir
from session_lock.errors import SessionLockError
from tests.cli.conftest import demo  # noqa: F401 (a fixture)
from tests.cli.demo_process import Demo

COURSE = (
    "tasks finished runs reruns finished_twice killed frozen refused takeover_seconds seconds tasks_per_second "
    "per_runner"
)


@pytest.fixture
def play(demo: Callable[..., Demo]) -> Callable[..., dict[str, Any]]:  # noqa: F811
    """Run a scenario as a user does, on a server of its own, where the runners have few rights; returns what --json says, which
    has these figures.
    """

    try:
        find_bin_dir()
    except SessionLockError as missing:
        if not os.environ.get("CI"):
            pytest.skip(str(missing))

    def run(scenario: str, figures: str, *words: str) -> dict[str, Any]:
        process = demo("--scenario", scenario, "--json", *words)
        status, out, err = process.wait()
        assert (status, err) == (0, ""), out
        result: dict[str, Any] = json.loads(out)
        assert list(result) == ["scenario", "good", *figures.split(), *COURSE.split()]
        assert (result["scenario"], result["good"]) == (scenario, True)
        return result

    return run
