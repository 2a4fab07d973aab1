"""What *pending* and *accepts* must keep to, found out by the server itself on an empty copy of the table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from session_lock.errors import SchemaError
from session_lock.migrations.sandbox import PINNED, Connection, Refused, attempt, sentence, set_locally
from session_lock.names import one_line_safe, quote_name
from session_lock.table import TaskTable

PROBE = "session_lock_probe"
UNDEFINED = {"42883", "42704", "42P01", "3F000"}
"""A function, type, table or schema that does not exist: perhaps under the pinned search_path only."""

# Read by the server when an expression is parsed: a literal 'now' would stand still for ever, in index and functions.
_MOVING = re.compile(r"'\s*(now|today|tomorrow|yesterday)\b[^']*'", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Probe:
    """An empty temporary copy of the task table, claim columns included; its constraints are left out."""

    connection: Connection
    table: TaskTable
    path: str
    """The connection's own search_path, under which a migration tool would read the expressions."""

    name: str = f"pg_temp.{PROBE}"

    def refused(self, answer: Sequence[Any] | Refused) -> Refused | None:
        """The refusal; one of rights, locks or time is raised here, since it says nothing about the mapping."""
        if not isinstance(answer, Refused):
            return None
        if answer.state in {"42501", "55P03", "57014", "25006"}:
            raise sentence(f"{self.table.table} could not be examined", answer)
        return answer


async def make_probe(connection: Connection, table: TaskTable) -> None:
    """Within a transaction that is rolled back."""
    types = ("bigint", "bigint", "integer", "timestamptz")
    added = ", ".join(
        f"ADD COLUMN IF NOT EXISTS {quote_name(column)} {type_}"
        for column, type_ in zip(claim_names(table), types, strict=True)
    )
    await connection.execute(
        f"CREATE TEMP TABLE {PROBE} (LIKE {table.quoted} INCLUDING GENERATED); ALTER TABLE pg_temp.{PROBE} {added}"
    )


def claim_names(table: TaskTable) -> list[str]:
    return [getattr(table.claim_columns, each.name) for each in fields(table.claim_columns)]


@dataclass(frozen=True, slots=True)
class _Condition:
    """An expression of the mapping as the condition of an index, which the server holds to all that we ask of it."""

    word: str
    text: str
    rest: str = ""
    """What makes a condition of it."""

    @property
    def sql(self) -> str:
        return f"({one_line_safe(self.text)}){self.rest}"

    def remedy(self, canonical: str) -> str:
        """What to write instead, of what the server prints."""
        return f"write {self.word}={bare(bare(canonical).removesuffix(self.rest))!r}"


async def check_pending(probe: Probe) -> str:
    """Refuse a pending that cannot be the predicate of an index; else return it as the server prints it."""
    table = probe.table
    subject = f"pending of {table.name!r}"
    canonical = await _check(probe, _Condition("pending", table.pending))
    if not await pending_columns(probe):
        raise SchemaError(
            f"{subject} names no column of {table.table}, so no finish could end it: say which rows are to do"
        )
    return canonical


async def check_accepts(probe: Probe) -> None:
    """Refuse an accepts that is no text, or not immutable, over the columns of the table."""
    table = probe.table
    if table.accepts is None:
        return
    accepts = _Condition("accepts", table.accepts, " IS NULL")
    await _check(probe, accepts)
    query = (
        f"SELECT pg_typeof((SELECT ({one_line_safe(table.accepts)}) FROM {probe.name} AS t))::text AS type"
    )
    [row] = await probe.connection.fetch(query)
    if row["type"] not in {"text", "character varying"}:
        raise SchemaError(
            f"accepts of {table.name!r} is of type {row['type']}: write one of type text, such as '2.4'"
        )


async def _check(probe: Probe, given: _Condition) -> str:
    table, expression = probe.table, one_line_safe(given.text)
    subject = f"{given.word} of {table.name!r}"
    refused = probe.refused(await _index(probe, given, "plain"))
    if refused and refused.state in UNDEFINED and (qualified := await _elsewhere(probe, given)):
        raise SchemaError(f"{subject} needs its schemas ({refused.message} in pg_catalog): {qualified}")
    if refused:
        raise SchemaError(f"{subject} {_why_not(given, refused)}")
    # What is balanced only because of the brackets around it (`a) OR (b`) is not in brackets of another kind.
    refused = probe.refused(await _index(probe, given, "brackets", f"(ARRAY[{expression}])[1]{given.rest}"))
    if refused and refused.state == "42601":
        raise SchemaError(f"{subject} is not one expression ({refused.message}): balance its parentheses")

    canonical = await _canonical(probe, given, "plain")
    columns = await _columns(probe, given)
    if named := sorted(set(claim_names(table)) & set(columns)):
        raise SchemaError(
            f"{subject} names the claim column {named[0]!r}, which is session_lock's: leave it out"
        )
    moving = _MOVING.search(given.text)
    if moving and moving[0] not in canonical:
        raise SchemaError(
            f"{subject} holds {moving[0]}, which is read once and then stands still: time belongs into available_at"
        )
    await _check_settings(probe, given, canonical)
    return canonical


