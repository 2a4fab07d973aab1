"""What the benchmarks make of what they have measured: ratios, figures to reach, tables, records; and what may be asked for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks.figures import Figure, figures, peers_of
from tests.benchmarks.page import PAGE, page
from tests.benchmarks.peers.driver import Peer
from tests.benchmarks.peers.processes import PeerError
from tests.benchmarks.results import Results, spread
from tests.benchmarks.subjects import BARE, EACH, HELD, PLAIN, RUNNER, Subject, sessions, subjects
from tests.benchmarks.summary import of_subject, plain, text

QUICK = subjects(quick=True)


def rounds_of(**cells: list[float | None]) -> list[dict[str, dict[str, Any]]]:
    """Rounds with the rates of these cells; None: it was not measured."""
    return [
        {cell: {"rate": rate} for cell, rate in zip(cells, rates, strict=True) if rate is not None}
        for rates in zip(*cells.values(), strict=True)
    ]


# Ratios --------------------------------------------------------------------------------------------


def test_ratios_are_of_the_same_round_and_of_the_best_in_it() -> None:
    results = Results({"s": rounds_of(us=[80, 90, 70], a=[10, 30, None], b=[20, 15, None])})
    assert results.ratios("s", "us", ["a", "b"], "rate") == [4, 3]
    assert results.ratios("s", "us", ["a", "b"], "rate", min) == [8, 6]
    assert results.ratios("s", "nobody", ["a"], "rate") == results.ratios("t", "us", ["a"], "rate") == []


def test_an_interrupted_round_has_the_ratios_that_can_be_taken() -> None:
    results = Results({"s": rounds_of(us=[80, 90], a=[10, None])})
    assert results.ratios("s", "us", ["a"], "rate") == [8]
    assert results.of("s", "us", "rate") == [80, 90]


def test_a_spread_is_median_least_and_most() -> None:
    assert spread([3, 1, 2000]) == "3 (1 to 2,000)"
    assert spread([]) == "-"


# Figures to reach ----------------------------------------------------------------------------------


def test_a_record_tells_of_its_own_subject_alone(tmp_path: Path) -> None:
    """What a former run has left out of another one is no news where that was measured again."""
    left = "left out of drain-10 from round 2 on: plain: a deadlock"
    Results({"drain-1": [{}]}, notes=[left, "left out: oban is not installed"]).save("drain-1", tmp_path)
    Results({"drain-10": [{}]}, notes=[left]).save("drain-10", tmp_path)
    results = Results()
    assert results.load("drain-1", tmp_path)
    assert results.notes == ["left out: oban is not installed"]
    assert results.load("drain-10", tmp_path)
    assert results.notes[1:] == [left]


def figure_of(results: Results, *words: str) -> Figure:
    (found,) = [each for each in figures(results) if all(word in each.what for word in words)]
    return found


@pytest.mark.parametrize(
    ("figure", "verdict", "wanted"),
    [
        (Figure("", [0.8, 0.9, 1], least=0.9), "reached", "at least 0.9"),
        (Figure("", [0.8, 0.89, 1], least=0.9), "not reached", "at least 0.9"),
        (Figure("", [1, 1.1, 1.2], most=1.1), "reached", "at most 1.1"),
        (Figure("", [1, 1.11, 1.2], most=1.1), "not reached", "at most 1.1"),
        (Figure("", [], most=1.1), "not measured", "at most 1.1"),
    ],
)
def test_the_median_is_what_is_reached(figure: Figure, verdict: str, wanted: str) -> None:
    assert (figure.verdict, figure.wanted) == (verdict, wanted)


def test_nothing_measured_reaches_nothing() -> None:
    found = figures(Results())
    assert {each.verdict for each in found} == {"not measured"}
    assert len({each.what for each in found}) == len(found) > 30


def test_drains_are_told_against_the_bare_loops() -> None:
    results = Results({"drain-100": rounds_of(**{RUNNER: [80, 90], BARE: [100, 100], PLAIN: [200, 125]})})
    assert figure_of(results, "a Runner, batches of 100, of the bare loop").values == [0.8, 0.9]
    assert figure_of(results, "that SQL, batches of 100, 1 connection").values == [0.5, 0.8]


def test_what_is_not_ours_is_a_peer() -> None:
    cells = {f"{RUNNER}, batches of 10": [30.0], EACH: [40.0], "fast": [10.0], "slow": [2.0]}
    results = Results({"peers": rounds_of(**cells)})
    assert peers_of(results, "peers") == ["fast", "slow"]
    assert figure_of(results, "batches of 10, of the fastest").values == [3]
    assert figure_of(results, "each(), of the fastest").values == [4]


def test_sessions_count_from_the_best_number_on() -> None:
    rates = {sessions(count): [rate] for count, rate in ((1, 50), (2, 80), (4, 100), (16, 70), (64, 90))}
    results = Results({"sessions": rounds_of(**rates)})
    assert figure_of(results, "more sessions").values == [0.7]
    results.rounds["sessions"][0].pop("64 sessions")
    assert figure_of(results, "more sessions").values == []


def test_over_time_the_last_is_told_against_the_first() -> None:
    drained = {HELD: {"by second": [[100, 0.1], [10, 0.1], [70, 0.1]]}}
    offered = {HELD: {"by second": [[20, 0.1]] * 10 + [[20, 0.15]] * 9 + [[20, 0.2]] * 2}}
    results = Results({"snapshot": [drained], "offered": [offered]})
    assert figure_of(results, "drain beside").values == [0.7]
    assert figure_of(results, "offered beside").values == [2]


def test_take_overs_are_told_by_their_difference() -> None:
    results = Results(
        {"take-over": [{"few": {"seconds": 1.0}, "many": {"seconds": 2.5}}, {"few": {"seconds": 1.0}}]}
    )
    assert figure_of(results, "take-over").values == [1.5]


def test_the_largest_backlog_of_each_kind_counts() -> None:
    cells = {
        "1 thousand pending": [1.0], "10 thousand pending": [100.0], "200,000 pending": [50.0], "200,000 finished": [70.0],
        "200,000 scheduled": [80.0], "10 million pending": [90.0],
    }  # fmt: skip
    results = Results({"backlog": rounds_of(**cells)})
    assert figure_of(results, "throughput with 10 million pending").values == [0.9]
    assert figure_of(results, "throughput with 200,000 finished").values == [0.7]
    assert figure_of(results, "throughput with 200,000 scheduled").values == [0.8]


# Tables --------------------------------------------------------------------------------------------

TWO = Subject(title="Two", cells={}, base="a", seconds=60)


def test_a_table_has_the_columns_that_were_measured() -> None:
    cells = {"a": {"rate": 100.0, "memory": 4e7, "asked again": 0}, "b": {"rate": 25.0}}
    assert of_subject(Results({"two": [cells]}), "two", TWO).splitlines() == [
        "|  | rounds | a second | client MB | of a |",
        "| --- | --- | --- | --- | --- |",
        "| a | 1 | 100 (100 to 100) | 40 | 1 (1 to 1) |",
        "| b | 1 | 25 (25 to 25) |  | 0.25 (0.25 to 0.25) |",
    ]


def test_all_of_it_has_conditions_notes_and_the_figures_that_were_measured() -> None:
    results = Results(
        {"drain-100": rounds_of(**{BARE: [100], RUNNER: [90]})}, ["a slow machine"], ["left out: fake"]
    )
    lines = text(results, QUICK).splitlines()
    assert lines[:2] == ["a slow machine.", ""]
    assert "left out: fake." in lines
    assert lines[-1].startswith(
        "| a Runner, batches of 100, of the bare loop over the same SQL | at least 0.85 | 0.9 "
    )
    assert not any("not measured" in line for line in lines)
    assert text(Results({"floors": [{}]}), QUICK) == "", "there was no time, or it was interrupted"


def test_json_has_all_rounds_and_figures() -> None:
    told = json.loads(json.dumps(plain(Results({"s": rounds_of(us=[1, 2])}))))
    assert told["rounds"] == {"s": [{"us": {"rate": 1}}, {"us": {"rate": 2}}]}
    assert {"what", "wanted", "values", "verdict"} <= told["figures"][0].keys()


def test_the_page_has_what_was_measured_and_what_was_not() -> None:
    results = Results(
        {"drain-10": rounds_of(**{BARE: [100], RUNNER: [90]})},
        ["2026-11-29"],
        ["left out: fake"],
        {"peer": "1.5"},
    )
    told = page(results, QUICK, {"performance-by-batch.svg": "By batch"})
    for part in (
        "peers (peer 1.5)", "Conditions: 2026-11-29.", "Left out: fake.\n", "| not measured |",
        "![By batch](performance-by-batch.svg)", "## Drain in batches of 10\n\n|  | rounds |",
    ):  # fmt: skip
        assert part in told
    assert "## Drain in batches of 100" not in told
    links = re.findall(r"\]\(([^)#]+\.md)\)", told)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_the_plots_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plots are drawn by matplotlib, of the group `bench`")
    from tests.benchmarks.plots import write_plots

    (tmp_path / "performance-latencies.svg").write_text("of another run")
    results = Results({"drain-10": rounds_of(**{BARE: [100, 120], RUNNER: [90, 80]})})
    for _ in range(2):  # the same each time, so that a page changes only where its figures do
        assert [*write_plots(tmp_path, results)] == ["performance-by-batch.svg"]
        drawn = (tmp_path / "performance-by-batch.svg").read_text()
    write_plots(tmp_path, results)
    assert (tmp_path / "performance-by-batch.svg").read_text() == drawn
    assert [path.name for path in tmp_path.iterdir()] == ["performance-by-batch.svg"]


# Rounds --------------------------------------------------------------------------------------------


class Made:
    """A cell whose figures are given, or raised."""

    def __init__(self, *found: Any) -> None:
        self.found = [*found]

    async def measure(self, _: Any) -> Any:
        found = self.found.pop(0)
        if isinstance(found, BaseException):
            raise found
        return {"rate": found}


async def run(subject: Subject, until: float = math.inf) -> Results:
    results = Results()
    await bench.run(SimpleNamespace(), results, "two", subject, until)
    return results


async def test_rounds_are_interleaved_and_who_fails_is_left_out() -> None:
    cells = {"a": Made(1, 2, 3), "b": Made(10, PeerError("b: no drain: it is tired"))}
    results = await run(replace(TWO, cells=cells, rounds=3))
    assert results.rounds["two"] == rounds_of(a=[1, 2, 3], b=[10, None, None])
    assert results.notes == ["left out of two from round 2 on: b: b: no drain: it is tired"]


async def test_no_round_is_begun_when_the_time_of_the_subject_is_over() -> None:
    results = await run(replace(TWO, cells={"a": Made(1, 2)}, rounds=2, seconds=0.0))
    assert results.rounds["two"] == []
    results = await run(replace(TWO, cells={"a": Made(1, 2)}, rounds=2), until=0.0)
    assert results.notes == ["no time was left for two: a"]


def test_all_of_a_full_run_is_bounded() -> None:
    known = subjects(quick=False)
    assert (
        sum(each.seconds for each in known.values()) <= 60 * 60
    )  # were each one to need all that it may take


# What is asked for ---------------------------------------------------------------------------------


def test_subjects_are_chosen_by_their_beginnings() -> None:
    assert bench.parsed([]).subject == [*QUICK]
    assert bench.parsed(["--subject", "drain-100", "fl"]).subject == ["floors", "drain-100"]
    assert bench.parsed(["--subject", "drain"]).subject == ["drain-1000", "drain-100", "drain-10", "drain-1"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--subject", "drains"], "no subject is called drains: choose of floors, drain-1000, "),
        (["--rounds", "0"], "--rounds=0: at least one"),
        (["--quick", "--resume"], "--resume is for full runs, since nothing is kept of a quick one: "),
        (["--quick", "--page"], "--quick is not for "),
    ],
)
def test_what_cannot_be_asked_for(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parsed(words)
    assert f"error: {reason}" in capsys.readouterr().err


def test_only_a_quick_run_of_everything_has_to_end_in_time() -> None:
    def seconds(*words: str) -> float:
        return bench.parsed(words).seconds

    assert seconds("--quick") == bench.QUICK < 180
    assert seconds() == seconds("--quick", "--subject", "floors") == math.inf


async def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there, missing, broken = (Peer(name, {}, {}, 1) for name in ("there", "missing", "broken"))
    installed = {"there"}

    async def install(peer: Peer) -> None:
        if peer is broken:
            raise PeerError("broken does not install: it is broken")
        installed.add(peer.name)

    monkeypatch.setattr(bench, "PEERS", [there, missing, broken])
    monkeypatch.setattr(Peer, "install", install)
    monkeypatch.setattr(Peer, "installed", property(lambda peer: peer.name in installed))
    monkeypatch.setattr(Peer, "version", "1.5")
    results = Results()
    assert await bench.find_peers(results, install=False) == [there]
    assert results.versions == {"there": "1.5"}
    assert results.notes[0] == "left out: missing is not installed, and `nox -s bench` does that"
    results = Results()
    assert await bench.find_peers(results, install=True) == [there, missing]
    assert results.notes == ["left out: broken does not install: it is broken"]


# Whole runs ----------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The subjects that were measured; there is no server, and the figures are made up."""
    found: list[str] = []

    @contextmanager
    def server() -> Iterator[Any]:
        yield SimpleNamespace(dsn="", pid=0)

    async def measure(
        _dsn: str, _pid: int, results: Results, chosen: Any, *, folder: Any, seconds: float
    ) -> None:
        for name in chosen:
            results.rounds[name] = [{"it": {}}]
            if name == "enqueue":
                raise KeyboardInterrupt
            found.append(name)
            results.conditions = ["here"]
            if folder:
                results.save(name, folder)

    monkeypatch.setattr(bench, "durable_server", server)
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "PEERS", ())
    monkeypatch.setattr(bench, "RECORDS", tmp_path / "records")
    return found


def test_a_run_that_was_interrupted_is_resumed(
    measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--subject", "floors", "latency", "enqueue"]) == 130
    assert measured == ["floors", "latency"]
    out = capsys.readouterr().out
    assert "interrupted: not all rounds were made" in out
    assert QUICK["latency"].title in out
    assert bench.main(["--resume", "--subject", "floors", "latency", "each"]) == 0
    assert measured == ["floors", "latency", "each"]
    assert capsys.readouterr().out.startswith("here.\n")
    assert bench.main(["--subject", "floors"]) == 0
    assert measured[-1] == "floors"


def test_a_page_is_of_all_that_is_recorded(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, Any] = {}

    def write_page(folder: Path, results: Results, known: dict[str, Subject]) -> None:
        written[str(folder)] = [name for name in known if name in results.rounds]

    monkeypatch.setattr(bench, "write_page", write_page)
    assert bench.main(["--subject", "floors"]) == 0
    assert bench.main(["--quick", "--subject", "idle"]) == 0
    assert bench.main(["--subject", "each", "--page", "here"]) == 0
    assert bench.main(["--quick", "--subject", "idle", "--page", "there"]) == 0
    assert written == {"here": ["floors", "each"], "there": ["idle"]}
