"""`run`: a Runner, or a group of them, as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from typing import Any

from session_lock.block import RunningBlock
from session_lock.cli.common import Commands, load
from session_lock.errors import SettingsError

REMEDY = "a Runner, a RunnerGroup, or a function with @asynccontextmanager that yields one"


def add_parser(commands: Commands) -> None:
    starter = commands.add_parser(
        "run", help="run a Runner, or a group of them, as a process of its own, until SIGTERM or Ctrl-C"
    )
    starter.add_argument(
        "runner",
        metavar="MODULE:ATTR",
        help=f"{REMEDY}, such as myapp.jobs:runner",
    )
    starter.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found = load(arguments.runner, "a Runner", lambda _: f"write one there: {REMEDY}")
    logging.basicConfig(level=logging.INFO)  # unless the module has set its own up
    signals: list[int] = []
    try:
        asyncio.run(_until_signal(arguments.runner, found, signals))
    except asyncio.CancelledError:
        if not signals:  # it comes from what is run
            raise
        if signals[0] == signal.SIGINT:
            raise KeyboardInterrupt from None
    return 0


async def _until_signal(name: str, found: Any, signals: list[int]) -> None:
    """The first signal is a graceful stop, wherever it meets us; the second one cancels the taskers."""
    this = asyncio.current_task()
    assert this is not None

    def hear(number: int) -> None:
        signals.append(number)
        this.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, hear, number)
    made = found() if callable(found) else found
    if isinstance(made, RunningBlock):
        await made.run()
        return
    if not hasattr(made, "__aenter__"):
        raise SettingsError(f"{name} gives a {type(made).__name__}: write {REMEDY}")
    async with made as runner:
        if not isinstance(runner, RunningBlock):
            raise SettingsError(f"{name} yields a {type(runner).__name__}: yield a Runner or a RunnerGroup")
        await runner.run()
