"""The command `session-lock top`, from its words to its exit status."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from typing import Any

from session_lock.cli.common import Commands, add_mapping_arguments, find_dsn, load_mapping
from session_lock.errors import SessionLockError

INTERRUPTED = 130


def add_parsers(commands: Commands) -> None:
    shower = commands.add_parser(
        "top", help="show sessions, throughput, backlog and failures each second; keys drain, pause, retry"
    )
    add_mapping_arguments(shower)
    shower.set_defaults(run=_top)


def _top(arguments: argparse.Namespace) -> int:
    app, source = (load(f"session_lock.cli.top.{name}") for name in ("app", "source"))
    check_terminal("session-lock sessions, why and doctor print what it shows")
    table = load_mapping(arguments.mapping)
    dsn = find_dsn(arguments.dsn)

    async def show() -> int:
        async with source.Source(dsn, table) as opened:
            await opened.look()  # what is wrong from the start is said as the other commands say it
            top = app.Top(opened, interrupt=lambda top: top.exit(return_code=INTERRUPTED))
            await top.run_async()
            return int(top.return_code or 0)

    return asyncio.run(show())


def load(module: str) -> Any:
    """A module that draws. Only when asked for: it needs an extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SessionLockError(
            f"top needs more than is installed ({error}): pip install 'session-lock[top]'"
        ) from error


def check_terminal(instead: str) -> None:
    """`SessionLockError` where no screen can be drawn. Keys are read from stdin, and the screen is written to stderr."""
    streams = (sys.__stdin__, sys.__stderr__)
    if os.environ.get("TERM") == "dumb" or not all(stream and stream.isatty() for stream in streams):
        raise SessionLockError(f"top needs a terminal, and this is none: {instead}")
