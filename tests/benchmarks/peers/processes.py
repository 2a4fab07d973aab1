"""Processes that are asked and answer in lines, and of which nothing is left when the block ends that started them."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LONGEST_LINE = 1 << 24

RAISED = re.compile(r"(\w+\.)*\w*(Error|Exception|Interrupt)(: |$)")
"""The line of a traceback that says what it was."""

BESIDE = re.compile(r"\w+: ")
"""What may follow it: hints of the server, and what a loop had left."""


class PeerError(Exception):
    """In one sentence, why there are no figures of a peer."""


@dataclass(frozen=True)
class Process:
    _process: asyncio.subprocess.Process
    _errors: IO[bytes]

    @property
    def pid(self) -> int:
        return self._process.pid

    async def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # what it died of is told by its answer
            self._process.stdin.write(f"{line}\n".encode())
            await self._process.stdin.drain()

    def no_more(self) -> None:
        """It is told nothing from here on."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def answer(self) -> str:
        """Its next line. Raises PeerError with what it complained of if it ends without one."""
        assert self._process.stdout is not None
        if line := await self._process.stdout.readline():
            return line.decode()
        raise PeerError(await self.complaint())

    async def complaint(self) -> str:
        """What it ended with on stderr, in one line; empty when it succeeded."""
        code = await self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").splitlines()
        lines = [line for line in said if line.strip() and not line.startswith("hint:")]
        # What was raised; else the last that is not indented. And what belongs to it.
        begin = [number for number, line in enumerate(lines) if not line.startswith(" ")]
        last = max([number for number in begin if RAISED.match(lines[number])] or begin, default=0)
        belongs = itertools.takewhile(lambda line: not BESIDE.match(line), lines[last + 1 :])
        told = " ".join(line.strip() for line in [*lines[last : last + 1], *belongs]).removeprefix("error: ")
        return "" if code == 0 else told or f"it ended with status {code}"


@asynccontextmanager
async def running(*command: str | Path, cwd: Path, env: Mapping[str, str]) -> AsyncIterator[Process]:
    """In a session of its own, so that the terminal's Ctrl-C comes to us alone, and all of it can be killed."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env=env,
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            start_new_session=True,
            limit=LONGEST_LINE,
        )
        try:
            yield Process(process, errors)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
