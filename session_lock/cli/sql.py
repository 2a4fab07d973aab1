"""`session-lock sql`: a mapping's SQL, to read, commit and run with any migration tool."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from session_lock import queue_table
from session_lock.cli.common import (
    Commands,
    add_mapping_arguments,
    library_version,
    refuse_if,
    say,
    with_database,
)
from session_lock.indexes import index_steps
from session_lock.migrations import validate
from session_lock.migrations.pruning import function_sets
from session_lock.migrations.sandbox import Connection
from session_lock.objects import function_set, has_due_index
from session_lock.schema import DEFAULT_SCHEMA, mapping_files, render, shipped
from session_lock.table import Shape, TaskTable

DUE_INDEX = "tasks.due.index.sql"

NO_WAY_BACK = """-- session_lock: there was another version of the mapping when this was written, whose instances may be at work: the way back of a
-- change does nothing. That of the first migration takes away all versions, as does what `session-lock sql down` prints.
"""

PARTS = {
    "up": "once: the tables of the sessions, and the claim columns",
    "index": "once, outside a transaction: the index of what is pending, and those of limits",
    "due": "if wanted, outside a transaction: the index of when tasks fall due, for an order that does not begin with that",
    "always": "at every deploy, before the new code: the functions",
    "trigger": "on request: a trigger that wakes the Runners at each INSERT into the table",
    "tune": "on request: storage parameters that suit a table whose rows are tasks",
    "down": "takes away what belongs to the mapping, all versions of it",
}


def files_of(part: str, table: TaskTable) -> tuple[str, ...]:
    """A table that the library ships is made before it is a task table, and goes, if it may, before anything else does."""
    match part:
        case "up":
            return ("up.lock.sql", "sessions.up.sql", *shipped(table, "up"), "tasks.up.sql")
        case "index":
            return mapping_files(table, "index")
        case "due":
            return (DUE_INDEX,)
        case "always":
            return ("sessions.alwaysup.sql", *shipped(table, "alwaysup"), *mapping_files(table, "alwaysup"))
        case "trigger" | "trigger.down" | "tune" | "tune.down":
            return (f"tasks.{part}.sql",)
        case "down.all":
            return ("down.lock.sql", *files_of("down", table), "sessions.down.sql")
        case _:
            return (*shipped(table, "down"), *mapping_files(table, "down"))


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("sql", help="print a mapping's SQL, or copy it into a folder of migrations")
    parts = parser.add_subparsers(title="parts", metavar="PART", required=True)
    for part, text in PARTS.items():
        printer = parts.add_parser(part, help=text)
        add_mapping_arguments(printer)
        printer.set_defaults(run=_print, part=part, grant_to=None, quiet=False)
        if part == "always":
            printer.add_argument("--grant-to", metavar="ROLE", help="also let a service's role execute them")
        if part == "trigger":
            printer.add_argument(
                "--quiet", action="store_true", help="silent while no session of the mapping has room"
            )
        if part in {"trigger", "tune"}:
            printer.add_argument(
                "--down", dest="part", action="store_const", const=f"{part}.down", help="the way back instead"
            )
        if part == "down":
            printer.add_argument(
                "--sessions", dest="part", action="store_const", const="down.all",
                help="and then the schema that all mappings share",
            )  # fmt: skip
    maker = parts.add_parser(
        "queue", help="once: a ready-made task table, and all that belongs to it; needs no database"
    )
    maker.add_argument("name", metavar="NAME", help="of the table, such as jobs or myschema.jobs")
    maker.add_argument(
        "--schema", default=DEFAULT_SCHEMA, help="of the sessions and functions; defaults to session_lock"
    )
    maker.add_argument(
        "--grant-to", metavar="ROLE", help="also let a service's role enqueue, and do the tasks"
    )
    maker.set_defaults(run=_print_queue)
    copier = parts.add_parser("copy", help="write all of it as numbered files; none is overwritten")
    copier.add_argument("folder", metavar="DIR", type=Path)
    add_mapping_arguments(copier)
    copier.add_argument(
        "--start", metavar="N", type=_number, required=True, help="the number of the first file"
    )
    copier.add_argument("--grant-to", metavar="ROLE", help="also let a service's role execute the functions")
    copier.add_argument(
        "--dbmate", action="store_true", help="each with its way back in one file, as dbmate reads them"
    )
    copier.set_defaults(run=_copy)


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _print(arguments: argparse.Namespace) -> int:
    async def text(connection: Connection, table: TaskTable) -> str:
        shape = await validate(connection, table)
        return _text(files_of(arguments.part, table), table, shape, arguments.grant_to, quiet=arguments.quiet)

    say(with_database(arguments, text).rstrip("\n"))
    return 0


def _print_queue(arguments: argparse.Namespace) -> int:
    """The table is new, so its indexes need not be built concurrently, and all of it may run in one transaction."""
    given = {} if arguments.schema == DEFAULT_SCHEMA else {"schema": arguments.schema}
    table = queue_table.queue(arguments.name, **given)
    names = (
        "sessions.up.sql", "sessions.alwaysup.sql", *shipped(table, "up"), "tasks.up.sql", *shipped(table, "index"),
        *shipped(table, "alwaysup"), *mapping_files(table, "alwaysup"),
    )  # fmt: skip
    options = "".join(f", {name}={value!r}" for name, value in given.items())
    say(f"-- from session_lock import queue; jobs = queue({arguments.name!r}{options})")
    say(_text(names, table, queue_table.SHAPE, arguments.grant_to).rstrip("\n"))
    return 0


def _text(
    names: tuple[str, ...], table: TaskTable, shape: Shape, grant_to: str | None, *, quiet: bool = False
) -> str:
    if grant_to is not None:
        names = (*names, "grants.sql", *shipped(table, "grants"))
    files: list[str] = []
    for name in names:
        if name in mapping_files(table, "index") or name == DUE_INDEX:
            files += index_steps(name, table, shape).values()
        else:
            files.append(render(name, table, shape, role=grant_to, quiet=quiet))
    return "\n".join([_header(table, shape), *files])


def _header(table: TaskTable, shape: Shape) -> str:
    """`repr` keeps a name on its line, whatever it is."""
    return f"-- session-lock {library_version()}, mapping {table.name!r} of {table.table!r}, functions {function_set(table, shape)}\n"


def _copy(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    refuse_if(
        not folder.is_dir(), f"there is no folder {folder}: create it, or name the folder of your migrations"
    )

    async def files(connection: Connection, table: TaskTable) -> dict[str, str]:
        shape = await validate(connection, table)
        shared = await _has_other_mappings(connection, table, shape)
        current = function_set(table, shape)
        others = (await function_sets(connection, table, current)).keys() - {current}
        files = _files(table, shape, arguments.start, arguments.grant_to, shared=shared, changes=bool(others))
        return _for_dbmate(files) if arguments.dbmate else files

    written = with_database(arguments, files)
    for name in written:
        number = name.partition("_")[0]
        taken = next(
            (
                path.name
                for path in sorted(folder.iterdir())
                if re.match(rf"0*{int(number)}(?!\d)", path.name)
            ),
            None,
        )
        refuse_if(taken, f"{folder} has {taken} already: begin behind it with --start")
    for name, text in written.items():
        path = folder / name
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        say(str(path))
    return 0


async def _has_other_mappings(connection: Connection, table: TaskTable, shape: Shape) -> bool:
    """Whether the schema serves another mapping already: its files for the sessions are another migration's then."""
    query = """
        SELECT EXISTS (
          SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
           WHERE n.nspname = $1 AND p.proname ~ '^get_work_' AND left(p.proname, -9) <> 'get_work_' || $2)
        """
    return bool(await connection.fetchval(query, table.schema, function_set(table, shape)[:-9]))


