"""What tests of pages share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def write_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes `jobs.py`, which a page's commands name, into a folder in which they are run from then on."""

    def write(text: str) -> None:
        (tmp_path / "jobs.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("jobs", None)

    yield write
    sys.modules.pop("jobs", None)
