"""`pause`, `resume` and `drain`: what all sessions of a mapping are asked, or one of them."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

from session_lock.catalog import Connection
from session_lock.cli.common import Commands, add_mapping_arguments, say, with_database
from session_lock.names import quote_name
from session_lock.operating import drain, is_session, pause, resume
from session_lock.table import TaskTable, install_command


def add_parsers(commands: Commands) -> None:
    pauser = commands.add_parser("pause", help="let no session begin a task any more; what runs goes on")
    add_mapping_arguments(pauser)
    pauser.set_defaults(run=_pause)

    resumer = commands.add_parser("resume", help="let them go on")
    add_mapping_arguments(resumer)
    resumer.set_defaults(run=_resume)

    drainer = commands.add_parser(
        "drain", help="have the Runner of one session stop gracefully; 1 if it does not live"
    )
    add_mapping_arguments(drainer)
    drainer.add_argument(
        "session", metavar="SESSION", type=_session, help="its id, as in session-lock sessions"
    )
    drainer.set_defaults(run=_drain)


def _session(text: str) -> int:
    if not text.isdecimal() or not is_session(int(text)):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no id of a session: session-lock sessions shows them"
        )
    return int(text)


def _pause(arguments: argparse.Namespace) -> int:
    is_new = _ask(arguments, pause)
    say(
        "It is paused: no session begins a task until session-lock resume."
        if is_new
        else "It was paused already."
    )
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    say("It is resumed." if _ask(arguments, resume) else "It was not paused.")
    return 0


def _drain(arguments: argparse.Namespace) -> int:
    session: int = arguments.session
    if _ask(arguments, drain, session):
        say(
            f"Session {session} is asked to drain: it takes no more tasks, and ends when those that run have ended."
        )
        return 0
    say(f"No session {session} of this mapping lives.")
    return 1


def _ask(arguments: argparse.Namespace, ask: Callable[..., Awaitable[bool]], *more: object) -> bool:
    async def work(connection: Connection, table: TaskTable) -> bool:
        return await ask(connection, quote_name(table.schema), table.name, install_command(table), *more)

    return with_database(arguments, work)
