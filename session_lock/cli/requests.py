"""`cancel`, `parked` and `retry`: single tasks of a mapping, for the people who look after them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from session_lock.cli.common import (
    Commands,
    add_mapping_arguments,
    at_least_one,
    printable,
    refuse_if,
    say,
    say_table,
    with_database,
)
from session_lock.migrations import cancel, parked, retry
from session_lock.migrations.requests import missing
from session_lock.migrations.sandbox import Connection
from session_lock.table import TaskTable

BECAME = {
    "discarded": "The task is discarded.",
    "parked": "The task is parked: the mapping has no discard.",
    "asked": "A Runner holds the task and was asked to cancel it: it hears so at its next keepalive.",
    "closed": "The task was not pending: nothing was done.",
    "unknown": "There is no such task.",
    "locked": "Somebody's transaction has the row locked: nothing was done, try again.",
}
SETTLED = {"discarded", "parked", "asked"}


def add_parsers(commands: Commands) -> None:
    canceller = commands.add_parser(
        "cancel", help="a task is not to be done any more: discard it, or cancel its run"
    )
    add_mapping_arguments(canceller)
    canceller.add_argument("key", metavar="KEY", help="of the task, as it stands in the table")
    canceller.set_defaults(run=_cancel)

    lister = commands.add_parser(
        "parked", help="show the tasks that are out of attempts, and what went wrong last"
    )
    add_mapping_arguments(lister)
    lister.add_argument(
        "--limit", metavar="N", type=at_least_one, default=10, help="how many at most; defaults to 10"
    )
    lister.set_defaults(run=_parked)

    retrier = commands.add_parser("retry", help="let parked tasks run again, with all their attempts")
    add_mapping_arguments(retrier)
    retrier.add_argument("keys", metavar="KEY", nargs="*", help="of parked tasks")
    retrier.add_argument(
        "--all", action="store_true", help="all that are parked, discarded and cancelled ones too"
    )
    retrier.set_defaults(run=_retry)


def _cancel(arguments: argparse.Namespace) -> int:
    outcome = with_database(arguments, lambda connection, table: cancel(connection, table, arguments.key))
    say(BECAME[outcome])
    return 0 if outcome in SETTLED else 1


def _parked(arguments: argparse.Namespace) -> int:
    limit: int = arguments.limit
    rows = with_database(arguments, lambda connection, table: parked(connection, table, limit + 1))
    if rows:
        say_table(rows[:limit])
        if len(rows) > limit:
            say("There are more: say --limit.")
    else:
        say("No task is parked.")
    return 0


def _retry(arguments: argparse.Namespace) -> int:
    refuse_if(bool(arguments.keys) == arguments.all, "name the keys of parked tasks, or say --all")
    keys = None if arguments.all else arguments.keys

    async def work(connection: Connection, table: TaskTable) -> tuple[Sequence[str], Sequence[str]]:
        done = await retry(connection, table, keys)
        named = list(dict.fromkeys(keys or ()))
        return done, await missing(connection, table, named) if len(done) < len(named) else ()

    done, nowhere = with_database(arguments, work)
    for key in done:
        say(key)
    if keys is None or len(done) == len(set(keys)):
        say(f"{len(done)} task{'' if len(done) == 1 else 's'} will be tried again.")
        return 0
    why = [
        *([f"there is no row {', '.join(nowhere)}"] if nowhere else []),
        *(["the others are not parked"] if len(done) + len(nowhere) < len(set(keys)) else []),
    ]
    say(printable(f"{len(done)} of {len(set(keys))} tasks will be tried again: {'; '.join(why)}."))
    return 1
