"""`status`: the status page of some mappings, on this machine."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from session_lock.cli.common import Commands, find_dsn, load_mapping, refuse_if, say
from session_lock.cli.serving import address_of, is_installed, listen, serving
from session_lock.dsn import describe
from session_lock.errors import SettingsError
from session_lock.table import TaskTable

PORT = 8421


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "status",
        help="serve a page that shows how mappings are doing, to who sits at this machine",
        description="A page that shows how mappings are doing, for who sits at this machine. It asks nobody who they are, so no proxy may stand before "
        "it (nginx say): mount status_app(.., authorize=) in a service for that, or use a tunnel (ssh -L).",
    )
    parser.add_argument(
        "mappings",
        metavar="MODULE:ATTR",
        nargs="+",
        help="where the TaskTables are, such as myapp.jobs:emails",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="a loopback address; defaults to 127.0.0.1, may be ::1"
    )
    parser.add_argument(
        "--port", metavar="N", type=_port, default=PORT, help=f"defaults to {PORT}; 0 takes a free one"
    )
    parser.add_argument(
        "--dsn", help="postgresql://user:password@host:port/database (else SESSION_LOCK_DSN or DATABASE_URL)"
    )
    parser.set_defaults(run=_status)


def _port(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no port: a number from 0 to 65535")
    return int(text)


def _status(arguments: argparse.Namespace) -> int:
    refuse_if(
        not is_installed(),
        "the status page needs starlette and uvicorn: pip install 'session-lock[status]'",
    )
    from session_lock.contrib.status import status_app  # noqa: PLC0415 (an extra)
    from session_lock.contrib.status.guard import is_loopback  # noqa: PLC0415

    tables: dict[str, TaskTable] = {}
    for name in arguments.mappings:
        table = load_mapping(name)
        refuse_if(table.name in tables, f"two of the mappings are called {table.name!r}: name each once")
        tables[table.name] = table
    dsn = find_dsn(arguments.dsn)
    describe(dsn)
    app = status_app(tables, dsn)
    with listen("127.0.0.1" if arguments.host == "localhost" else arguments.host, arguments.port) as sock:
        if not is_loopback(sock.getsockname()[0]):
            raise SettingsError(
                f"--host {arguments.host} would be seen by others, and this command cannot ask who they are: leave it out and "
                "use a tunnel (ssh -L), or mount status_app(.., authorize=) in a service"
            )
        asyncio.run(_serve(app, sock, list(tables)))
    return 0


async def _serve(app: Any, sock: Any, names: list[str]) -> None:
    async with serving(app, sock):
        say(f"The status page of {', '.join(names)}: {address_of(sock)} (Ctrl-C ends it)")
        sys.stdout.flush()
        await asyncio.Event().wait()
