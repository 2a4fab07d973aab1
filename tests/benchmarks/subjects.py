"""What is measured: each subject is a set of cells that are measured in turn, round after round, and told against one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tests.benchmarks import rivals
from tests.benchmarks.ground import Ground, Rows
from tests.benchmarks.measuring import Cell, Figures
from tests.benchmarks.peers.driver import Peer


class Measured(Protocol):
    async def measure(self, ground: Ground) -> Figures: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Cells by their names. `base` is the one that the others are told against, in the same round."""

    title: str
    cells: Mapping[str, Measured]
    base: str
    rounds: int = 5
    seconds: float
    """No further round is begun that would not end within these."""


BATCHES = (1000, 100, 10, 1)
SESSIONS = (1, 2, 4, 16, 64)

BARE, PLAIN = "the library's SQL in a bare loop", "plain SQL in a bare loop"
BARE_4, PLAIN_4 = "the library's SQL, 4 connections", "plain SQL, 4 connections"
RUNNER, EACH = "a Runner", "a Runner with each(), 200 at once"
WAITING, WAITING_BARE = "a Runner, woken", "NOTIFY and claim in a bare loop"
HELD, NOT_HELD = "beside a held snapshot", "without one"
IDLE, POLLING = "told of what comes, by a trigger", "told of nothing, so they poll"
TENTH = 0.1
BESIDE_PEERS = {"peers", "latency"}
"""The subjects that have peers in them."""

RECORDED = "with spans and metrics"
SAMPLED = "with metrics and the spans of a tenth"
BY_THE_SDK_ALONE = "whose tasker makes one span and one duration by the SDK alone"
BY_THE_SDK_ALONE_SAMPLED = f"{BY_THE_SDK_ALONE}, a tenth of the spans"
EACH_SLOW = "each() and a tasker of 100 ms, 100 at once"


def sessions(count: int) -> str:
    return f"{count} session{'s' * (count > 1)}"


def bare_loops(count: int) -> str:
    return f"{count} bare loop{'s' * (count > 1)}"


