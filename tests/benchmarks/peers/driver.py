"""A peer as the benchmarks see it: the same few calls for all of them.

    await peer.install()                               # once
    await peer.prepare(dsn)                            # in an empty database, one for each cell
    seconds = await peer.enqueue(dsn, tasks)
    async with peer.drain(dsn, tasks) as go:           # connected, and it waits
        drained = await go()                           # until all are durably finished

    await peer.prepare(dsn)                            # in another one
    milliseconds = await peer.latency(dsn, samples)

Each call but `install` is a process of its own in the peer's environment; whatever ends the call, it ends the process. What the
server spends is for the caller to measure, around the calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.environments import CACHE, is_made, make_environment, version_in
from tests.benchmarks.peers.processes import PeerError, running

ADAPTERS = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class Drained:
    seconds: float
    """From the go to the moment at which the last task was durably finished."""

    client_cpu: float
    """Seconds of user and system time in the meantime."""

    rss_bytes: int
    """The most that the process has had."""


@dataclass(frozen=True)
class Peer:
    name: str
    """As on PyPI; its adapter is `adapters/for_NAME.py`."""

    settings: Mapping[str, Any]
    """The best of those that are documented."""

    swept: Mapping[str, tuple[Any, ...]]
    """What the settings were chosen from, one by one, by `python -m tests.benchmarks.peers.sweep`."""

    tasks: int
    """So many that a drain takes some seconds."""

    when_idle: Mapping[str, Any] = field(default_factory=dict)
    """Other settings for the latency, where those that drain fastest are not the best."""

    requirements: tuple[str, ...] = ()
    """What is installed."""

    python: tuple[int, int] = (3, 11)
    """The lowest that it runs on."""

    patience: float = 120.0
    """Seconds for a call."""

    adapters: Path = field(default=ADAPTERS, repr=False)
    cache: Path = field(default=CACHE, repr=False)

    @property
    def installed(self) -> bool:
        return is_made(self._environment, self.requirements)

    @property
    def version(self) -> str:
        """That is installed."""
        return version_in(self._environment, self.name)

    @property
    def _environment(self) -> Path:
        return self.cache / self.name

    async def install(self) -> None:
        """Make its environment, unless it is there. Raises PeerError with the reason if that fails."""
        try:
            await make_environment(self._environment, self.python, self.requirements)
        except PeerError as error:
            raise PeerError(f"{self.name} does not install: {error}") from None

    async def prepare(self, dsn: str) -> None:
        async with self._asked("prepare", dsn) as answer:
            await answer()

    async def enqueue(self, dsn: str, tasks: int) -> float:
        """Seconds."""
        async with self._asked("enqueue", dsn, tasks=tasks) as answer:
            return float((await answer())["seconds"])

    @asynccontextmanager
    async def drain(self, dsn: str, tasks: int) -> AsyncIterator[Callable[[], Awaitable[Drained]]]:
        """Drain so many that are enqueued, when what this yields is called."""
        async with self._asked("drain", dsn, tasks=tasks) as answer:
            await answer()

            async def go() -> Drained:
                taken = await answer("go")
                return Drained(taken["seconds"], taken["cpu"], taken["rss"])

            yield go

    async def latency(self, dsn: str, samples: int) -> list[float]:
        """Milliseconds from before a task is enqueued to the start of its body, on an idle system, one by one."""
        idle = replace(self, settings={**self.settings, **self.when_idle})
        async with idle._asked("latency", dsn, samples=samples) as answer:
            return list((await answer())["milliseconds"])

    @asynccontextmanager
    async def _asked(self, verb: str, dsn: str, **more: int) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
        """Its process; what this yields tells it a line, if there is one to tell, and gives its next answer."""
        command = (self._environment / "bin" / "python", self.adapters / f"for_{self.name}.py")
        # With no settings but ours: there are peers that read the environment, and files where they are.
        async with running(*command, cwd=self._environment, env={}) as process:
            await process.tell(
                json.dumps({"verb": verb, "dsn": dsn, "settings": dict(self.settings), **more})
            )

            async def answer(line: str | None = None) -> Any:
                try:
                    async with asyncio.timeout(self.patience):
                        if line:
                            await process.tell(line)
                        return json.loads(await process.answer())
                except TimeoutError:
                    raise PeerError(f"{self.name}: no {verb} within {self.patience:g} s") from None
                except PeerError as error:
                    raise PeerError(f"{self.name}: no {verb}: {error}") from None

            yield answer
