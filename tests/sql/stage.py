"""The stage of plays under limits (`limited.py`): a database with many mappings, of which a function can be replaced at once."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from session_lock.catalog import read_shape
from session_lock.indexes import index_steps
from session_lock.objects import function_set
from session_lock.ordering import for_each_part, parts_of_look
from session_lock.schema import fill, holes, mapping_files, render
from tests.sql.limited_plays import MAPPINGS
from tests.sql.schedule import Lab

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SETTINGS = "SET statement_timeout = '5s'; SET lock_timeout = '500ms'"


@dataclass
class Stage:
    """A database with all of `MAPPINGS`, each over a table of its own, that plays take turns on."""

    lab: Lab
    hand: asyncpg.Connection
    """A superuser's, for what happens beside the sessions."""

    words: dict[str, dict[str, str]]
    parts: dict[str, int]
    """Of how many a look from a position is made."""

    functions: dict[str, str]
    """The names of their sets."""

    connections: dict[str, asyncpg.Connection]
    somebody: asyncpg.Connection
    """A superuser who holds locks."""

    letters: dict[int, str]
    """What the values are of, in their order."""

    seeds: dict[str, float]
    """With which of them it is the turn of what follows a letter, where a look draws that by lot."""

    async def put(self, function: str, *mappings: str) -> None:
        """Replace one function, of these mappings or of all."""
        await self.hand.execute(
            ";".join(
                {
                    fill(for_each_part(function, self.parts[name]), words): None
                    for name, words in self.words.items()
                    if not mappings or name in mappings
                }
            )
        )


async def open_stage(lab: Lab, dsn: str) -> Stage:
    """In a lab that has a clock of its own; `dsn` is its superuser's."""
    words, parts, functions = {}, {}, {}
    for name, each in MAPPINGS.items():
        await lab.admin.execute(
            f"CREATE TABLE {each.table} (LIKE public.email INCLUDING ALL) WITH (autovacuum_enabled = false)"
        )
        shape = await read_shape(lab.admin, each)
        await lab.admin.execute(render("tasks.up.sql", each, shape))
        for file in mapping_files(each, "index"):
            for statement in index_steps(file, each, shape).values():
                await lab.admin.execute(statement)
        for file in mapping_files(each, "alwaysup"):
            await lab.admin.execute(render(file, each, shape))
        words[name], functions[name] = holes(each, shape), function_set(each, shape)
        parts[name] = len(parts_of_look(each, shape))
    await lab.admin.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA session_lock TO app")
    somebody, hand = [await asyncpg.connect(dsn) for _ in range(2)]
    lab.opened += [somebody, hand]
    connections = {name: await lab.connect() for name in "ABC"}
    for connection in (somebody, hand, *connections.values()):
        await connection.execute(SETTINGS)
    letters = await hand.fetch(
        "SELECT l, pg_catalog.hash_record_extended(ROW(l), 0) AS value FROM unnest($1::text[]) AS l ORDER BY 2", [*LETTERS]
    )  # fmt: skip
    ring = {row["value"]: row["l"] for row in letters}
    return Stage(lab, hand, words, parts, functions, connections, somebody, ring, await _seeds(hand, ring))


async def _seeds(hand: asyncpg.Connection, letters: dict[int, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    drawn = await hand.fetch(
        "SELECT g / 2000.0::double precision AS seed, setseed(g / 2000.0), ((random() - 0.5) * 1.8e19)::bigint AS turn FROM generate_series(1, 2000) AS g"
    )
    for row in drawn:
        before = [letter for value, letter in letters.items() if value <= row["turn"]]
        if before:
            found.setdefault(before[-1], row["seed"])
    return found
