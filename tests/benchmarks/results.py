"""What has been measured: round after round, of each cell its figures; kept in files, so that a run can be resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.ground import ROOT

RECORDS = ROOT / ".bench" / "results"

Round = dict[str, dict[str, Any]]
"""The figures of each cell, by its name."""


@dataclass
class Results:
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    """By the names of the subjects."""
    conditions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the peers."""

    def save(self, subject: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        part = replace(self, rounds={subject: self.rounds[subject]})
        unfinished = folder / f"{subject}.part"
        unfinished.write_text(json.dumps(asdict(part)))
        unfinished.rename(folder / f"{subject}.json")

    def load(self, subject: str, folder: Path) -> bool:
        """Whether it has been measured before."""
        try:
            kept = json.loads((folder / f"{subject}.json").read_text())
        except FileNotFoundError:
            return False
        self.rounds |= kept["rounds"]
        self.versions |= kept["versions"]
        self.add(kept["conditions"], self.conditions)
        # What was left out of another subject stands in the record of that one, which may be of a later run.
        self.add([each for each in kept["notes"] if _about(each) in (None, subject)], self.notes)
        return True

    @staticmethod
    def add(more: Sequence[str], there: list[str]) -> None:
        """What was the same before is told once."""
        there += [each for each in more if each not in there]

    # What they come to ---------------------------------------------------------------------------------

    def of(self, subject: str, cell: str, figure: str) -> list[Any]:
        return [each[cell][figure] for each in self.rounds.get(subject, ()) if figure in each.get(cell, ())]

    def ratios(
        self, subject: str, cell: str, others: Sequence[str], figure: str, best: Callable[..., float] = max
    ) -> list[float]:
        """Of a cell, and the best of the others in the same round: each round that has both."""
        found = []
        for each in self.rounds.get(subject, ()):
            there = [each[other][figure] for other in others if figure in each.get(other, ())]
            if figure in each.get(cell, ()) and there and best(there):
                found.append(each[cell][figure] / best(there))
        return found


def _about(note: str) -> str | None:
    """The subject, if it is a note on one."""
    found = re.match(r"(?:left out of|no time was left for) ([\w-]+)", note)
    return found and found[1]


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{short(median(values))} ({short(min(values))} to {short(max(values))})"


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
