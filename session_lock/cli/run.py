"""`run`: a Runner, or a group of them, as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import signal
from typing import Any

from session_lock.cli.common import Commands, load
from session_lock.contrib.running import KINDS, made, what_else
from session_lock.errors import SettingsError
from session_lock.wording import describe

logger: logging.Logger = logging.getLogger("session_lock.cli")


def add_parser(commands: Commands) -> None:
    starter = commands.add_parser(
        "run", help="run a Runner, or a group of them, as a process of its own, until SIGTERM or Ctrl-C"
    )
    starter.add_argument(
        "runner",
        metavar="MODULE:ATTR",
        help=f"{KINDS}, such as myapp.jobs:runner",
    )
    starter.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found = load(arguments.runner, "a Runner", lambda _: f"write one there: {KINDS}")
    if other := what_else(found):
        raise SettingsError(f"{arguments.runner} is to be {KINDS}, not {other}")
    logging.basicConfig(level=logging.INFO)  # unless the module has set its own up
    signals: list[int] = []
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as loop:
            loop.run(_until_signal(arguments.runner, found, signals))
    except asyncio.CancelledError:
        if not signals:  # it comes from what is run
            raise
        if signals[0] == signal.SIGINT:
            raise KeyboardInterrupt from None
    return 0


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed, and the module has no policy of its own."""
    if type(asyncio.get_event_loop_policy()) is not asyncio.DefaultEventLoopPolicy:
        return asyncio.new_event_loop()
    try:
        uvloop: Any = importlib.import_module("uvloop")
        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    except Exception as error:  # noqa: BLE001 (as one that is older than this Python)
        logger.warning("the event loop is not that of uvloop, which fails: %s", describe(error))
        return asyncio.new_event_loop()
    logger.info("the event loop is that of uvloop %s", uvloop.__version__)
    return loop


async def _until_signal(name: str, found: Any, signals: list[int]) -> None:
    """The first signal is a graceful stop, wherever it meets us; the second one cancels the taskers."""
    this = asyncio.current_task()
    assert this is not None

    def hear(number: int) -> None:
        signals.append(number)
        this.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, hear, number)

    def refusal(kind: str, yielded: bool) -> str:
        if yielded:
            return f"{name} yields a {kind}: yield a Runner or a RunnerGroup"
        return f"{name} gives a {kind}: write {KINDS}"

    async with made(found, refusal) as runner:
        await runner.run()
