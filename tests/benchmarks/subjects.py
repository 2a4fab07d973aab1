"""What is measured: each subject is a set of cells that are measured in turn, round after round, and told against one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.measuring import Cell

MANY = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Cells by their names. `base` is the one that the others are told against, in the same round."""

    title: str
    cells: Mapping[str, Cell]
    base: str
    seconds: float = 1.2
    quick: bool = True
    """Whether a quick run has it."""


def _cell(kind: str, *, pending: int = MANY, finished: int = 0, processes: int = 1, **options: Any) -> Cell:
    return Cell(kind=kind, pending=pending, finished=finished, processes=processes, options=options)


def _drain(batch: int) -> Subject:
    pending = MANY if batch >= 100 else MANY // 10
    return Subject(
        title=f"drain in batches of {batch}",
        cells={
            "the library's SQL in a bare loop": _cell("functions", batch=batch, pending=pending),
            "plain SQL in a bare loop": _cell("plain", batch=batch, pending=pending),
            "the library's SQL, 4 connections": _cell(
                "functions", batch=batch, pending=pending, connections=4
            ),
            "plain SQL, 4 connections": _cell("plain", batch=batch, pending=pending, connections=4),
            "a Runner": _cell("runner", batch=batch, pending=pending),
        },
        base="the library's SQL in a bare loop",
    )


SUBJECTS = {
    "floors": Subject(
        title="floors: calls a second",
        cells={
            "SELECT 1": _cell("select", pending=1_000),
            "one durable UPDATE": _cell("update", pending=1_000),
        },
        base="SELECT 1",
    ),
    **{f"drain {batch}": _drain(batch) for batch in (1000, 100, 10, 1)},
    "each": Subject(
        title="drain by each(), one call a task",
        cells={
            "a Runner with each()": _cell("each"),
            "2 processes of it": _cell("each", processes=2),
            "a tasker of 1 ms, 100 at once": _cell("each", nap=0.001, settings={"concurrency": 100}),
            "a tasker of 100 ms, 1000 at once": _cell("each", nap=0.1, settings={"concurrency": 1000}),
        },
        base="a Runner with each()",
    ),
    "backlog": Subject(
        title="batches of 100 against what is in the table",
        cells={
            "10 thousand pending": _cell("runner", batch=100, pending=100_000),
            "a million pending": _cell("runner", batch=100, pending=1_000_000),
            "a million finished kept": _cell("runner", batch=100, pending=100_000, finished=1_000_000),
        },
        base="10 thousand pending",
        seconds=0.8,
    ),
    "sessions": Subject(
        title="batches of 100, by sessions",
        cells={
            f"{sessions} sessions": _cell(
                "functions", batch=100, connections=min(sessions, 16), processes=max(1, sessions // 16)
            )
            for sessions in (1, 2, 4, 16, 64)
        },
        base="1 sessions",
    ),
}
