"""What a soak has seen, and the bounds that it must keep to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

MOST_SLOWER = 1.5
"""The p99 of a look in the last part, against the first one."""

MOST_SLOWER_BESIDE = 3.0
"""And beside the old snapshot."""

MOST_GROWTH = 1.1
"""Memory of an instance, and the table's size after the snapshot was given up: against what they had before that."""

VERSIONS = 4
"""Of a row, dead in the end: inserted, claimed, finished or given back, deleted."""

ROUNDS = 120
"""Seconds of two rounds of autovacuum: what died before them is gone."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one time; sizes in bytes."""

    at: float
    part: str
    looks: list[float] = field(repr=False)
    """Seconds that each look took since the last sample."""
    resident: int
    heap: int
    indexes: int
    dead: int
    vacuums: int
    xid_age: int
    mxid_age: int
    multixacts: int
    pending: int
    tasks: int
    dead_sessions: int


def p99(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(0.99 * len(ordered)) - 1]


def looks_of(samples: Sequence[Sample], part: str) -> list[float]:
    return [seconds for sample in samples if sample.part == part for seconds in sample.looks]


def last(samples: Sequence[Sample], part: str) -> Sample:
    return [sample for sample in samples if sample.part == part][-1]


def judge(samples: Sequence[Sample]) -> list[str]:
    """What is wrong with it."""
    wrong = []
    before, beside, after = (p99(looks_of(samples, part)) for part in ("before", "beside", "after"))
    if after > MOST_SLOWER * before:
        wrong.append(f"the p99 of a look is {after / before:.2f} times that of the beginning")
    if beside > MOST_SLOWER_BESIDE * before:
        wrong.append(
            f"the p99 of a look beside an old snapshot is {beside / before:.2f} times that of the beginning"
        )
    grown, end = last(samples, "beside"), samples[-1]
    for what, now, then in (
        ("the table", end.heap, grown.heap),
        ("the size of its indexes", end.indexes, grown.indexes),
        ("an instance's memory", end.resident, last(samples, "before").resident),
    ):
        if now > MOST_GROWTH * then:
            wrong.append(f"{what} has grown {now / then:.2f} times")
    lately = end.tasks - max((each.tasks for each in samples if each.at <= end.at - ROUNDS), default=0)
    if end.dead > VERSIONS * lately:
        wrong.append(f"{end.dead} dead rows are left, after two rounds of autovacuum with {lately} tasks")
    if end.xid_age >= grown.xid_age:
        wrong.append(
            f"freezing does not keep up: the table's oldest transaction is {end.xid_age} old, beside the snapshot {grown.xid_age}"
        )
    if end.mxid_age > end.multixacts - grown.multixacts:
        wrong.append(
            f"freezing does not keep up: the table's oldest multixact is {end.mxid_age} old, of before the snapshot was given up"
        )
    if end.vacuums == grown.vacuums:
        wrong.append("no autovacuum has come after the snapshot")
    if end.pending > 5 * median(sample.pending for sample in samples if sample.part == "before") + 1000:
        wrong.append(f"{end.pending} tasks are pending: it does not keep up")
    return wrong


def table(samples: Sequence[Sample]) -> str:
    """For people, in Markdown. Ages are those of the oldest in the table."""
    lines = [
        "| part | tasks | looks | p50 ms | p99 ms | memory MB | table MB | indexes MB | dead rows | autovacuums | multixacts | xid age | mxid age |",
        "|---" * 13 + "|",
    ]
    for part in ("before", "beside", "after"):
        looks, end = looks_of(samples, part), last(samples, part)
        numbers = [
            end.tasks, len(looks), f"{1000 * median(looks):.2f}", f"{1000 * p99(looks):.2f}", f"{end.resident / 1e6:.1f}",
            f"{end.heap / 1e6:.1f}", f"{end.indexes / 1e6:.1f}", end.dead, end.vacuums, end.multixacts, end.xid_age, end.mxid_age,
        ]  # fmt: skip
        lines.append(f"| {part} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)
