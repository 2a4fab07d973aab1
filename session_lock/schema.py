"""The SQL files, found and filled in with the words of a mapping: nothing here talks to a database."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from session_lock.conjuncts import conjuncts
from session_lock.locks import LOCK, take_patiently
from session_lock.names import one_line_safe, quote_inside_literal, quote_literal, quote_name
from session_lock.objects import (
    column_mark,
    dedup_index_name,
    due_index_name,
    function_set,
    index_name,
    limit_index_names,
    wake_trigger_name,
)
from session_lock.ordering import for_each_part, has_ends, order_by, part_holes, parts_of_look, position
from session_lock.table import Shape, TaskTable

SCHEMA_VERSION = 2
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


def shipped(table: TaskTable, kind: str) -> tuple[str, ...]:
    """The file of this kind (up, alwaysup, grants, down) that belongs to a table which the library ships, if there is one."""
    name = f"{table.made_by}.{kind}.sql"
    return (name,) if table.made_by and (sql_root() / name).is_file() else ()


def render(
    name: str,
    table: TaskTable,
    shape: Shape | None,
    *,
    role: str | None = None,
    quiet: bool = False,
    others: Mapping[str, str] | None = None,
) -> str:
    """A file of `sql/` with the mapping's words in its holes and the sessions' schema in place of ours.

    What makes a shipped table has holes for names alone: it needs no shape, as there is none before it. `role` is for
    grants, `quiet` for the trigger that wakes; `others` are words in place of, or beside, the mapping's.
    """
    schema = table.schema if table.schema == DEFAULT_SCHEMA else quote_name(table.schema)
    words = holes(table, shape) if shape else names(table)
    words |= {"schema": schema, "quiet": f"'{str(quiet).lower()}'"} | (
        {"role": quote_name(role)} if role else {}
    )
    words |= others or {}
    text = for_each_part(source(name), len(parts_of_look(table, shape)) if shape else 1)
    if name != LOCK:
        text = take_patiently(text, source(LOCK))
    return fill(_with_schema(text, "__schema__"), words)


def in_schema(text: str, schema: str) -> str:
    """The sources write `session_lock` for the schema; it appears with a dot behind it or after the word SCHEMA."""
    if schema == DEFAULT_SCHEMA:
        return text
    return _with_schema(text, quote_name(schema))


def _with_schema(text: str, schema: str) -> str:
    """Comments stay as they are: a name may contain a line end."""
    return _SCHEMA.sub(lambda match: match[0] if match[0].startswith("--") else schema, text)


_SCHEMA = re.compile(
    r"--[^\n]*|(?<![\w.])session_lock(?=\.)|(?<=SCHEMA )session_lock\b|(?<=EXISTS )session_lock(?=[; ])"
)


def fill(text: str, words: dict[str, str]) -> str:
    """One pass, so that what is filled in is never filled again; a hole without a word is an error of ours."""

    def word(match: re.Match[str]) -> str:
        for name in (f"{match[1]}{match[2] or ''}", match[1]):
            if name in words:
                return words[name] + ("" if name != match[1] else match[2] or "")
        raise KeyError(f"no word for the hole __{match[1]}__")

    return re.sub(r"__([a-z]+(?:_[a-z]+)*)__( = DEFAULT| text)?", word, text)


# The words ------------------------------------------------------------------------------------------------


def names(table: TaskTable) -> dict[str, str]:
    """Those of the words that the mapping alone determines."""
    claim = table.claim_columns
    return {
        "table": table.quoted,
        "table_text": quote_literal(table.quoted),
        "table_literal": quote_inside_literal(table.quoted),
        "table_schema": quote_name(table.qualified[0]),
        "name": quote_literal(table.name),
        "title": quote_inside_literal(table.name),
        "mark": quote_inside_literal(column_mark(table)),
        "key": quote_name(table.key),
        "session_id": quote_name(claim.session_id),
        "claim_token": quote_name(claim.claim_token),
        "attempts": quote_name(claim.attempts),
        "available_at": quote_name(claim.available_at),
        **{f"{role}_literal": quote_inside_literal(name) for role, name in asdict(claim).items()},
        "pending": one_line_safe(table.pending),
        "pending_parts": f"ARRAY[{', '.join(f'({one_line_safe(part)})' for part in conjuncts(table.pending))}]::boolean[]",
        "wake_trigger": quote_name(wake_trigger_name(table)),
        "wake_trigger_text": quote_literal(wake_trigger_name(table)),
        "always_wakes": _boolean(table.made_by == "queue"),
        "dedup_index": quote_name(dedup_index_name(table)),
        "dedup_index_text": quote_literal(
            f"{quote_name(table.qualified[0])}.{quote_name(dedup_index_name(table))}"
        ),
    }


def holes(table: TaskTable, shape: Shape) -> dict[str, str]:
    """What the words between double underscores in the files of `sql/` stand for."""
    functions = function_set(table, shape)
    task_schema, _ = table.qualified
    index = quote_name(index_name(functions))
    due_index = quote_name(due_index_name(functions))
    claim = table.claim_columns
    return names(table) | {
        "set": f"_{functions}",
        "set_hash": functions[-8:],
        "key_type": shape.key_type,
        "finish = DEFAULT": one_line_safe(table.finish),
        "discard = DEFAULT": one_line_safe(table.discard or f"{quote_name(claim.available_at)} = 'infinity'"),
        "discards": "true" if table.discard else "false",
        "columns text": ", ".join(
            f"{quote_name(n)} {shape.column_types[c]}" for c, n in output_names(table.columns)
        ),
        "no_columns": ", ".join(f"NULL::{shape.column_types[c]}" for c in table.columns),
        "select_columns": ", ".join(
            f"t.{quote_name(c)} AS column_{i}" for i, c in enumerate(table.columns, 1)
        ),
        "claimed_columns": ", ".join(f"c.column_{i}" for i, _ in enumerate(table.columns, 1)),
        "order_by": order_by(table, "t."),
        "order_index": order_by(table),
        "due_is_indexed": "true" if table.order[0] == (claim.available_at, False) else "false",
        "position": position(table, shape),
        **part_holes(parts_of_look(table, shape)),
        "ends": _boolean(has_ends(table, shape) and not table.rules.any),
        **limit_holes(table, shape),
        **accept_holes(table),
        "index": index,
        "index_qualified": f"{quote_name(task_schema)}.{index}",
        "due_index": due_index,
        "due_index_qualified": f"{quote_name(task_schema)}.{due_index}",
        "due_index_literal": quote_inside_literal(f"{quote_name(task_schema)}.{due_index}"),
        "index_literal": quote_inside_literal(f"{quote_name(task_schema)}.{index}"),
    }


def limit_holes(table: TaskTable, shape: Shape) -> dict[str, str]:
    """The words of `tasks.limits.*.sql` and of the indexes beside it; of get_work only the first two are read without limits."""
    rules, functions = table.rules, function_set(table, shape)
    value, bare = "0::bigint", ""
    if rules.column is not None:
        column = quote_name(rules.column)
        value = f"pg_catalog.hash_record_extended(ROW(t.{column}), 0)"
        bare = f"pg_catalog.hash_record_extended(ROW({column}), 0)"
    order = position(table, shape)
    in_turns = "my.start" if rules.fair else f"CASE WHEN my.start = 'order' THEN {order} END"
    words = {
        "picks": _boolean(rules.any),
        "counts_held": _boolean(rules.counts_held),
        "fair": _boolean(rules.fair),
        "ordered": _boolean(rules.ordered),
        "has_value": _boolean(rules.column is not None),
        "value": value,
        "value_index": bare,
        "held_by": bare or quote_name(table.claim_columns.session_id),
        "most": str(rules.group.n) if rules.group else "NULL::integer",
        "most_each": str(rules.each.n) if rules.each else "NULL::integer",
        "rate": str(rules.group_rate.n) if rules.group_rate else "NULL::integer",
        "rate_per": repr(float(rules.group_rate.per)) if rules.group_rate else "NULL",
        "rate_each": str(rules.each_rate.n) if rules.each_rate else "NULL::integer",
        "rate_each_per": repr(float(rules.each_rate.per)) if rules.each_rate else "NULL",
        "limits_group": _boolean(bool(rules.group or rules.group_rate)),
        "limits_each": _boolean(bool(rules.each or rules.each_rate)),
    }
    for kind in ("values", "held"):
        index = quote_name(f"{kind}_{functions}")
        words[f"{kind}_index"] = index
        words[f"{kind}_index_qualified"] = f"{quote_name(table.qualified[0])}.{index}"
        words[f"{kind}_index_literal"] = quote_inside_literal(f"{quote_name(table.qualified[0])}.{index}")
    return words | ({"position": in_turns} if rules.any else {})


def accept_holes(table: TaskTable) -> dict[str, str]:
    """Which tasks a session may be given. Where that is all, they are constants, which the server's planner takes away."""
    if table.made_by == "duties":
        declared = f"SELECT FROM {in_schema('session_lock.duty_declaration', table.schema)} AS d WHERE d.name = t.name AND d.session = my.id"
        return _accepting("t.name", f"EXISTS ({declared})", "s.id::text", "sharing_duty")
    if table.accepts is None:
        return _accepting("NULL::text", "true", "''")
    accepts = f"({one_line_safe(table.accepts)})"
    may_take = in_schema("session_lock.may_take", table.schema)
    return _accepting(accepts, f"{may_take}(my.version, {accepts})", "s.app_version")


