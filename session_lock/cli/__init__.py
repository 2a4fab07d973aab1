"""`session-lock`: the mappings' SQL printed, applied, compared and looked at; and the demo."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from session_lock.cli import bench, deploy, doctor, operating, requests, run, sessions, sql, status, why
from session_lock.cli.common import Commands, complain, library_version, with_target
from session_lock.cli.top.command import add_parsers as add_top
from session_lock.errors import SessionLockError

FAILED = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for what `check` or `doctor` found, 2 for an error, 130 for Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = argparse.Namespace()
    try:
        arguments = _parse(words)
        status: int = arguments.run(arguments)
    except SystemExit as ending:  # argparse has said what is wrong, or what was asked for
        return ending.code if isinstance(ending.code, int) else FAILED
    except SessionLockError as error:
        complain(with_target(str(error), arguments))
        return FAILED
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _parser(with_demo=words[:1] == ["demo"])
    arguments, rest = parser.parse_known_args(words)
    if "rest" in arguments:
        arguments.rest = (
            rest + arguments.rest
        )  # argparse does not leave an option to REMAINDER that comes first
    elif "keys" in arguments and not any(word.startswith("-") for word in rest):
        arguments.keys += rest  # argparse does not see them behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _parser(*, with_demo: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="session-lock", description="The SQL of your task tables, and how they are doing."
    )
    parser.add_argument("--version", action="version", version=f"session-lock {library_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    sql.add_parser(commands)
    deploy.add_parsers(commands)
    run.add_parser(commands)
    requests.add_parsers(commands)
    sessions.add_parsers(commands)
    operating.add_parsers(commands)
    why.add_parsers(commands)
    add_top(commands)
    doctor.add_parsers(commands)
    status.add_parser(commands)
    bench.add_parser(commands)
    if with_demo:
        _add_demo(commands)
    else:
        commands.add_parser("demo", help="see it work, on an embedded PostgreSQL")
    return parser


def _add_demo(commands: Commands) -> None:
    """Imported only when asked for: it needs an extra."""
    try:
        demo = importlib.import_module("session_lock.cli.demo.command")
    except ImportError as error:
        raise SessionLockError(
            f"the demo needs more than is installed ({error}): pip install 'session-lock[demo]'"
        ) from error
    demo.add_parser(commands)
    commands.choices["demo"].set_defaults(run=demo.run)
