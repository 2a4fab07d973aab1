"""Names and expressions: from the user's text, and into the text of SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from session_lock.errors import SettingsError

NAME_BYTES = 63
"""PostgreSQL cuts longer names, silently."""

BODY_QUOTE = "$function$"
"""What the bodies in `sql/` are quoted with, so no expression of the user's may contain it."""

NAME_QUOTE = "$name$"
"""What the schema's name is quoted with where a body has it as a text, so no name may contain it."""


# Text to SQL: the only four ways ---------------------------------------------------------------------


def quote_name(name: str) -> str:
    """An identifier. Always quoted, so no word list and no case rule can turn it into another one."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A string, as it is, whatever `standard_conforming_strings` is."""
    prefix = "E" if "\\" in text else ""
    return prefix + "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def quote_inside_literal(text: str) -> str:
    """Text for a place between single quotes, or in a comment of one line, inside a dollar-quoted body."""
    return re.sub(r"\s+", " ", text).replace("'", "''").replace(BODY_QUOTE, "")


def one_line_safe(expression: str) -> str:
    """An expression of the user's: a line end behind it, in case it ends in a `--` comment."""
    return f"{expression.strip()}\n" if "--" in expression else expression.strip()


# Text from the user ----------------------------------------------------------------------------------


def as_sequence(given: Any, role: str) -> Sequence[Any]:
    """What may be a sequence of names or of columns: one alone is none, and what it would be taken apart into is not what is meant."""
    if isinstance(given, str):
        raise SettingsError(f"{role} is a sequence of names; write {role}=({given!r},)")
    if not isinstance(given, Iterable):
        raise SettingsError(
            f"{role} is a sequence, and was given one thing alone; write {role}=[..] around it"
        )
    return tuple(given)


def check_name(name: str, kind: str) -> None:
    if (
        not isinstance(name, str)
        or not is_storable(name)
        or NAME_QUOTE in name
        or not 0 < len(name.encode()) <= NAME_BYTES
    ):
        raise SettingsError(
            f"{kind} name {name!r} must have 1 to {NAME_BYTES} bytes, without NUL, {BODY_QUOTE} and {NAME_QUOTE}"
        )


def is_storable(text: str) -> bool:
    """No half of a surrogate pair, no NUL, nothing that would end a function's body."""
    return BODY_QUOTE not in text and not re.search("[\0\ud800-\udfff]", text)


def split_name(text: str, default: str = "public") -> tuple[str, str]:
    """(schema, table) of `schema.table`, `table`, `"a.b"."c"`."""
    part = r'"(?:[^"]|"")+"|[^."]+'
    if not (match := re.fullmatch(rf"(?:({part})\.)?({part})", text)):
        raise SettingsError(
            f'table={text!r} is not "table" or "schema.table" (put a part with a dot in double quotes)'
        )
    schema, table = (
        name[1:-1].replace('""', '"') if name[:1] == '"' else name for name in (match[1] or default, match[2])
    )
    return schema, table


def split_direction(text: str) -> tuple[str, bool]:
    column, direction = re.fullmatch(
        r"(.*?)(?:\s+(asc|desc))?", text.strip(), re.IGNORECASE | re.DOTALL
    ).groups()  # type: ignore[union-attr]
    check_name(column, "order_by column")
    return column, (direction or "").lower() == "desc"


def squeeze(expression: str) -> str:
    """White space outside of quotes does not make another mapping."""
    return "".join(
        part if part[:1] in "'\"" else re.sub(r"\s+", " ", part)
        for part in re.split(r"('[^']*'|\"[^\"]*\")", expression.strip())
    )
