"""The demo as `session-lock top` shows it (`--watch`)."""

from __future__ import annotations

import asyncio
import signal

from session_lock import TaskTable
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.display import Plain, line
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.watch import Watch
from session_lock.cli.top.app import Top
from session_lock.cli.top.source import Source


class ThroughTop(Plain):
    """`top` on the demo's table, of the first database where there are several, as long as it is not left. What happens stands in its
    last line, and is told in order once the screen is back.
    """

    def __init__(self, table: TaskTable) -> None:
        self._table = table
        self._top: Top | None = None
        self._untold: list[str] = []

    def __exit__(self, *_: object) -> None:
        for text in self._untold:
            line(text)
        self._untold.clear()

    def event(self, text: str) -> None:
        if self._top is None:
            super().event(text)
        else:
            self._untold.append(self.timed(text))
            self._top.event(text)

    async def run(self, plan: Plan, cast: Cast, watch: Watch) -> None:
        self.begin()
        async with Source(watch.places[0].access.dsn, self._table) as source:
            # Ctrl-C is a key here: it is to do what it does without top.
            self._top = Top(source, interrupt=lambda _: signal.raise_signal(signal.SIGINT))
            shown = asyncio.create_task(self._top.run_async())
            try:
                await asyncio.shield(shown)
            except asyncio.CancelledError:  # the demo is over: first the terminal is to be as it was
                self._top.exit()
                await shown
                raise
        self._top = None
        self.__exit__()
        await super().run(plan, cast, watch)
