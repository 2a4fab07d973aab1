"""What belongs to a mapping in the database, by name: one set of functions, its indexes, a trigger, and the mark of its columns."""

from __future__ import annotations

import hashlib
import re

from session_lock.names import squeeze
from session_lock.table import Shape, TaskTable


def function_set(table: TaskTable, shape: Shape) -> str:
    """`name_hash`, the end of the names of a mapping's functions and index.

    The hash covers what the functions' signatures and the index depend on, so a changed mapping is a second set
    beside the first, and instances of both versions work side by side. It leaves out `finish`, `discard`, `accepts` and
    the numbers of limits: a change of those replaces the functions in place, for instances of all versions.
    """
    covered = repr((
        table.qualified, table.key, shape.key_type, [(c, shape.column_types[c]) for c in table.columns],
        squeeze(table.pending), [(c, d, shape.column_types[c]) for c, d in table.order], table.claim_columns, table.name,
    ))  # fmt: skip
    rules = table.rules
    if rules.any:  # their numbers, like finish, are replaced in place
        column = rules.column and (rules.column, shape.column_types[rules.column])
        covered += repr((column, rules.counts_held))
    digest = hashlib.sha256(covered.encode()).hexdigest()[:8]
    return f"{_readable(table.name)}_{digest}"


def index_name(functions: str) -> str:
    """The name of the index that belongs to a set of functions; it lives in the table's schema."""
    return f"pending_{functions}"


def partition_index_name(index: str, partition: tuple[str, str]) -> str:
    """The name of the part of an index that belongs to one partition, where we build it; it lives in the partition's schema."""
    digest = hashlib.sha256(repr(partition).encode()).hexdigest()[:8]
    return f"{partition_index_prefix(index)}{_readable(partition[1])[:30]}_{digest}"


def partition_index_prefix(index: str) -> str:
    """What the names of all parts of an index begin with: its kind and its hash."""
    return f"{index.partition('_')[0]}_{index[-8:]}_"


def limit_index_names(table: TaskTable, functions: str) -> dict[str, str]:
    """Of a mapping with limits: the indexes beside the first one, by the file that makes them."""
    rules = table.rules
    return {
        **({"tasks.values.index.sql": f"values_{functions}"} if rules.column else {}),
        **({"tasks.held.index.sql": f"held_{functions}"} if rules.counts_held else {}),
    }


def due_index_name(functions: str) -> str:
    """The name of the index of when tasks fall due, which a mapping may have whose order does not begin with that."""
    return f"due_{functions}"


def has_due_index(table: TaskTable) -> bool:
    """Whether the index of due times belongs to the mapping, as it does to a table that the library ships."""
    return bool(table.made_by) and table.order[0] != (table.claim_columns.available_at, False)


def wake_trigger_name(table: TaskTable) -> str:
    """The name of the trigger that wakes the Runners of a mapping: a changed mapping has the same."""
    digest = hashlib.sha256(repr((table.schema, table.name)).encode()).hexdigest()[:8]
    return f"wake_{_readable(table.name)}_{digest}"


def dedup_index_name(table: TaskTable) -> str:
    """The name of the unique index of a ready-made table; it lives in the table's schema."""
    digest = hashlib.sha256(repr(table.qualified).encode()).hexdigest()[:8]
    return f"dedup_{_readable(table.qualified[1])}_{digest}"


def _readable(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40].rstrip("_") or "tasks"


def column_mark(table: TaskTable) -> str:
    """What the comments of our columns begin with: how a column of ours is told from one of the user's."""
    return f"session_lock {table.name}"
