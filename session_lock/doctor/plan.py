"""How the server finds work: the plan of a look, and what it reads."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from session_lock.catalog import read_shape
from session_lock.doctor.case import Case, hurried
from session_lock.findings import Finding
from session_lock.migrations.sandbox import set_locally
from session_lock.names import quote_name
from session_lock.objects import function_set, index_name
from session_lock.schema import render
from session_lock.table import Shape, TaskTable

TASKS = 100
"""That a look is to find."""

PAGES = 1_000
"""That it may read for them: each may lie in a page of its own, and those before it be not due."""


@hurried
async def plan(case: Case) -> AsyncIterator[Finding]:
    """The claim itself, but for its locks, under the service's own settings of the planner."""
    if (table := case.table) is None:
        return
    settings = await case.service.fetch(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE category LIKE 'Query Tuning%' AND source NOT IN ('default', 'configuration file')"
    )
    shape = await read_shape(case.connection, table)
    index = index_name(function_set(table, shape))
    await set_locally(case.connection, **{row["name"]: row["setting"] for row in settings})
    look = look_for_work(table, shape)
    answer = await case.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT json) {look}")
    parts = await case.connection.fetch(
        "SELECT c.relname AS name FROM pg_partition_tree(to_regclass($1)) AS p JOIN pg_catalog.pg_class AS c ON c.oid = p.relid",
        f"{quote_name(table.qualified[0])}.{quote_name(index)}",
    )
    top = json.loads(answer)[0]["Plan"]
    pages = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    if pages <= PAGES:
        return  # whatever it is that it does
    nodes = [*_nodes(top)]
    used = sorted({node["Index Name"] for node in nodes if "Index Name" in node})
    other = sorted(
        {
            node["Node Type"]
            for node in nodes
            if "Relation Name" in node and not node["Node Type"].startswith("Index")
        }
    )
    evidence = {
        "pages": pages,
        "tasks": int(top["Actual Rows"]),
        "indexes": used,
        "nodes": [node["Node Type"] for node in nodes],
    }
    text = f"a look for work reads {pages:,} pages for {evidence['tasks']} tasks"
    ours = {index, *(row["name"] for row in parts)}
    if not other and {*used} <= ours:
        yield Finding(
            severity="warning",
            text=f"{text}, by the index {index}: it walks past rows that are dead, held or not due",
            remedy=f"VACUUM {table.quoted}, once nothing holds it up",
            evidence=evidence,
        )
        return
    due = table.claim_columns.available_at
    if other == ["Bitmap Heap Scan"] and {*used} <= ours:
        text += f": of the index {index} it reads all that is due, and sorts it"
    else:
        text += f", and not by the index {index} but by {', '.join([*other, *(f'the index {name}' for name in used)])}"
    changed = ", ".join(f"{row['name']} = {row['setting']}" for row in settings)
    text += f"; set are {changed}" if changed else ""
    remedies = [f"ANALYZE {table.quoted}", *(["reset those settings"] if changed else [])]
    if table.order[0] != (due, False):
        text += f"; order_by does not begin with {due}, so it walks past the scheduled rows that precede what is due"
        remedies.append(f"if that changes nothing, let order_by begin with {due}")
    yield Finding(
        severity="warning",
        text=text,
        remedy="; ".join(remedies),
        evidence={**evidence, "settings": {row["name"]: row["setting"] for row in settings}},
    )


def look_for_work(table: TaskTable, shape: Shape) -> str:
    """The statement by which `get_work` finds tasks, as its file has it, of a session that holds nothing."""
    text = render("tasks.alwaysup.sql", table, shape)
    [claim] = re.findall(
        r"NOT (?:true|false) THEN\n {4}my\.keys := ARRAY\(\n(.*?)\n {4}\);", text, flags=re.DOTALL
    )
    claim = claim.replace("FOR NO KEY UPDATE SKIP LOCKED", "")
    values = {
        "want": str(TASKS),
        "clock": "now()",
        "id": "0::bigint",
        "ended": "'{}'::bigint[]",
        "held": f"'{{}}'::{shape.key_type}[]",
        "start": "NULL::text",
        "until": "NULL::text",
        "version": "'{}'::numeric[]",
    }
    return re.sub(r"\bmy\.(\w+)", lambda match: values[match[1]], claim)


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)
