"""The figures to reach: what is wanted of each, and what a run has come to. All are ratios within a round, or nearly so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.results import Results, spread
from tests.benchmarks.subjects import (
    BARE,
    BARE_4,
    BY_THE_SDK_ALONE,
    BY_THE_SDK_ALONE_SAMPLED,
    EACH,
    EACH_SLOW,
    HELD,
    IDLE,
    PLAIN,
    PLAIN_4,
    RECORDED,
    RUNNER,
    SAMPLED,
    SESSIONS,
    WAITING,
    WAITING_BARE,
    bare_loops,
    sessions,
)


@dataclass(frozen=True, slots=True)
class Figure:
    what: str
    values: Sequence[float]
    """One of each round."""
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        return f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"

    @property
    def reached(self) -> str:
        return spread(self.values)

    @property
    def verdict(self) -> str:
        if not self.values:
            return "not measured"
        found = median(self.values)
        good = found >= self.least if self.least is not None else found <= (self.most or 0)
        return "reached" if good else "not reached"


def figures(results: Results) -> list[Figure]:
    return [
        *_drain(results), *_peers(results), *_latency(results), *_backlog(results), *_snapshot(results),
        *_sessions(results), *_the_rest(results),
    ]  # fmt: skip


def _drain(results: Results) -> Iterator[Figure]:
    for batch, least in ((1000, 0.9), (100, 0.85), (10, 0.8)):
        values = results.ratios(f"drain-{batch}", RUNNER, [BARE], "rate")
        yield Figure(f"a Runner, batches of {batch}, of the bare loop over the same SQL", values, least=least)
    for batch, least in ((1000, 0.9), (100, 0.9), (10, 0.9), (1, 0.75)):
        for cell, base, connections in ((BARE, PLAIN, 1), (BARE_4, PLAIN_4, 4)):
            values = results.ratios(f"drain-{batch}", cell, [base], "rate")
            what = f"that SQL, batches of {batch}, {connections} connection{'s' * (connections > 1)}, of plain SQL"
            yield Figure(what, values, least=least)


def peers_of(results: Results, subject: str) -> list[str]:
    """Whose cells are there, beside ours."""
    names = {name: None for each in results.rounds.get(subject, ()) for name in each}
    ours = {EACH, WAITING, WAITING_BARE}
    return [name for name in names if name not in ours and not name.startswith(RUNNER)]


def _peers(results: Results) -> Iterator[Figure]:
    peers = peers_of(results, "peers")
    of_ours = {f"batches of {batch}": f"{RUNNER}, batches of {batch}" for batch in (1000, 100, 10)} | {
        "each()": EACH
    }
    for (what, cell), least in zip(of_ours.items(), (8, 5, 1.2, 4), strict=True):
        yield Figure(
            f"a Runner, {what}, of the fastest peer",
            results.ratios("peers", cell, peers, "rate"),
            least=least,
        )
    for what in ("batches of 100", "each()"):
        for figure, name in (("wal", "WAL"), ("cpu", "CPU, server and client")):
            values = results.ratios("peers", of_ours[what], peers, figure, min)
            yield Figure(f"{name}, of a task, {what}, of the thriftiest peer", values, most=1)
    yield Figure(
        "WAL of a task, a Runner in batches of 100, of the bare loop",
        results.ratios("drain-100", RUNNER, [BARE], "wal"),
        most=1.1,
    )


def _latency(results: Results) -> Iterator[Figure]:
    for figure, most in (("p50", 1.15), ("p99", 1.5)):
        values = results.ratios("latency", WAITING, [WAITING_BARE], figure)
        yield Figure(f"pick-up latency, {figure}, of NOTIFY and claim in a bare loop", values, most=most)
    for figure in ("p50", "p99"):
        values = results.ratios("latency", WAITING, peers_of(results, "latency"), figure, min)
        yield Figure(f"pick-up latency, {figure}, of the quickest peer", values, most=1)


def _backlog(results: Results) -> Iterator[Figure]:
    base = "10 thousand pending"
    for kind in ("pending", "finished", "scheduled"):
        cells = [
            name for each in results.rounds.get("backlog", ())[:1] for name in each if name.endswith(kind)
        ]
        cell = cells[-1] if cells else f"much {kind}"
        yield Figure(
            f"throughput with {cell}, of {base}", results.ratios("backlog", cell, [base], "rate"), least=0.9
        )
        if kind == "pending":
            values = results.ratios("backlog", cell, ["1 thousand pending"], "memory")
            yield Figure(f"client memory with {cell}, of 1 thousand", values, most=1.15)
    differences = []
    for each in results.rounds.get("take-over", ()):
        if len(each) == 2:
            few, many = (figures["seconds"] for figures in each.values())
            differences.append(many - few)
    yield Figure("take-over with many pending, seconds more than with 10 thousand", differences, most=2)


def _snapshot(results: Results) -> Iterator[Figure]:
    drains = [[tasks for tasks, _ in each] for each in results.of("snapshot", HELD, "by second")]
    yield Figure(
        "drain beside a held snapshot: its last second, of its first",
        [each[-1] / each[0] for each in drains if each],
        least=0.6,
    )
    lags = [[lag for _, lag in each] for each in results.of("offered", HELD, "by second")]
    tenths = [(each[: max(1, len(each) // 10)], each[-max(1, len(each) // 10) :]) for each in lags if each]
    yield Figure(
        "offered beside a held snapshot: lag in the last tenth of the time, of that in the first",
        [median(last) / median(first) for first, last in tenths],
        most=1.5,
    )


def _sessions(results: Results) -> Iterator[Figure]:
    kept = []
    for each in results.rounds.get("sessions", ()):
        rates = [each[name]["rate"] for count in SESSIONS if (name := sessions(count)) in each]
        if sessions(SESSIONS[-1]) in each:
            kept.append(min(rates[rates.index(max(rates)) :]) / max(rates))
    yield Figure("throughput with more sessions than the best number, of the best", kept, least=0.85)
    for name in (sessions, bare_loops):
        for count in (16, 64):
            values = results.ratios("sessions", name(count), [name(1)], "server cpu")
            yield Figure(f"server CPU of a task with {name(count)}, of that with one", values, most=1.3)


def _the_rest(results: Results) -> Iterator[Figure]:
    used = results.of("idle", IDLE, "server core")
    yield Figure("server CPU of a thousand idle sessions, of a core", used, most=0.05)
    for cell, how in ((RUNNER, RECORDED), (EACH, RECORDED), (EACH, SAMPLED), (EACH_SLOW, RECORDED)):
        values = results.ratios("telemetry", f"{cell}, {how}", [cell], "rate")
        yield Figure(f"{cell} {how} recorded, of that without", values, least=0.8)
    for how, alone in ((RECORDED, BY_THE_SDK_ALONE), (SAMPLED, BY_THE_SDK_ALONE_SAMPLED)):
        values = results.ratios("telemetry", f"{EACH}, {how}", [f"{EACH}, {alone}"], "rate")
        yield Figure(f"{EACH} {how} recorded, of one {alone}", values, least=0.8)