def subjects(*, quick: bool, peers: Sequence[Peer] = ()) -> dict[str, Subject]:
    """By their names; a quick run has less in the tables, and less time."""
    seconds = 0.5 if quick else 1.0
    plenty = Rows(150_000 if quick else 400_000)

    def cell(kind: str, rows: Rows = plenty, *, processes: int = 1, **options: Any) -> Cell:
        return Cell(kind=kind, rows=rows, processes=processes, seconds=seconds, options=options)

    def drain(batch: int) -> Subject:
        slow = cell("runner", batch=batch, nap=0.1)
        return Subject(
            title=f"Drain in batches of {batch}",
            cells={
                BARE: cell("functions", batch=batch),
                PLAIN: cell("plain", batch=batch),
                BARE_4: cell("functions", batch=batch, connections=4),
                PLAIN_4: cell("plain", batch=batch, connections=4),
                RUNNER: cell("runner", batch=batch),
                **({} if quick else {f"{RUNNER}, tasker of 100 ms": slow}),
            },
            base=BARE,
            seconds=95,
        )

    def runner(rows: Rows, **options: Any) -> Cell:
        return cell("runner", rows, batch=100, **options)

    long = runner(plenty if quick else Rows(5_000_000))
    each = cell("one_by_one", settings={"concurrency": 200})
    slow = cell("one_by_one", nap=0.1, settings={"concurrency": 100})

    def recorded(cell: Cell, share: float = 1.0) -> Cell:
        return replace(cell, options={**cell.options, "telemetry": share})

    def least(cell: Cell, share: float = 1.0) -> Cell:
        return replace(cell, options={**cell.options, "least": share})

    def of_many(kind: str, count: int) -> Cell:
        """For longer than the others: the first looks of all of them, which are one, are a small part of it then."""
        made = cell(kind, batch=100, connections=min(count, 16), processes=max(1, count // 16))
        return replace(made, seconds=2 if quick else 5)

    def idle(*, told: bool) -> Cell:
        options = {"connections": 10, "sessions": 20, "told": told}
        made = Cell(kind="idle", processes=1 if quick else 5, options=options)
        return replace(made, seconds=5 if quick else 40, settled=10 if quick else 30)

    much = 200_000 if quick else 1_000_000
    backlogs = {
        "10 thousand pending": Rows(10_000),
        f"{much:,} pending": Rows(much),
        f"{much:,} finished": Rows(10_000, much),
        f"{much:,} scheduled": Rows(10_000, 0, much),
    }  # fmt: skip
    if not quick:
        backlogs |= {
            "10 million pending": Rows(10_000_000, kept=True),
            "10 million finished": Rows(10_000, 10_000_000, kept=True),
        }
    return {
        "floors": Subject(
            title="Floors: statements a second on one connection",
            cells={
                "SELECT 1": cell("select", Rows(100)),
                "one durable UPDATE": cell("update", Rows(100)),
            },
            base="SELECT 1",
            seconds=32,
        ),
        **{f"drain-{batch}": drain(batch) for batch in BATCHES},
        "each": Subject(
            title="Drain with each(), one coroutine call a task",
            cells={
                EACH: each,
                **({} if quick else {"2 processes of it": replace(each, processes=2)}),
                "10 at once, as by default": cell("one_by_one"),
                "a tasker of 100 ms, 1000 at once": cell(
                    "one_by_one", nap=0.1, settings={"concurrency": 1000}
                ),
            },
            base=EACH,
            seconds=70,
        ),
        "peers": Subject(
            title="Beside the peers",
            cells={
                **{f"{RUNNER}, batches of {batch}": cell("runner", batch=batch) for batch in BATCHES[:3]},
                EACH: each,
                **{
                    peer.name: rivals.Drain(replace(peer, tasks=peer.tasks // (10 if quick else 3)))
                    for peer in peers
                },
            },
            base=EACH,
            seconds=190,
        ),
        "latency": Subject(
            title="Pick-up latency of one task on an idle system, enqueue included",
            cells={
                WAITING_BARE: cell("waiting_loop", Rows(), samples=20 if quick else 50),
                WAITING: cell("waiting_runner", Rows(), samples=20 if quick else 50),
                **{peer.name: rivals.Latency(peer, 20 if quick else 50) for peer in peers},
            },
            base=WAITING_BARE,
            seconds=195,
        ),
        "enqueue": Subject(
            title="Enqueue, on one connection",
            cells={
                "INSERT of one row": cell("insert", Rows(), batch=1),
                "enqueue()": cell("enqueueing", Rows(), batch=1),
                "INSERT of 1000 rows": cell("insert", Rows(), batch=1000),
                "enqueue_many() of 1000": cell("enqueueing", Rows(), batch=1000),
            },
            base="INSERT of one row",
            seconds=60,
        ),
        "backlog": Subject(
            title="A Runner in batches of 100, against what is in the table; what it finishes is inserted again",
            cells={
                "1 thousand pending": runner(Rows(1000), refill=100),
                **{name: runner(rows, refill=1000) for name, rows in backlogs.items()},
            },
            base="10 thousand pending",
            seconds=330,
        ),
        "take-over": Subject(
            title="Take-over of a dead session's 1000 tasks: seconds from the end of its lease to the last finish",
            cells={
                name: cell("take_over", backlogs[name])
                for name in ("10 thousand pending", f"{much:,} pending" if quick else "10 million pending")
            },
            base="10 thousand pending",
            seconds=75,
        ),
        "snapshot": Subject(
            title="Drain in batches of 100 over time, beside a held snapshot",
            cells={
                HELD: replace(long, seconds=3 if quick else 60, snapshot=True),
                NOT_HELD: replace(long, seconds=3 if quick else 10),
            },
            base=NOT_HELD,
            rounds=2,
            seconds=215,
        ),
        "offered": Subject(
            title="Tasks offered steadily, beside a held snapshot",
            cells={
                HELD: replace(
                    runner(Rows(), listen=True),
                    offered=5000 if quick else 20_000,
                    seconds=6 if quick else 600,
                    snapshot=True,
                )
            },
            base=HELD,
            rounds=1,
            seconds=620,
        ),
        "sessions": Subject(
            title="In batches of 100, by sessions: Runners, and the library's SQL in bare loops, each on its connection",
            cells={
                **{
                    sessions(count): of_many("runner", count) for count in SESSIONS if count != 2 or not quick
                },
                **{bare_loops(count): of_many("functions", count) for count in (1, 16, 64)},
            },
            base=sessions(1),
            seconds=400,
        ),
        "idle": Subject(
            title="Sessions with nothing to do: of a thousand of them, 20 to a pair of connections",
            cells={IDLE: idle(told=True), POLLING: idle(told=False)},
            base=IDLE,
            rounds=3,
            seconds=500,
        ),
        "telemetry": Subject(
            title="With spans and metrics recorded by OpenTelemetry's SDK, exported in batches",
            cells={
                RUNNER: runner(plenty),
                f"{RUNNER}, {RECORDED}": recorded(runner(plenty)),
                EACH: each,
                f"{EACH}, {RECORDED}": recorded(each),
                f"{EACH}, {BY_THE_SDK_ALONE}": least(each),
                f"{EACH}, {SAMPLED}": recorded(each, TENTH),
                f"{EACH}, {BY_THE_SDK_ALONE_SAMPLED}": least(each, TENTH),
                **({} if quick else {EACH_SLOW: slow, f"{EACH_SLOW}, {RECORDED}": recorded(slow)}),
            },
            base=RUNNER,
            seconds=140,
        ),
    }
