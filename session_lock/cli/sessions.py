"""`sessions`: who shares the tasks of a mapping, and why nobody got more."""

from __future__ import annotations

import argparse
import json

from session_lock.cli.common import Commands, add_mapping_arguments, say, say_table, with_database
from session_lock.explaining import as_json, shares


def add_parsers(commands: Commands) -> None:
    shower = commands.add_parser(
        "sessions", help="show what each session holds and may hold, and why it got no more"
    )
    add_mapping_arguments(shower)
    shower.add_argument("--json", action="store_true", help="a list of objects, for machines")
    shower.set_defaults(run=_sessions)


def _sessions(arguments: argparse.Namespace) -> int:
    rows = [as_json(each) for each in with_database(arguments, shares)]
    if arguments.json:
        say(json.dumps(rows, indent=2))
    elif not rows:
        say("No session is there: no Runner of this mapping runs.")
    else:
        columns = ("session", "label", "state", "capacity", "target", "held", "running", "unstarted")
        say_table([{name: str(row[name]) for name in columns} for row in rows])
        for row in rows:
            say(f"{row['session']}: {row['why']}.")
    return 0
