from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.demo_process import Demo


@pytest.fixture
def demo() -> Iterator[Callable[..., Demo]]:
    """Starts demos, and ends those that still run."""
    with ExitStack() as stack:

        def start(*words: str | Path) -> Demo:
            demo = Demo(*words)
            stack.callback(demo.end)
            return demo

        yield start