def _why_not(given: _Condition, refused: Refused) -> str:
    kind = "condition" if given.word == "pending" else "expression"
    match refused.state:
        case "42P17":
            return f"is not immutable ({refused.message}): time belongs into available_at, and all else into columns"
        case "42703" | "42P01":
            return f"names what is not there ({refused.message}): name columns of the table, without a table's name before them"
        case "42804" if given.word == "pending":
            return f"is not a condition ({refused.message}): write one that is true for rows that are to do"
        case "0A000" | "42803" | "42P20":
            return f"is no {kind} over the stored columns of one row ({refused.message}): write it over those alone"
        case "42601" if "multiple commands" in refused.message:
            return f"is more than one expression: write one {kind}, without a semicolon"
        case _:
            return f"does not parse ({refused.message}): correct it"


def _name(given: _Condition, name: str) -> str:
    return f"{PROBE}_{given.word}_{name}"


async def _index(probe: Probe, given: _Condition, name: str, condition: str = "") -> Sequence[Any] | Refused:
    """An index over a constant: it depends on the columns of its condition and on nothing else."""
    statement = f"CREATE INDEX {_name(given, name)} ON {probe.name} ((1)) WHERE {condition or given.sql}"
    return await attempt(probe.connection, statement)


async def _canonical(probe: Probe, given: _Condition, name: str) -> str:
    query = (
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_catalog.pg_index WHERE indexrelid = $1::text::regclass"
    )
    return str(await probe.connection.fetchval(query, f"pg_temp.{_name(given, name)}"))


async def pending_columns(probe: Probe) -> list[str]:
    return await _columns(probe, _Condition("pending", probe.table.pending))


async def _columns(probe: Probe, given: _Condition) -> list[str]:
    rows = await probe.connection.fetch(
        """
        SELECT DISTINCT a.attname AS column
          FROM pg_catalog.pg_depend AS d
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.objid = $1::text::regclass AND d.refobjid = $2::text::regclass AND d.refobjsubid > 0
        """,
        f"pg_temp.{_name(given, 'plain')}",
        probe.name,
    )
    return [row["column"] for row in rows]


async def _elsewhere(probe: Probe, given: _Condition) -> str | None:
    """How it reads in full, if the connection's own search_path has what the pinned one lacks."""
    await set_locally(probe.connection, search_path=probe.path)
    refused = await _index(probe, given, "elsewhere")
    await set_locally(probe.connection, search_path=PINNED)
    return None if isinstance(refused, Refused) else given.remedy(await _canonical(probe, given, "elsewhere"))


async def _check_settings(probe: Probe, given: _Condition, canonical: str) -> None:
    """The migration tool's settings must not make another expression of it: the index would not serve the functions."""
    subject = f"{given.word} of {probe.table.name!r}"
    await set_locally(probe.connection, search_path=probe.path)
    await _index(probe, given, "path")
    await set_locally(probe.connection, search_path=PINNED, timezone="Asia/Tokyo", datestyle="ISO, DMY")
    there = await _index(probe, given, "there")
    await set_locally(probe.connection, timezone="UTC", datestyle="ISO, MDY")
    if (other := await _canonical(probe, given, "path")) not in {canonical, "None"}:
        raise SchemaError(
            f"{subject} means something else under the search_path {probe.path}: {given.remedy(other)}"
        )
    if isinstance(there, Refused) or await _canonical(probe, given, "there") != canonical:
        raise SchemaError(
            f"{subject} depends on the session's TimeZone or DateStyle: write times as '2030-01-31 12:00:00+00'"
        )


def bare(expression: str) -> str:
    """Without the parentheses around the whole that the server prints."""
    if not (expression.startswith("(") and expression.endswith(")")):
        return expression
    depth = 0
    for at, letter in enumerate(re.sub(r"'[^']*'|\"[^\"]*\"", lambda match: "x" * len(match[0]), expression)):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and at < len(expression) - 1:
            return expression
    return expression[1:-1]
