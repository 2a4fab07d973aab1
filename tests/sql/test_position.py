"""Looks that begin at a position: in orders of any direction they go on where the last one has ended, and walk over nothing before it."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import asyncpg
import pytest

from session_lock.ordering import for_each_part
from session_lock.table import TaskTable
from tests.sql.schedule import open_lab
from tests.sql.test_migrations import notes

THING = TaskTable("public.thing", key="id", pending="NOT done", finish="done = true")

DDL = """
CREATE TABLE public.thing (
  id integer PRIMARY KEY, done boolean NOT NULL DEFAULT false, priority smallint NOT NULL DEFAULT 0, urgent boolean NOT NULL DEFAULT false,
  day date NOT NULL DEFAULT 'epoch', weight real NOT NULL DEFAULT 0, label text NOT NULL DEFAULT '', note text, price numeric NOT NULL DEFAULT 0
)
"""

ORDERS = [
    ("priority", "day"),
    ("priority DESC", "day DESC"),
    ("priority DESC", "day"),
    ("priority", "day DESC", "weight"),
    ("urgent DESC", "priority", "day DESC"),
    ("weight DESC", "label"),
    ("label", "urgent DESC", "priority DESC", "day"),
]


async def things(lab, order, dice):
    """Sixty of them, with few different values; returns their keys in this order."""
    await lab.admin.executemany(
        "INSERT INTO public.thing (id, priority, urgent, day, weight, label) VALUES ($1, $2, $3, $4::text::date, $5, $6)",
        [
            (id_, dice.choice([-32768, 0, 1, 32767]), dice.random() < 0.5, dice.choice(["-infinity", "2026-01-01", "infinity"]),
             dice.choice([float("-inf"), -0.5, 2.5, float("nan")]), dice.choice(["", "a", 'é, "x"]']))
            for id_ in range(60)
        ],
    )  # fmt: skip
    return await lab.admin.fetchval(
        f"SELECT array_agg(id ORDER BY {', '.join(order)}, available_at, id) FROM public.thing"
    )


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
async def test_look_after_look_all_are_found_in_order_from_one_position_to_the_next(database, order):
    dice = random.Random(str(order))
    async with open_lab(database, table=replace(THING, order_by=order), ddl=DDL) as lab:
        expected = await things(lab, order, dice)
        runner = await lab.runner(name="thing")
        first = await runner.get_work(7)
        found, position = first.keys, first.position
        while len(found) < 60:
            limit = dice.randint(1, 9)
            work = await runner.get_work(limit, held=found, position=position)
            assert work.keys == expected[len(found) : len(found) + limit]
            found, position = [*found, *work.keys], work.position
        assert found == expected
        assert (await runner.get_work(held=found, position=position)).keys == []


@pytest.mark.parametrize("order", [("available_at",), ("priority DESC", "available_at")], ids=", ".join)
async def test_a_look_from_a_position_reads_nothing_of_what_is_before_it(database, order):
    """Of 59,000 dead entries that an old snapshot keeps, in the same priority."""
    async with open_lab(database, table=replace(THING, order_by=order), ddl=DDL) as lab:
        await lab.admin.execute(
            "INSERT INTO public.thing (id, priority, available_at) SELECT g, 5, 'epoch' FROM generate_series(1, 60000) AS g; ANALYZE public.thing"
        )
        runner = await lab.start_session(lab.admin, name="thing")
        old = await asyncpg.connect(database.admin_dsn)
        async with old.transaction(isolation="repeatable_read"):
            await old.fetch("SELECT count(*) FROM public.thing")
            await lab.admin.execute("UPDATE public.thing SET done = true WHERE id < 59000")
            await lab.admin.execute("SET plan_cache_mode = force_generic_plan")
            position = (await runner.get_work(2)).position
            blocks = [await read_by(lab, runner, at) for at in (position, None, position)]
        await old.close()
    assert blocks[0] < blocks[1] / 3, blocks
    assert blocks[2] < blocks[1] / 3, blocks


async def read_by(lab, runner, position, until=None, *, tasks=3):
    """How many blocks a look from there, as far as there, has read; it is undone."""
    functions = f"session_lock.get_work_{runner.functions}"
    transaction = lab.admin.transaction()
    await transaction.start()
    try:
        (plan,) = json.loads(
            await lab.admin.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM {functions}($1, $2, 3, '{{}}', $3, $4, true, NULL, '{{}}', '{{}}')",
                runner.id,
                runner.nonce,
                position,
                until,
            )  # fmt: skip
        )
    finally:
        await transaction.rollback()
    assert plan["Plan"]["Actual Rows"] == tasks + 1
    return plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (("note",), "note may be NULL"),
        (("priority", "label DESC"), "label is text, descending"),
        (("price",), "price is numeric"),
    ],
    ids=["null", "text", "numeric"],
)
async def test_an_order_without_positions_works_without_and_check_says_why(database, order, why):
    table = replace(THING, order_by=order)
    async with open_lab(database, table=table, ddl=DDL) as lab:
        await lab.admin.execute("INSERT INTO public.thing (id) VALUES (1), (2)")
        runner = await lab.runner(name="thing")
        work = await runner.get_work(1)
        assert (work.keys, work.position) == ([1], None)
        assert (await runner.get_work(held=[1], position='["", "epoch", 9]')).keys == [2]
        assert f"order_by: {why}, so each look for work begins at the start of the order" in str(
            await notes(lab.admin, table)
        )


async def test_of_an_order_with_positions_check_says_nothing(database):
    table = replace(THING, order_by=ORDERS[-1])
    async with open_lab(database, table=table, ddl=DDL) as lab:
        assert "each look for work begins at the start" not in str(await notes(lab.admin, table))


def test_what_is_for_each_part_is_written_once_for_each():
    text = "(\n  -- for each part of the order\n  a __from_position__\n  -- as far as here\n  b\n)"
    assert for_each_part(text, 1) == "(\n  a __from_position__\n  b\n)"
    assert for_each_part(text, 2) == "(\n  a __from_position__\n  UNION ALL\n  a __from_position_b__\n  b\n)"


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
async def test_a_look_from_one_position_to_another_leaves_out_nothing_between_them(database, order):
    """And behind the second one no more than what is equal up to a change of direction, or to a column of text."""
    dice = random.Random(str(order))
    async with open_lab(database, table=replace(THING, order_by=order), ddl=DDL) as lab:
        expected = await things(lab, order, dice)
        runner = await lab.runner(name="thing")
        positions = [(await runner.get_work(1, held=expected[:number])).position for number in range(60)]
        await lab.admin.execute("UPDATE public.thing SET session_id = NULL")
        beyond = 0
        for _ in range(40):
            first, last = sorted(dice.sample(range(60), 2))
            for position, begin in ((positions[first], first), (None, 0)):
                work = await runner.get_work(60, held=[], position=position, until=positions[last])
                between = expected[begin : last + 1]
                assert work.keys[: len(between)] == between
                assert work.keys == [key for key in expected[begin:] if key in work.keys]
                assert work.next_due is None
                beyond += len(work.keys) - len(between)
        changes = len({column.endswith("DESC") for column in (*order, "id")}) > 1
        assert beyond == 0 or changes or "label" in order


@pytest.mark.parametrize(
    "order", [("available_at",), ("available_at", "label"), ("priority DESC", "available_at")], ids=", ".join
)
async def test_a_look_from_one_position_to_another_reads_nothing_of_what_is_behind_it(database, order):
    """Of 60,000 dead entries that an old snapshot keeps; each of the positions was once that of a task."""
    async with open_lab(database, table=replace(THING, order_by=order), ddl=DDL) as lab:
        await lab.admin.execute(
            """
            INSERT INTO public.thing (id, priority, label, available_at)
            SELECT g, 5, to_char(g, '00000'), 'epoch'::timestamptz + g * interval '1 second' FROM generate_series(1, 60000) AS g;
            ANALYZE public.thing
            """
        )
        runner = await lab.start_session(lab.admin, name="thing")
        old = await asyncpg.connect(database.admin_dsn)
        async with old.transaction(isolation="repeatable_read"):
            await old.fetch("SELECT count(*) FROM public.thing")
            marks = []
            for at in (1, 20_000, 23_000, 59_000):
                await lab.admin.execute("UPDATE public.thing SET done = true WHERE id < $1", at)
                marks.append((await runner.get_work(1)).position)
            await lab.admin.execute(
                "UPDATE public.thing SET done = false, session_id = NULL WHERE id IN (1, 22000, 22001)"
            )
            await lab.admin.execute("SET plan_cache_mode = force_generic_plan")
            piece = await read_by(lab, runner, marks[1], marks[2], tasks=2)
            await lab.admin.execute("UPDATE public.thing SET done = true WHERE id = 1")
            whole, onward = await read_by(lab, runner, None), await read_by(lab, runner, marks[2])
        await old.close()
    assert piece - onward < (whole - onward) / 5, (piece, whole, onward)
