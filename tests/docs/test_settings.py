"""docs/how-to/settings.md: its code runs, its numbers are the library's own, and what it says of the defaults is what was measured."""

from __future__ import annotations

import re
from dataclasses import fields

from session_lock import Settings
from tests.benchmarks.defaults import BESIDE_THE_BEST, CONCURRENCY, KINDS, OTHERS
from tests.docs.pages import Page

TEXT = Page("settings.md").text

WORST = 0.8
"""Of the best that was measured."""


def test_the_code() -> None:
    page = Page("settings.md")
    page.run(holding="waits = Settings(")
    page.run(holding="soon = Settings(")
    assert page.done
    assert page["waits"].concurrency * 10 == 2000
    assert page["soon"].lease_ttl == 5


def test_the_numbers_are_those_of_the_library() -> None:
    settings = Settings()
    assert f"`concurrency` calls of the tasker at once, {settings.concurrency} unless told" in TEXT
    assert f"`batch_size` tasks in a call at most, {settings.batch_size} unless told" in TEXT
    assert f"with {CONCURRENCY} calls at once" in TEXT
    assert settings.prefetch_time == 1
    assert "`concurrency x batch_size` tasks and one more batch" in TEXT
    assert settings.capacity(settings.batch_size) == (settings.concurrency + 1) * settings.batch_size
    assert "under `each` five times `concurrency`" in TEXT
    assert settings.capacity(1) == 5 * settings.concurrency
    named = set(re.findall(r"`(?:Settings\()?(\w+)(?:=[^`]*)?`", TEXT)) - {"Settings", "each"}
    assert named <= {each.name for each in fields(Settings)}


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_defaults_are_within_a_fifth_of_the_best_that_was_measured() -> None:
    table = TEXT.partition("## Measured\n")[2]
    head, _, *rows = [cells(line) for line in table.splitlines() if line.startswith("|")]
    assert head == ["", *(kind.name for kind in KINDS)]
    assert [row[0] for row in rows] == [*OTHERS, BESIDE_THE_BEST]
    medians = []
    for _, *row in rows[:-1]:
        assert all(re.fullmatch(r"\d\.\d\d \(\d\.\d\d to \d\.\d\d\)", cell) for cell in row), row
        medians.append([float(cell.split()[0]) for cell in row])
    for column, told in zip(zip(*medians, strict=True), rows[-1][1:], strict=True):
        assert abs(column[0] / max(column) - float(told)) < 0.02
        assert float(told) >= WORST
    assert re.search(r"medians of ([5-9]|\d\d)\b", table)
