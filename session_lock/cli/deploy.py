"""`install`, `check`, `peek`, `prune` and `adopt`: a mapping and the database that it is, or shall be, in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from session_lock.cli.common import (
    Commands,
    add_mapping_arguments,
    at_least_one,
    load_mapping,
    refuse_if,
    say,
    say_table,
    with_database,
    with_target,
)
from session_lock.migrations import adopt, check, install, peek, pending_summary, prune, tune, validate
from session_lock.migrations.adoption import copy_of
from session_lock.migrations.advice import other_table
from session_lock.migrations.sandbox import Connection
from session_lock.table import TaskTable


def add_parsers(commands: Commands) -> None:
    installer = commands.add_parser("install", help="apply a mapping's SQL, once it is agreed to")
    add_mapping_arguments(installer)
    installer.add_argument(
        "--grant-to", metavar="ROLE", help="also let a service's role execute the functions"
    )
    installer.add_argument(
        "--tune",
        action="store_true",
        help="also set those of the table's storage parameters that nobody has set",
    )
    installer.add_argument("--yes", action="store_true", help="do not ask")
    installer.set_defaults(run=_install)

    checker = commands.add_parser(
        "check", help="compare the database with what would be installed now; 1 if it differs"
    )
    add_mapping_arguments(checker)
    checker.add_argument("--role", metavar="ROLE", help="and whether a service's role may do what it needs")
    checker.set_defaults(run=_check)

    peeker = commands.add_parser("peek", help="show the tasks that would run next, claiming none")
    add_mapping_arguments(peeker)
    peeker.add_argument(
        "--limit", metavar="N", type=at_least_one, default=10, help="how many at most; defaults to 10"
    )
    peeker.set_defaults(run=_peek)

    pruner = commands.add_parser(
        "prune", help="drop the functions and indexes of a mapping's earlier versions, and old records"
    )
    add_mapping_arguments(pruner)
    pruner.set_defaults(run=_prune)

    adopter = commands.add_parser("adopt", help="let the tasks of a database that is a copy be run in it")
    add_mapping_arguments(adopter)
    adopter.add_argument("--yes", action="store_true", help="do not ask")
    adopter.set_defaults(run=_adopt)


def _install(arguments: argparse.Namespace) -> int:
    _refuse_to_ask_nobody("install", arguments)

    async def look(connection: Connection, table: TaskTable) -> tuple[str, str, list[str]]:
        await validate(connection, table)
        notes = [str(each) for each in await other_table(connection, table)]
        return table.name, str(await pending_summary(connection, table)), notes

    async def apply(connection: Connection, table: TaskTable) -> list[str]:
        done = await install(connection, table, grant_to=arguments.grant_to)
        return [*done, *(await tune(connection, table) if arguments.tune else [])]

    name, pending, notes = with_database(arguments, look)
    say(f"{pending}.")
    for text in notes:
        say(f"note: {text}")
    # Asked outside of the event loop, where Ctrl-C ends the question, and with no connection open meanwhile.
    if not _agreed(f"Install {name!r} now? Runners will take these rows. [y/N] ", arguments):
        return 1
    _say_all(with_database(arguments, apply), "Everything was there already.")
    return 0


def _refuse_to_ask_nobody(command: str, arguments: argparse.Namespace) -> None:
    load_mapping(arguments.mapping)  # what is wrong with that is told first
    refuse_if(
        not arguments.yes and not sys.stdin.isatty(),
        f"{command} asks before it changes anything, and nobody is here to answer: add --yes",
    )


def _agreed(question: str, arguments: argparse.Namespace) -> bool:
    if arguments.yes:
        return True
    try:
        agreed = input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        agreed = False
    if not agreed:
        say("Nothing was changed.")
    return agreed


def _check(arguments: argparse.Namespace) -> int:
    async def work(connection: Connection, table: TaskTable) -> tuple[str, list[str], list[str]]:
        found = await check(connection, table, role=arguments.role)
        return (
            table.name,
            [str(each) for each in found if not each.note],
            [str(each) for each in found if each.note],
        )

    name, differences, notes = with_database(arguments, work)
    for text in differences:
        say(with_target(f"difference: {text}", arguments))
    for text in notes:
        say(with_target(f"note: {text}", arguments))
    if not differences:
        say(f"{name!r} is installed as it should be.")
    return 1 if differences else 0


def _peek(arguments: argparse.Namespace) -> int:
    async def work(connection: Connection, table: TaskTable) -> Sequence[Mapping[str, Any]]:
        return await peek(connection, table, arguments.limit)

    rows = with_database(arguments, work)
    if not rows:
        say("No task would run now.")
        return 0
    say_table(rows)
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    _say_all(with_database(arguments, prune), "There was nothing to prune.")
    return 0


def _adopt(arguments: argparse.Namespace) -> int:
    _refuse_to_ask_nobody("adopt", arguments)

    async def look(connection: Connection, table: TaskTable) -> tuple[str | None, str]:
        return await copy_of(connection, table), str(await pending_summary(connection, table))

    original, pending = with_database(arguments, look)
    if original is None:
        say("This database is no copy: there is nothing to adopt.")
        return 0
    say(f"This is a copy of {original}. {pending}.")
    if not _agreed(
        "Adopt it now? Runners here will take these rows, and those of other mappings. [y/N] ", arguments
    ):
        return 1
    with_database(arguments, adopt)
    say("It is adopted: its tasks are run here from now on.")
    return 0


def _say_all(sentences: Sequence[str], otherwise: str) -> None:
    for text in sentences or [otherwise]:
        say(f"{text[:1].upper()}{text[1:].rstrip('.')}.")
