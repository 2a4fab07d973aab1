"""`session-lock demo`: runners that share a table of files, while one of them is killed and one is frozen.

From the command to its verdict, in the order in which things happen: here, `demo_table` (what is to be done),
`demo_cast` and `demo_runner` (the processes that do it), `demo_director` (what befalls them), `demo_watch` and
`demo_display` (what is seen of it), `demo_verdict` (what came of it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

from session_lock.cli.common import Commands, complain, say
from session_lock.cli.demo_cast import Cast
from session_lock.cli.demo_director import Plan, play
from session_lock.cli.demo_display import Display, Live, Plain, Silent, terminal
from session_lock.cli.demo_table import (
    RUNNER_ROLE,
    Access,
    Listing,
    demo_schema,
    list_files,
    standard_library,
)
from session_lock.cli.demo_verdict import Verdict, judge
from session_lock.cli.demo_watch import Watch, alongside
from session_lock.embedded import temp_postgres

T = TypeVar("T")

INTERRUPTED = 130
MOST_RUNNERS = 20


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="see it work, on an embedded PostgreSQL",
        description="Several runner processes compute the SHA-256 of the files of Python's standard library. Part of the way "
        "one is killed and one is frozen; the others take over. At the end it is checked that every file was finished once.",
    )
    parser.add_argument("--runners", metavar="N", type=_runners, default=3, help="processes; defaults to 3")
    parser.add_argument(
        "--dir", metavar="PATH", type=Path, help="the files below PATH, not those of the standard library"
    )
    parser.add_argument("--tasks", metavar="N", type=_at_least_one, help="the first N files only")
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=_seconds,
        help="what the work is paced to take, were nobody killed or frozen; defaults to 25, or 8 with --no-kill --no-freeze",
    )
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="kill none")
    parser.add_argument("--no-freeze", dest="freeze", action="store_false", help="freeze none")
    parser.add_argument(
        "--dsn", help="use this server; its schema session_lock_demo is made, and dropped at the end"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the outcome as one object, and nothing else"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if every task was finished once, with the right digest; 1 if not; 130 if interrupted. Nothing is left behind."""
    display: Display = Silent() if arguments.json else Live() if terminal() else Plain()
    files = list_files(arguments.dir or standard_library(), most=arguments.tasks)
    seconds = arguments.seconds or (25.0 if arguments.kill or arguments.freeze else 8.0)
    plan = Plan(arguments.runners, len(files), seconds, kill=arguments.kill, freeze=arguments.freeze)
    display.opening(plan, files.root)

    with Interruption() as interruption, ExitStack() as stack:
        # Blocks, so it cannot be cancelled, only waited for (about a second).
        access = Access(arguments.dsn) if arguments.dsn else _embedded(stack)
        verdict = interruption.run(lambda: perform(plan, files, access, display))
    if verdict is None:
        complain("interrupted: runners, tables and server are gone")
        return INTERRUPTED
    if arguments.json:
        say(json.dumps(verdict.to_json()))
    else:
        say("\n".join(["", *verdict.sentences()]))
    return 0 if verdict.good else 1


def _embedded(stack: ExitStack) -> Access:
    server = stack.enter_context(temp_postgres())
    return Access.with_role_for_runners(f"{server.dsn}?sslmode=disable", RUNNER_ROLE)


async def perform(plan: Plan, files: Listing, access: Access, display: Display) -> Verdict:
    """Make the table, let the runners do the work, judge it from outside, and take everything down again."""
    async with (
        demo_schema(access, files) as connection,
        Watch(access) as watch,
        Cast(access.runner_dsn, plan.pause, plan.batch_size) as cast,
    ):
        with display:
            await alongside(
                play(plan, cast, watch, display.event), watch.run(), display.run(plan, cast, watch)
            )
        return await judge(connection, files, cast, watch)


# Interruptions -------------------------------------------------------------------------------------


class Interruption:
    """Ctrl-C, SIGTERM or a closed terminal, for the length of a block: noted, and acted upon where it is safe.

    An exception out of a signal handler may come between any two lines, also between making a folder and entering the
    block that removes it. So the handler only takes a note and cancels the asyncio task, if one is at work.
    """

    def __init__(self) -> None:
        self._noted = False
        self._cancel: Callable[[], object] | None = None
        self._restoring = ExitStack()

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (before := signal.getsignal(number)) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._note)
                self._restoring.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._restoring.close()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if not self._noted and self._cancel is not None:  # a second one would end the cleaning up
            self._cancel()
        self._noted = True

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """`asyncio.run(work())`, or None if it was interrupted; it has been cancelled and has cleaned up then."""

        async def cancellable() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
            try:
                if self._noted:
                    raise asyncio.CancelledError
                return await work()
            finally:
                self._cancel = None

        try:
            return asyncio.run(cancellable())
        except asyncio.CancelledError:
            return None


# Words of the command line -------------------------------------------------------------------------


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _runners(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_RUNNERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST_RUNNERS}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return seconds
