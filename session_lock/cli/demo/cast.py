"""The runner processes of the demo, as their parent sees them: started, struck, heard and ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import Enum
from itertools import count
from typing import Any, Self

from session_lock.cli.demo.part import Part, Report
from session_lock.errors import SessionLockError

VARIABLE = "SESSION_LOCK_DEMO_RUNNER"

STOP_WITHIN = 8.0
"""More than a runner allows itself."""


class State(Enum):
    RUNNING = "running"
    KILLED = "killed"
    FROZEN = "frozen"
    THAWED = "thawed"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Blow:
    """A kill or a freeze."""

    what: State
    at: datetime
    """By the server's clock, read just before the signal was sent."""


@dataclass(eq=False, slots=True)
class RunnerProcess:
    name: str
    process: Process
    state: State = State.RUNNING
    report: Report = field(default_factory=Report)
    blow: Blow | None = None
    last_words: str = ""
    """The end of what it printed to stderr."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def works(self) -> bool:
        return self.state in {State.RUNNING, State.THAWED}

    def terminate(self) -> None:
        """As a deploy does it, and gracefully."""
        self.process.terminate()

    def kill(self, at: datetime) -> None:
        self.process.kill()
        self.state, self.blow = State.KILLED, Blow(State.KILLED, at)

    def freeze(self, at: datetime) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.state, self.blow = State.FROZEN, Blow(State.FROZEN, at)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.state = State.THAWED

    def unfreeze(self) -> None:
        """As if it had never been frozen."""
        self.thaw()
        self.state, self.blow = State.RUNNING, None

    # What it says ------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Take in what it reports, to its end."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        complaining = asyncio.create_task(self._keep_last_words(self.process.stderr))
        async for line in self.process.stdout:
            if line.endswith(b"\n"):  # the last one may have been cut off
                self.report = Report(**json.loads(line))
        await complaining
        status = await self.process.wait()
        if self.works:
            self.state = State.STOPPED if status == 0 else State.FAILED

    async def _keep_last_words(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(10_000):
            self.last_words = (self.last_words + chunk.decode(errors="replace"))[-2000:]


class Cast:
    """All runner processes; what is left of them at the end of the block is killed.

    Each is in a process group of its own in our session. So Ctrl-C reaches only us; and if we die without a word, the
    system hangs up on a group that is left with a frozen process (SIGHUP, SIGCONT), where the others see their stdin end.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        """All have the same one, but for the name, and for what is each one's own."""
        self.runners: list[RunnerProcess] = []
        self._names = (f"R{number}" for number in count(1))
        self._following: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self.runners:
            with suppress(ProcessLookupError):
                runner.process.kill()  # frozen ones too
        if self._following:
            await asyncio.wait(self._following)

    async def start(self, **own: Any) -> RunnerProcess:
        part = replace(self._part, name=next(self._names), own=own)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "session_lock.cli.demo.runner",
            stdin=PIPE, stdout=PIPE, stderr=PIPE, process_group=0,
            env={**os.environ, VARIABLE: json.dumps(asdict(part))},
        )  # fmt: skip
        runner = RunnerProcess(part.name, process)
        self.runners.append(runner)
        self._following.add(asyncio.create_task(runner.follow()))
        return runner

    async def stop(self) -> None:
        """Let them end in good order."""
        for runner in self.runners:
            if runner.state is State.FROZEN:
                runner.thaw()
            assert runner.process.stdin is not None
            runner.process.stdin.close()
        await asyncio.wait(self._following, timeout=STOP_WITHIN)

    def check(self) -> None:
        """Raise if nobody is left to work."""
        if self.runners and not any(runner.works for runner in self.runners):
            words = next((r.last_words for r in self.runners if r.state is State.FAILED), "")
            raise SessionLockError(
                f"no runner is left: {words.strip().splitlines()[-1] if words.strip() else 'all were killed'}"
            )
