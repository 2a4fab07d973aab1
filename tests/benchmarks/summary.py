"""What a run comes to, in tables: medians with their spread, and ratios that were taken within a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from tests.benchmarks.figures import Figure, figures
from tests.benchmarks.results import Results, short, spread
from tests.benchmarks.subjects import Subject

COLUMNS = {
    "rate": ("a second", 1.0), "p50": ("p50, ms", 1.0), "p99": ("p99, ms", 1.0), "seconds": ("seconds", 1.0),
    "server cpu": ("server µs", 1.0), "client cpu": ("client µs", 1.0), "wal": ("WAL bytes", 1.0),
    "dirtied": ("buffers dirtied", 1.0), "memory": ("client MB", 1e-6), "enqueued": ("enqueued a second", 1.0),
    "sessions": ("sessions", 1.0), "server core": ("server, of a core", 1.0), "client core": ("clients, of a core", 1.0),
    "asked again": ("refused calls", 1.0), "calls": ("transactions a second", 1.0),
}  # fmt: skip
"""Of the figures of a cell, what they are called and by what they are multiplied. µs, bytes and buffers are those of a task."""

COMPARED = ("rate", "p50", "seconds")
"""One of these is told against the base."""


def plain(results: Results) -> dict[str, Any]:
    told = [
        {**asdict(figure), "wanted": figure.wanted, "verdict": figure.verdict} for figure in figures(results)
    ]
    return {**asdict(results), "figures": told}


def text(results: Results, subjects: Mapping[str, Subject]) -> str:
    """All of it, in markdown."""
    parts = [
        *(f"{'; '.join(part)}.\n" for part in (results.conditions, results.notes) if part),
        *(
            f"{subjects[name].title}\n\n{of_subject(results, name, subjects[name])}"
            for name, rounds in results.rounds.items()
            if any(rounds)
        ),
        *([of_figures(found)] if (found := [each for each in figures(results) if each.values]) else []),
    ]
    return "\n".join(parts)


def of_figures(found: Iterable[Figure]) -> str:
    rows = [[each.what, each.wanted, each.reached, str(len(each.values)), each.verdict] for each in found]
    return _table(["figure", "wanted", "reached", "rounds", ""], rows)


def of_subject(results: Results, name: str, subject: Subject) -> str:
    rounds = results.rounds[name]
    there = {figure for each in rounds for cell in each.values() for figure, value in cell.items() if value}
    columns = [figure for figure in COLUMNS if figure in there]
    (compared,) = [figure for figure in COMPARED if figure in columns] or [None]
    head = ["", "rounds", *(COLUMNS[column][0] for column in columns)]
    rows = []
    for cell in dict.fromkeys(cell for each in rounds for cell in each):
        values = {column: results.of(name, cell, column) for column in columns}
        row = [cell, str(sum(cell in each for each in rounds))]
        row += [_figure(column, values[column]) for column in columns]
        if compared:
            row.append(spread(results.ratios(name, cell, [subject.base], compared)))
        rows.append(row)
    return _table([*head, *([f"of {subject.base}"] if compared else [])], rows)


def _figure(column: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    found = [COLUMNS[column][1] * value for value in values]
    return spread(found) if column in COMPARED else short(median(found))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
