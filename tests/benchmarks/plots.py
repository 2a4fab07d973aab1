"""The plots of a run, as SVG. What was not measured has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from tests.benchmarks.figures import peers_of
from tests.benchmarks.results import Results
from tests.benchmarks.subjects import (
    BARE,
    BATCHES,
    HELD,
    NOT_HELD,
    PLAIN,
    RUNNER,
    SESSIONS,
    WAITING,
    WAITING_BARE,
    bare_loops,
    sessions,
)

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "session_lock", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}

RATE = "tasks a second"


def write_plots(folder: Path, results: Results) -> dict[str, str]:
    """Returns what they show, by the names of the files."""
    written = {}
    for plot in (by_batch, by_sessions, by_backlog, beside_a_snapshot, latencies):
        path = folder / f"performance-{plot.__name__.replace('_', '-')}.svg"
        path.unlink(missing_ok=True)
        with figure(path) as axes:
            plot(axes, results)
        if path.exists():
            written[path.name] = str(plot.__doc__)
    return written


@contextmanager
def figure(path: Path) -> Iterator[Any]:
    """Written if anything was drawn."""
    drawn, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    try:
        yield axes
        if axes.has_data():
            axes.set_ylim(bottom=0 if axes.get_yscale() == "linear" else None)
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
            drawn.savefig(path, metadata={"Date": None})
    finally:
        plt.close(drawn)


def by_batch(axes: Any, results: Results) -> None:
    """Throughput by the size of the batch, on one connection and in one process"""
    for cell in (PLAIN, BARE, RUNNER):
        there = {
            str(batch): rates
            for batch in reversed(BATCHES)
            if (rates := results.of(f"drain-{batch}", cell, "rate"))
        }
        _line(axes, there, cell)
    for peer in peers_of(results, "peers"):
        rate = median(results.of("peers", peer, "rate"))
        axes.axhline(rate, linestyle=":", color="gray")
        axes.annotate(peer, (0, rate), fontsize=7, va="bottom")
    if axes.has_data():
        axes.set(yscale="log", xlabel="tasks a batch", ylabel=RATE)


def by_sessions(axes: Any, results: Results) -> None:
    """Throughput by sessions, in batches of 100"""
    for name, label in ((sessions, RUNNER), (bare_loops, BARE)):
        there = {
            str(count): rates for count in SESSIONS if (rates := results.of("sessions", name(count), "rate"))
        }
        _line(axes, there, label)
    axes.set(xlabel="sessions", ylabel=RATE)


def by_backlog(axes: Any, results: Results) -> None:
    """Throughput of a Runner in batches of 100, by what is in the table"""
    cells = dict.fromkeys(cell for each in results.rounds.get("backlog", ()) for cell in each)
    found = {cell: results.of("backlog", cell, "rate") for cell in cells}
    for cell, rates in found.items():
        middle = median(rates)
        axes.bar(
            cell.replace(" ", "\n"), middle, yerr=[[middle - min(rates)], [max(rates) - middle]], color="C0"
        )
    axes.set(ylabel=RATE)


def beside_a_snapshot(axes: Any, results: Results) -> None:
    """Throughput in each second of a drain, with and without a snapshot that is held elsewhere"""
    for name, colour in ((HELD, "C1"), (NOT_HELD, "C0")):
        for number, seconds in enumerate(results.of("snapshot", name, "by second")):
            axes.plot(
                range(1, len(seconds) + 1),
                [tasks for tasks, _ in seconds],
                color=colour,
                label=None if number else name,
            )
    axes.set(xlabel="second", ylabel=RATE)


def latencies(axes: Any, results: Results) -> None:
    """Pick-up latency of one task on an idle system, enqueue included"""
    found = {
        cell: [one for each in results.of("latency", cell, "milliseconds") for one in each]
        for cell in (WAITING_BARE, WAITING, *peers_of(results, "latency"))
    }
    ordered = sorted(one for each in found.values() for one in each)
    if not ordered:
        return
    widest = ordered[int(len(ordered) * 0.98)]
    for cell, taken in found.items():
        axes.hist(
            [min(one, widest) for one in taken], bins=60, range=(0, widest), histtype="step", label=cell
        )
    axes.set(xlabel="milliseconds", ylabel="tasks")


def _line(axes: Any, there: dict[str, list[float]], label: str) -> None:
    """Medians, and beside them the least and the most."""
    if not there:
        return
    middle = [median(each) for each in there.values()]
    below = [one - min(each) for one, each in zip(middle, there.values(), strict=True)]
    above = [max(each) - one for one, each in zip(middle, there.values(), strict=True)]
    axes.errorbar([*there], middle, yerr=[below, above], marker="o", capsize=3, label=label)
