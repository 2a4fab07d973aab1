"""docs/explanation/performance.md, as a run writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.figures import figures
from tests.benchmarks.ground import ROOT
from tests.benchmarks.results import Results
from tests.benchmarks.subjects import Subject
from tests.benchmarks.summary import of_figures, of_subject

PAGE = ROOT / "docs" / "explanation" / "performance.md"

HEAD = """\
# How fast it is

Written by `session-lock bench --page` from what it has measured; do not edit. `uv run nox -s bench -- --page` makes such a run,
with the peers ({peers}). Conditions: {conditions}.

Server, clients and all else share the machine, so what counts is the ratio to what was measured beside it, in the same round; the tables have
medians, the least and the most. Tasks are no-ops where nothing else is said: then all there is to see is what the library and PostgreSQL cost. µs, bytes and
buffers are those of a task. What a peer can do was measured with the best of its documented settings.
"""


def page(results: Results, subjects: Mapping[str, Subject], plots: Mapping[str, str]) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in results.versions.items()) or "none"
    parts = [
        HEAD.format(peers=peers, conditions="; ".join(results.conditions)),
        *(f"{note[0].upper()}{note[1:]}.\n" for note in results.notes),
        "## Figures to reach\n",
        of_figures(figures(results)),
    ]
    for file, what in plots.items():
        parts.append(f"## {what}\n\n![{what}]({file})\n")
    for name, subject in subjects.items():
        if name in results.rounds:
            parts.append(f"## {subject.title}\n\n{of_subject(results, name, subject)}")
    return "\n".join(parts)


def write_page(folder: Path, results: Results, subjects: Mapping[str, Subject]) -> None:
    from tests.benchmarks.plots import write_plots  # nothing else needs matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE.name).write_text(page(results, subjects, write_plots(folder, results)))
