"""The SQL that builds a mapping's indexes. In a partitioned table each is built part by part, and then taken as a whole."""

from __future__ import annotations

import re

from session_lock.names import quote_inside_literal, quote_name
from session_lock.objects import (
    due_index_name,
    function_set,
    index_name,
    partition_index_name,
    partition_index_prefix,
)
from session_lock.schema import fill, holes, render, source
from session_lock.table import Shape, TaskTable

WHOLE = "tasks.whole.index.sql"


def index_steps(name: str, table: TaskTable, shape: Shape) -> dict[str, str]:
    """What a file that makes an index has to run, in this order, each outside a transaction; by a word for its title.

    Of an ordinary table that is the file itself, with no title. A partitioned table has no concurrent build, but each of its
    partitions has.
    """
    if shape.partitions is None:
        return {"": render(name, table, shape)}
    steps = {
        f"part_{number}": render(name, table, shape, others=_part(table, shape, partition))
        for number, partition in enumerate(shape.partitions, 1)
    }
    return steps | {"whole": render(WHOLE, table, shape, others=_whole(name, table, shape))}


def _part(table: TaskTable, shape: Shape, partition: tuple[str, str]) -> dict[str, str]:
    return {
        "table": ".".join(quote_name(part) for part in partition),
        **{
            hole: quote_name(partition_index_name(index, partition))
            for hole, index in _names(table, shape).items()
        },
    }


def _whole(name: str, table: TaskTable, shape: Shape) -> dict[str, str]:
    """The words of the one statement of a file, for another that builds the same."""
    words = holes(table, shape)
    hole, columns, rows = re.search(_STATEMENT, source(name)).groups()  # type: ignore[union-attr]
    index = _names(table, shape)[hole]
    return {
        "whole_index": quote_name(index),
        "whole_literal": quote_inside_literal(f"{quote_name(table.qualified[0])}.{quote_name(index)}"),
        "whole_prefix": partition_index_prefix(index),
        "whole_columns": fill(columns, words),
        "whole_rows": fill(rows, words),
    }


_STATEMENT = r"CREATE INDEX CONCURRENTLY IF NOT EXISTS __(\w+?)__ ON __table__ \((.*)\)\s+WHERE (.*);"


def _names(table: TaskTable, shape: Shape) -> dict[str, str]:
    """The indexes that a mapping may have, by the words that stand for them."""
    functions = function_set(table, shape)
    return {
        "index": index_name(functions),
        "due_index": due_index_name(functions),
        "values_index": f"values_{functions}",
        "held_index": f"held_{functions}",
    }
