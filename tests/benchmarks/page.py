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

WHY = """\
## Where the time goes, and where none does

A task costs two writes of its row, a claim and a finish, and its part of the calls that make them. The rest follows from that.

- **One round trip a call.** Each verb is one function in the database: a look for work marks who has expired, works out the share, claims and returns the rows in one statement, which is prepared once for each connection. A session that
  is alone sends what is finished along with its next look, so that a batch takes one round trip and one commit.
- **A commit is shared.** It waits for the disk, and is what a single task costs most. A batch of tasks is claimed in one, and finished in one; under `each` what has come to its end meanwhile is recorded together.
- **Nothing is locked but the rows.** They are passed over if somebody has them (`SKIP LOCKED`), so no session waits for another. Nothing counts the whole table: the share ends its count where there is plenty, and of much one session counts for all.
- **A look begins where the last one has found its tasks**, at a position in the index of what is pending. What was finished stays in that index until vacuum has come, and nobody walks over it
  ([ADR 0015](../adr/0015-a-look-begins-at-a-position.md)).
- **A claim writes no index** where its page has room: none of its columns is in one (but where a `Limit` counts what is held), so PostgreSQL makes the update in the page (HOT). The finish writes one, that of what is pending. [Tuning](../how-to/tuning.md) gives pages the room.
- **Tasks are at hand before they are wanted.** While all slots are busy the next tasks are claimed, no more than will be begun within a second. Who is idle is woken, and where each task that comes is told of
  does not look in between ([wake-ups](../how-to/wake-ups.md)).
- **A session costs one statement in a while**, its keepalive, however many tasks it has; no lease is renewed for a task.
"""

WHY_NOT = """\
## What is not reached, and why

Floors, drains, `each()`, peers and latency are of 2026-11-30, on a machine with nothing else to do; the rest of the night before, beside other load.

- **The library's SQL beside plain SQL.** Of a call for 100 tasks on one connection (4.5 ms; `pg_stat_statements`, `track = all`, 612 calls on 2026-11-29) the claim's update takes 1.5 ms and the finish's 0.7, which plain SQL does too. To find where
  each claim stands before it is finished, which is the fence, takes 0.4; to choose 0.15; to see who is there and who has died 0.13; the session's own row 0.05. The rest goes into rows that pass through two functions, and arrays of keys and tokens.
- **Few tasks a call** pay for what is done once in each. Of a look and a finish of 10 tasks (0.92 ms; 1,500 of each on 2026-11-30) the two updates take 0.21 ms, where the claims stand 0.11, the own session's row 0.13, who is there and who has died 0.08, to choose 0.05,
  and nothing is planned; the rest is what the two functions themselves do.
- **Pick-up latency** is the same on a small scale: for one task a call costs the server 1.3 ms of a processor, with its commit, and the bare claim 0.5.
- **A Runner in batches of 1000** takes 17 µs of the client's processor for a task, a `Task` and an outcome, and the bare loop, which makes nothing of its rows, 3.
- **Eight and five times the fastest peer** would be more than plain SQL does here on a connection: it is the two cores that end.
- **Under `each()`** a task is 65 to 85 µs of one processor of the client, where the server takes 30: a coroutine, a slot, a deadline and an outcome for each. A profile of it is flat: of 37,800 calls (cProfile, 2026-11-30) no function has more than 7 % of the
  time. Batches of 10 take half of that, and two processes give 1.6 times as much. From Python 3.12 on a call that never waits is not put in the loop: 3.13 took 57 and 63 µs where 3.11 took 81 and 93 in the same minutes, beside other load.
- **Spans of each task** are the SDK's own cost: the last lines tell it beside a tasker that makes one span and one duration by the SDK and nothing else.
- **Ten million pending** are in pages of which each is touched for the first time: a task dirties 0.065 buffers in place of 0.039, and writes 824 bytes of WAL in place of 701. With a million scheduled the spread is wider than what is missing.
- **Many sessions** rarely look at the same time, since each claims several batches ahead in one call, but sometimes they do; all want the same first tasks then, and a row that another one has claimed a moment ago costs as much to be found out as to be
  claimed. Bare loops, which claim a hundred at a time and do nothing between, do so all the time.
- **A thousand idle sessions** send 200 keepalives a second, and look 33 times a second, each once in half a minute, in case that something was not told; such a look reads all thousand sessions, which takes the server 3 ms: about half of what they cost.
- **20,000 tasks offered a second** are about all that these two cores can do beside a snapshot, with who inserts them: the lag is below 0.1 s in most seconds of the first minute and a half, and grows and shrinks after that.
"""


def page(results: Results, subjects: Mapping[str, Subject], plots: Mapping[str, str]) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in results.versions.items()) or "none"
    parts = [
        HEAD.format(peers=peers, conditions="; ".join(results.conditions)),
        *(f"{note[0].upper()}{note[1:]}.\n" for note in results.notes),
        "## Figures to reach\n",
        of_figures(figures(results)),
        WHY,
        WHY_NOT,
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
