"""What the rounds come to: medians with their spread, and ratios that were taken within a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from tests.benchmarks.subjects import Subject

UNITS = {
    "rate": ("a second", 1.0),
    "server cpu": ("server µs", 1.0),
    "client cpu": ("client µs", 1.0),
    "wal": ("WAL bytes", 1.0),
    "memory": ("client MB", 1e-6),
}
"""Of the figures of a task: what they are called, and by what they are multiplied."""


class Results:
    """Figures by subject and cell, a list of rounds each."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.figures: dict[str, dict[str, list[Mapping[str, float]]]] = {}

    def add(self, subject: str, cell: str, figures: Mapping[str, float]) -> None:
        self.figures.setdefault(subject, {}).setdefault(cell, []).append(figures)


def plain(results: Results) -> dict[str, Any]:
    return {"conditions": results.conditions, "figures": results.figures}


def markdown(results: Results, subjects: Mapping[str, Subject]) -> str:
    parts = [f"{'; '.join(results.conditions)}.\n"]
    for name, cells in results.figures.items():
        subject = subjects[name]
        head = [subject.title, *(unit for unit, _ in UNITS.values()), f"of {subject.base}"]
        rows = [
            [cell, *_figures(rounds), _ratio(rounds, cells.get(subject.base, ()))]
            for cell, rounds in cells.items()
        ]
        parts.append(_table(head, rows))
    return "\n".join(parts)


def _figures(rounds: Sequence[Mapping[str, float]]) -> Iterable[str]:
    for name, (_, factor) in UNITS.items():
        found = [factor * each[name] for each in rounds if name in each]
        yield _spread(found) if name == "rate" else (_short(median(found)) if found else "")


def _ratio(rounds: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]]) -> str:
    ratios = [
        each["rate"] / one["rate"] for each, one in zip(rounds, base, strict=False) if one["rate"]
    ]  # an interrupted round has no partner
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def _spread(values: Sequence[float]) -> str:
    return f"{_short(median(values))} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
