"""The SQL files, found and filled in: nothing here talks to a database."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from session_lock.table import Shape, TaskTable, holes, quote_name

SCHEMA_VERSION = 1
"""What this library needs of `schema_version()` in the database: at least this."""

SERVED_VERSION = 1
"""The oldest library that the schema shipped here still serves."""

DEFAULT_SCHEMA = "session_lock"


def sql_root() -> Traversable:
    """The folder `sql/`: inside the installed package, or beside it in a checkout (an editable install)."""
    packaged = files("session_lock") / "sql"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "sql"


@cache
def source(name: str) -> str:
    """One of our SQL files as it stands, such as `tasks.up.sql`."""
    return (sql_root() / name).read_text(encoding="utf-8")


def render(name: str, table: TaskTable, shape: Shape, *, role: str | None = None) -> str:
    """A file of `sql/` with the mapping's words in its holes and the sessions' schema in place of ours."""
    schema = table.schema if table.schema == DEFAULT_SCHEMA else quote_name(table.schema)
    words = holes(table, shape) | {"schema": schema} | ({"role": quote_name(role)} if role else {})
    return _fill(_with_schema(source(name), "__schema__"), words)


def in_schema(text: str, schema: str) -> str:
    """The sources write `session_lock` for the schema; it appears with a dot behind it or after the word SCHEMA."""
    if schema == DEFAULT_SCHEMA:
        return text
    return _with_schema(text, quote_name(schema))


def _with_schema(text: str, schema: str) -> str:
    """Comments stay as they are: a name may contain a line end."""
    return _SCHEMA.sub(lambda match: match[0] if match[0].startswith("--") else schema, text)


_SCHEMA = re.compile(r"--[^\n]*|(?<![\w.])session_lock(?=\.)|(?<=SCHEMA )session_lock\b|(?<=EXISTS )session_lock(?=[; ])")


def _fill(text: str, words: dict[str, str]) -> str:
    """One pass, so that what is filled in is never filled again; a hole without a word is an error of ours."""

    def word(match: re.Match[str]) -> str:
        for name in (f"{match[1]}{match[2] or ''}", match[1]):
            if name in words:
                return words[name] + ("" if name != match[1] else match[2] or "")
        raise KeyError(f"no word for the hole __{match[1]}__")

    return re.sub(r"__([a-z]+(?:_[a-z]+)*)__( = DEFAULT| text)?", word, text)