def _accepting(
    accepts: str, acceptable: str, kind: str, sharing_with: str = "sharing_with"
) -> dict[str, str]:
    """`kind`: of a session `s`; those of one kind may be given the same tasks."""
    return {
        "has_accepts": _boolean(acceptable != "true"),
        "accepts": accepts,
        "acceptable": acceptable,
        "kind": kind,
        "sharing_with": sharing_with,
    }


def _boolean(condition: bool) -> str:
    return "true" if condition else "false"


def mapping_files(table: TaskTable, kind: str) -> tuple[str, ...]:
    """The files of this kind (index, alwaysup, down) that a mapping needs, in the order in which they run."""
    match kind:
        case "index":
            return ("tasks.index.sql", *limit_index_names(table, ""))
        case "alwaysup":
            return ("tasks.alwaysup.sql", *(["tasks.limits.alwaysup.sql"] if table.rules.any else []))
        case _:
            return (*(["tasks.limits.down.sql"] if table.rules.any else []), "tasks.down.sql")


ENVELOPE = (
    "kind", "task_key", "task_token", "task_attempt", "outcome", "task_position", "next_due", "lease_left", "task_share",
    "task_alone", "walked", "heard", "sharing",
)  # fmt: skip
"""The first columns of what get_work returns; the mapping's own follow."""


ARGUMENTS = (
    "p_id",
    "p_nonce",
    "p_limit",
    "p_held",
    "p_position",
    "p_until",
    "p_over_share",
    "p_at_once",
    "p_finished",
    "p_tokens",
)
"""The parameters of get_work, which share a name space with the columns of its result; `$1` to `$n` are theirs too."""


def output_names(columns: Sequence[str]) -> list[tuple[str, str]]:
    """(column, its name in the result of get_work): its own, unless the result has one of that name already."""
    reserved = {*ENVELOPE, *ARGUMENTS}
    taken = {*reserved, *columns}
    named: list[tuple[str, str]] = []
    for column in columns:
        name = column
        while name in reserved or re.fullmatch(r"\$\d+", name) or (name != column and name in taken):
            name += "_"
        taken.add(name)
        named.append((column, name))
    return named