def _files(
    table: TaskTable, shape: Shape, start: int, grant_to: str | None, *, shared: bool, changes: bool
) -> dict[str, str]:
    """By name, in the order in which they run; each of a number of its own, with its way back where it has one.

    Where the schema serves another mapping too, the tables of the sessions are not made here, nor taken down by the way back. Where
    it has another version of this one, the way back does nothing: instances of that may be at work.
    """
    slug = function_set(table, shape)[:-9]
    steps = (
        *(() if shared else (("sessions", ("sessions.up.sql",), () if changes else ("sessions.down.sql",)),)),
        ("sessions_always", ("sessions.alwaysup.sql",), None),
        (slug, (*shipped(table, "up"), "tasks.up.sql"), NO_WAY_BACK if changes else files_of("down", table)),
        *((title, text, None) for title, text in _index_files(slug, table, shape)),
        (f"{slug}_always", (*shipped(table, "alwaysup"), *mapping_files(table, "alwaysup")), None),
    )
    files: dict[str, str] = {}
    for number, (title, up, down) in enumerate(steps, start):
        role = grant_to if title == f"{slug}_always" else None
        files[f"{number:04}_session_lock_{title}.up.sql"] = (
            up if isinstance(up, str) else _text(up, table, shape, role)
        )
        if down:
            files[f"{number:04}_session_lock_{title}.down.sql"] = (
                down if isinstance(down, str) else _text(down, table, shape, None)
            )
    return files


def _for_dbmate(files: dict[str, str]) -> dict[str, str]:
    """Each up and down in one file. What is to be built concurrently asks for no transaction."""
    joined: dict[str, str] = {}
    for name, text in files.items():
        stem, _, rest = name.partition(".")
        if rest == "up.sql":
            option = " transaction:false" if re.search(r"(?m)^CREATE INDEX CONCURRENTLY", text) else ""
            down = files.get(f"{stem}.down.sql", "")
            joined[f"{stem}.sql"] = f"-- migrate:up{option}\n{text.rstrip()}\n\n-- migrate:down\n{down}"
    return joined


def _index_files(slug: str, table: TaskTable, shape: Shape) -> Iterator[tuple[str, str]]:
    """Title and text: each build alone in its file, as a tool that sends one as a whole makes a transaction of two statements."""
    for name in (*files_of("index", table), *([DUE_INDEX] if has_due_index(table) else [])):
        title = f"{slug}_{name.removeprefix('tasks.').removesuffix('.sql').replace('.', '_')}"
        for step, text in index_steps(name, table, shape).items():
            yield f"{title}{step and f'_{step}'}", f"{_header(table, shape)}\n{text}"
