"""Processes that start within milliseconds: forked off one that has imported what they need, and killed by it.

The test talks to that one by lines of JSON; when it hears no more it kills what is left, so nothing outlives the test.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Forks:
    """As the test sees them."""

    def __init__(self, mother: asyncio.subprocess.Process) -> None:
        self._mother = mother
        self._asking = asyncio.Lock()
        self.alive: list[int] = []
        """The oldest first."""

    async def start(self, **part: Any) -> int:
        pid = await self._ask({"start": part})
        self.alive.append(pid)
        return pid

    async def kill(self, pid: int) -> None:
        """SIGKILL; fails if it had ended by itself."""
        self.alive.remove(pid)
        status = await self._ask({"kill": pid})
        assert os.WIFSIGNALED(status), f"{pid} has ended by itself: {status}"
        assert os.WTERMSIG(status) == signal.SIGKILL, f"{pid} has ended by itself: {status}"

    async def has_ended(self, pid: int) -> bool:
        """Whether it was killed, but not by us."""
        ended = bool(await self._ask({"look": pid}))
        if ended:
            self.alive.remove(pid)
        return ended

    async def _ask(self, wish: dict[str, Any]) -> int:
        async with self._asking:
            self._mother.stdin.write(json.dumps(wish).encode() + b"\n")
            return int(await self._mother.stdout.readline())


@asynccontextmanager
async def forks(module: str) -> AsyncIterator[Forks]:
    """`python -m module` must come to `be_mother(main)`."""
    mother = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT, stdin=PIPE, stdout=PIPE, process_group=0
    )
    try:
        yield Forks(mother)
    finally:
        mother.stdin.close()
        await mother.wait()


def be_mother(main: Callable[..., Awaitable[None]]) -> None:
    """Fork a process for each start that is asked for, which runs `main(**part)`."""
    gc.freeze()  # so that no child copies the pages of what it does not use
    children: set[int] = set()
    while line := sys.stdin.readline():
        match json.loads(line):
            case {"start": part}:
                if (answer := os.fork()) == 0:
                    _be_child(main, part)
                children.add(answer)
            case {"kill": answer}:
                children.remove(answer)
                answer = _end(answer)
            case {"look": pid}:
                answer = os.waitpid(pid, os.WNOHANG)[0]
                children.discard(answer)
        print(answer, flush=True)
    for pid in children:
        _end(pid)


def _be_child(main: Callable[..., Awaitable[None]], part: dict[str, Any]) -> None:
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    random.seed()  # not that of its siblings
    try:
        asyncio.run(main(**part))
    finally:
        os._exit(1)


def _end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
