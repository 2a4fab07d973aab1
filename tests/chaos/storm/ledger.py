"""What instances do, written down where no fault reaches: a file for each process, to which whole lines are appended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from session_lock import Task
from session_lock.session import boottime


class Ledger:
    """Of one process. A line is one write, so that a process that is killed leaves whole ones."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / f"{os.getpid()}.ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin(self, tasks: Iterable[Task[Any]]) -> None:
        self._note("begin", tasks)

    def effect(self, tasks: Iterable[Task[Any]]) -> None:
        self._note("effect", tasks)

    def end(self, tasks: Iterable[Task[Any]]) -> None:
        self._note("end", tasks)

    def pause(self, since: float) -> None:
        """The process has stood still, whoever made it."""
        self._write(["pause", boottime(), since])

    def leave(self, left: int) -> None:
        """It has ended by itself, and so many of its asyncio tasks and threads have not."""
        self._write(["leave", boottime(), left])

    def _note(self, kind: str, tasks: Iterable[Task[Any]]) -> None:
        self._write([kind, boottime(), [[task.key, task.session_id, task.token] for task in tasks]])

    def _write(self, line: list[Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


@dataclass
class Run:
    """One call of a tasker with one task."""

    pid: int
    task: int
    session: int
    token: int
    begin: float
    end: float | None = None
    """None: the process did not come to it."""
    effect: bool = False


@dataclass(frozen=True)
class Pause:
    pid: int
    begin: float
    end: float


@dataclass
class Written:
    runs: list[Run]
    pauses: list[Pause]
    left: dict[int, int]
    """By the process that has ended by itself: what has not ended with it."""


def read(folder: Path) -> Written:
    written = Written([], [], {})
    for file in sorted(folder.glob("*.ledger")):
        _read(int(file.stem), file.read_text(), written)
    return written


def _read(pid: int, lines: str, written: Written) -> None:
    under_way: dict[tuple[int, int, int], Run] = {}
    for line in lines.splitlines():
        kind, at, rest = json.loads(line)
        if kind == "pause":
            written.pauses.append(Pause(pid, rest, at))
        elif kind == "leave":
            written.left[pid] = rest
        else:
            for task, session, token in rest:
                claim = (task, session, token)
                if kind == "begin":
                    under_way[claim] = Run(pid, *claim, at)
                    written.runs.append(under_way[claim])
                elif kind == "effect":
                    under_way[claim].effect = True
                else:
                    under_way[claim].end = at
