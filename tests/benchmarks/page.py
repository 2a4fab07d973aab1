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
- **Many sessions rarely look at the same time**, since each claims several batches ahead in one call. Those that do want the same first tasks, and a row that another one has claimed a moment ago costs as much to be
  found out as to be claimed. So 64 bare loops, which claim a hundred at a time and do nothing between, do far less than one; 64 Runners do not ([the table](#in-batches-of-100-by-sessions-runners-and-the-librarys-sql-in-bare-loops-each-on-its-connection)).
- **A session costs one statement in a while**, its keepalive, however many tasks it has; no lease is renewed for a task.
"""


def page(results: Results, subjects: Mapping[str, Subject], plots: Mapping[str, str]) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in results.versions.items()) or "none"
    parts = [
        HEAD.format(peers=peers, conditions="; ".join(results.conditions)),
        *(f"{note[0].upper()}{note[1:]}.\n" for note in results.notes),
        "## Figures to reach\n",
        of_figures(figures(results)),
        WHY,
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
