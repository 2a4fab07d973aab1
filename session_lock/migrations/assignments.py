"""What *finish* and *discard* must keep to: they parse, set nothing of ours, and end what is pending."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from session_lock.errors import SchemaError
from session_lock.migrations.expressions import PROBE, UNDEFINED, Probe, claim_names, pending_columns
from session_lock.migrations.sandbox import PINNED, Refused, attempt, set_locally, undone
from session_lock.names import one_line_safe, quote_name

ROW_ERRORS = {"22", "23", "P0", "55", "57", "40"}
"""Classes of errors of a row, or of the moment: they do not speak against the mapping."""


async def check_assignments(probe: Probe, word: str, given: str) -> None:
    """Refuse a finish or discard that does not parse, sets what is not its own, or leaves a row pending."""
    table, text = probe.table, one_line_safe(given)
    subject = f"{word} of {table.name!r}"
    holder = f"{quote_name(table.claim_columns.session_id)} = NULL"
    for settings in (text, f"{holder}, {text}", f"{text}, {holder}"):
        refused = probe.refused(await _plan(probe, settings))
        if refused and refused.state in UNDEFINED and (qualified := await _elsewhere_set(probe, text)):
            raise SchemaError(
                f"{subject} needs its schemas ({refused.message} in pg_catalog): write {word}={qualified!r}"
            )
        if refused and refused.state == "42601" and settings != text:
            await _refuse_claim_columns(probe, subject, text)
        if refused:
            raise SchemaError(f"{subject} {_why_not_set(refused)}")
    if await _sets(probe, text, *claim_names(table), table.key):
        await _refuse_claim_columns(probe, subject, text)
        raise SchemaError(
            f"{subject} sets the key {table.key!r}, by which its outcome is found: leave it alone"
        )
    source = table.quoted
    if refused := probe.refused(
        await attempt(probe.connection, f"EXPLAIN UPDATE {source} AS t SET {text} WHERE false")
    ):
        raise SchemaError(f"{subject} {_why_not_set(refused)}")
    await _check_it_can_end(probe, word, text, source)
    await _try_on_a_row(probe, word, text, source)


def _why_not_set(refused: Refused) -> str:
    match refused.state:
        case "42703":
            return f"names what is not there ({refused.message}): name columns of the table"
        case "42804":
            return f"sets a column to what is not of its type ({refused.message}): cast it"
        case "42601" if "multiple commands" in refused.message:
            return "is more than the assignments of one UPDATE: write them without a semicolon"
        case "428C9":
            return f"sets what cannot be set ({refused.message}): set other columns"
        case _:
            return f"does not parse ({refused.message}): write it as what an UPDATE sets, such as done_at = now()"


async def _plan(probe: Probe, settings: str) -> Sequence[Any] | Refused:
    return await attempt(probe.connection, f"EXPLAIN UPDATE {probe.name} AS t SET {settings} WHERE false")


async def _sets(probe: Probe, text: str, *columns: str) -> bool:
    """Whether one of these columns is among those that are set: setting it twice is refused."""
    once = ", ".join(f"{quote_name(column)} = DEFAULT" for column in columns)
    answer = probe.refused(await _plan(probe, f"{once}, {text}"))
    return answer is not None and answer.state == "42601"


async def _refuse_claim_columns(probe: Probe, subject: str, text: str) -> None:
    if probe.refused(await _plan(probe, text)):
        return
    for column in claim_names(probe.table):
        if await _sets(probe, text, column):
            raise SchemaError(
                f"{subject} sets the claim column {column!r}, which is session_lock's: leave it out"
            )


async def _elsewhere_set(probe: Probe, text: str) -> str | None:
    """How it reads in full, if the connection's own search_path has what the pinned one lacks: the server tells."""
    await set_locally(probe.connection, search_path=probe.path)
    function = f"pg_temp.{PROBE}_set"
    refused = await attempt(
        probe.connection,
        f"CREATE FUNCTION {function}() RETURNS void LANGUAGE sql BEGIN ATOMIC UPDATE {probe.name} SET {text} WHERE false; END",
    )
    await set_locally(probe.connection, search_path=PINNED)
    if isinstance(refused, Refused):
        return None
    body = await probe.connection.fetchval(
        "SELECT pg_get_function_sqlbody($1::text::regprocedure)", f"{function}()"
    )
    match = re.search(r"\bSET (.*?)\s+WHERE false;", body, re.DOTALL)
    return match[1] if match else None


async def _check_it_can_end(probe: Probe, word: str, text: str, source: str) -> None:
    """Also for a table without a pending row: something that pending looks at must change."""
    columns = await pending_columns(probe)
    for column in columns:
        if await _sets(probe, text, column):
            return
    changed_otherwise = await probe.connection.fetchval(
        """
        SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = $1::text::regclass AND attname = ANY ($2) AND attgenerated <> '')
            OR EXISTS (SELECT FROM pg_catalog.pg_trigger
                        WHERE tgrelid = $1::text::regclass AND NOT tgisinternal AND tgenabled <> 'D' AND (tgtype & 16) > 0)
        """,
        source,
        columns,
    )
    if not changed_otherwise:
        raise SchemaError(
            f"{word} of {probe.table.name!r} sets no column that pending looks at ({', '.join(sorted(columns))}), "
            "so rows would stay pending: set one of them"
        )


async def _try_on_a_row(probe: Probe, word: str, text: str, source: str) -> None:
    """The only way to know what triggers and values do. Rolled back at once: somebody else may wait for the row."""
    key, pending = quote_name(probe.table.key), one_line_safe(probe.table.pending)
    async with undone(probe.connection):
        await set_locally(probe.connection, statement_timeout="2s", lock_timeout="50ms")
        rows = await attempt(
            probe.connection,
            f"SELECT t.{key} AS key FROM {source} AS t WHERE ({pending}) LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
        )
        if isinstance(rows, Refused) or not rows:
            return  # none in a time that is worth it
        update = (
            f"UPDATE {source} AS t SET {text} WHERE t.{key} = $1 RETURNING ({pending}) IS TRUE AS pending"
        )
        after = await attempt(probe.connection, update, rows[0]["key"])
    if isinstance(after, Refused):
        if after.state[:2] not in ROW_ERRORS:
            raise SchemaError(
                f"{word} of {probe.table.name!r}, tried on a row, was refused ({after.message}): correct it"
            )
    elif not after or after[0]["pending"]:
        raise SchemaError(
            f"{word} of {probe.table.name!r}, tried on a row, leaves it pending: set what pending looks at"
            f"{'' if after else ', and look for a trigger that keeps rows from being updated'}"
        )
