"""`doctor`: what is wrong around a mapping, and what mends it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from session_lock.cli.common import (
    Commands,
    add_mapping_arguments,
    connect,
    find_dsn,
    printable,
    say,
    with_database,
    with_target,
)
from session_lock.doctor import LOOKS, Finding, doctor
from session_lock.dsn import describe
from session_lock.names import quote_name
from session_lock.server import Wanted
from session_lock.table import TaskTable

STATUS = {"error": 2, "warning": 1}
"""The exit status, by the worst that is found; nothing and notes are 0."""


def add_parsers(commands: Commands) -> None:
    looker = commands.add_parser(
        "doctor",
        help="say what is wrong, and what mends it: check, and how the server treats it; 1 for warnings, 2 for errors",
    )
    add_mapping_arguments(looker)
    looker.add_argument(
        "--service",
        metavar="DSN",
        help="how the service connects, if otherwise: as its role, through its pooler",
    )
    looker.add_argument(
        "--listen",
        metavar="DSN",
        help="how it listens for wake-ups, if not as it connects (PostgresDatabase(listen=))",
    )
    looker.add_argument("--role", metavar="ROLE", help="the service's role, if --service does not say it")
    looker.add_argument("--json", action="store_true", help="a list of objects, for machines")
    looker.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    service = arguments.service or find_dsn(arguments.dsn)
    listen = arguments.listen or service
    for dsn in (service, listen):
        describe(dsn)

    async def work(connection: Any, table: TaskTable) -> Sequence[Finding]:
        wanted = Wanted(table.name, quote_name(table.schema), table, "")
        ways = {"connect": partial(connect, service), "listen": partial(connect, listen)}
        return await doctor(connection, wanted, **ways, role=arguments.role)

    found = with_database(arguments, work)
    if arguments.json:
        say(json.dumps([each.as_json() for each in found], indent=2))
    else:
        for each in found:
            lines = [f"{each.severity}: {each.text}", *([f"  {each.remedy}"] if each.remedy else [])]
            for line in lines:
                say(printable(with_target(line, arguments)))
        if not found:
            say(f"Nothing is wrong. Looked at: {', '.join(LOOKS)}.")
    return max((STATUS.get(each.severity, 0) for each in found), default=0)
