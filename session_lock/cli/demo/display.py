"""What is shown while the demo runs: a table that moves on a terminal, lines elsewhere, nothing with --json."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live as LiveRegion
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from session_lock.cli.common import say
from session_lock.cli.demo.cast import Cast, RunnerProcess, State
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.stage import Place
from session_lock.cli.demo.watch import Seen, SeenSession, Watch

FRAME = 0.125
LINE = 1.0
EVENTS = 9
"""On the screen at once, at most: all there are in an undisturbed demo."""

STYLES = {
    State.RUNNING: "green",
    State.KILLED: "bold red",
    State.FROZEN: "bold cyan",
    State.THAWED: "yellow",
    State.STOPPED: "dim",
    State.FAILED: "bold red",
}


def terminal() -> bool:
    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


class Display(Protocol):
    """Shows `opening` and then, as a block, what happens."""

    def opening(self, *lines: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def event(self, text: str) -> None: ...
    async def run(self, plan: Plan, cast: Cast, watch: Watch) -> None: ...


class Silent:
    """Shows nothing."""

    def opening(self, *lines: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def event(self, text: str) -> None:
        pass

    async def run(self, plan: Plan, cast: Cast, watch: Watch) -> None:  # noqa: ARG002
        await asyncio.Event().wait()


class Plain(Silent):
    """A line a second, and one for each event."""

    _began: float | None = None

    def opening(self, *lines: str) -> None:
        for text in lines:
            line(text)

    def event(self, text: str) -> None:
        line(self.timed(text))

    def timed(self, text: str) -> str:
        """With the seconds since the beginning."""
        return f"{self._time():5.1f} s  {text}"

    def begin(self) -> None:
        """Time runs from here on, or from where it has begun."""
        self._began = self._began or asyncio.get_running_loop().time()

    async def run(self, plan: Plan, cast: Cast, watch: Watch) -> None:
        self.begin()
        while True:
            await asyncio.sleep(LINE)
            runners = "  ".join(f"{each.name} {_one_word(each, watch)}" for each in cast.runners)
            finished = f"{watch.now.finished} of {plan.tasks} finished, {watch.rate(lambda seen: seen.finished):.0f}/s"
            servers = "".join(f"  {place.name} {_rate_or_stopped(place, watch)}" for place in _servers(watch))
            line(f"{self._time():5.1f} s  {finished}  {runners}{servers}")

    def _time(self) -> float:
        now = asyncio.get_running_loop().time()
        return now - (self._began or now)


class Live:
    """A table of the runners, a bar for the whole and the events, drawn anew eight times a second."""

    def __init__(self) -> None:
        self._region = LiveRegion(auto_refresh=False)
        self._events: deque[str] = deque(maxlen=EVENTS)
        self._began: float | None = None
        self._last: tuple[Plan, Cast, Watch] | None = None

    def opening(self, *lines: str) -> None:
        for text in lines:
            line(text)

    def __enter__(self) -> Self:
        self._region.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._draw(*self._last)  # as it was at the end
        self._region.__exit__(None, None, None)

    def event(self, text: str) -> None:
        self._events.append(f"{self._time():5.1f} s  {text}")

    async def run(self, plan: Plan, cast: Cast, watch: Watch) -> None:
        self._began = asyncio.get_running_loop().time()
        self._last = plan, cast, watch
        while True:
            self._draw(plan, cast, watch)
            await asyncio.sleep(FRAME)

    def _time(self) -> float:
        now = asyncio.get_running_loop().time()
        return now - (self._began or now)

    def _draw(self, plan: Plan, cast: Cast, watch: Watch) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for heading in ("runner", "state"):
            table.add_column(heading)
        for heading in ("session", "share", "held", "finished", "rate"):
            table.add_column(heading, justify="right", min_width=8)
        for runner in cast.runners:
            table.add_row(*_cells(runner, watch))
        for place in _servers(watch):
            table.add_row(*_cells_of_server(place, watch))
        done = watch.now.finished
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=plan.tasks, completed=done, width=40),
            f"{done} of {plan.tasks}",
            f"{watch.rate(lambda seen: seen.finished):.0f}/s",
            f"{self._time():.0f} s",
        )
        self._region.update(Group("", table, "", bar, "", *map(Text, self._events)), refresh=True)


def line(text: str) -> None:
    say(text)
    sys.stdout.flush()


def _servers(watch: Watch) -> Sequence[Place]:
    """Of the only one there is nothing to be said that is not said of the whole."""
    return watch.places if len(watch.places) > 1 else ()


def _state(runner: RunnerProcess, watch: Watch) -> str:
    if runner.state is State.RUNNING and not watch.now.of(runner.pid):
        return "starting"
    return runner.state.value


def _cells(runner: RunnerProcess, watch: Watch) -> list[Text | str]:
    sessions = watch.now.of(runner.pid)
    state = Text(_state(runner, watch), STYLES[runner.state])
    if not sessions:
        return [runner.name, state]
    latest = {session.database: session for session in sessions}.values()
    return [
        runner.name,
        state,
        " ".join(str(session.id) for session in latest),
        " ".join(str(_share(session, runner)) for session in latest if not session.ended),
        *_counts(watch, lambda seen: seen.of(runner.pid)),
    ]


def _share(session: SeenSession, runner: RunnerProcess) -> int:
    share = runner.report.shares.get(session.database)
    return session.capacity if share is None else share


def _cells_of_server(place: Place, watch: Watch) -> list[Text | str]:
    state = Text("up", "green") if place.up else Text("stopped", "bold red")
    return [f"server {place.name}", state, "", "", *_counts(watch, lambda seen: seen.at(place.name).sessions)]


def _counts(watch: Watch, sessions: Callable[[Seen], Iterable[SeenSession]]) -> list[Text | str]:
    """Held, finished and the rate."""

    def finished(seen: Seen) -> int:
        return sum(session.finished for session in sessions(seen))

    held = sum(session.held for session in sessions(watch.now))
    return [str(held), str(finished(watch.now)), f"{watch.rate(finished):.0f}/s"]


def _rate_or_stopped(place: Place, watch: Watch) -> str:
    return f"{watch.rate(lambda seen: seen.at(place.name).finished):.0f}/s" if place.up else "is stopped"


def _one_word(runner: RunnerProcess, watch: Watch) -> str:
    held = sum(session.held for session in watch.now.of(runner.pid))
    return f"{_state(runner, watch)}, holds {held}"
