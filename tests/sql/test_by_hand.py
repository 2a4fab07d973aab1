"""`sql/by_hand`: the template is sound, the example is the template filled in, and it does what a mapping's functions do."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import pglast
import pytest

from session_lock import Batch, PostgresDatabase, Runner, Settings, Task
from session_lock.schema import source
from tests.sql.schedule import Actor, Lab, sqlstate
from tests.sql.test_sources import code_of, functions, option

UP, ALWAYS = "by_hand/tasks.up.sql", "by_hand/tasks.alwaysup.sql"

FILLED = {
    "TODO_NAME": "packing",
    "TODO_TABLE": "shop.orders",
    "TODO_KEY": "id",
    "TODO_KEY_TYPE": "bigint",
    "TODO_TASKS AS t": "(shop.orders AS t JOIN shop.customer AS c ON c.id = t.customer_id)",
    "TODO_PENDING": (
        "t.state = 'new' AND c.blocked_at IS NULL AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = t.id)"
    ),
    "TODO_FINISH = DEFAULT": "state = 'packed', packed_at = session_lock.clock()",
    "TODO_DISCARD = DEFAULT": "state = 'cancelled'",
    "TODO_ORDER": "c.is_vip DESC, t.placed_at",
    "TODO_COLUMNS text": "id bigint, customer text, placed_at timestamptz",
    "TODO_SELECT": "t.id, c.name, t.placed_at",
    "TODO_INDEX": "placed_at",
    "TODO_INDEX_CONDITION": "state = 'new'",
}


def fill(text: str, words: dict[str, str]) -> str:
    """Longest first, in one pass. What follows a name, such as `_pending`, stays."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: words[match[0]], text)


def bare(text: str) -> str:
    """What PostgreSQL reads of it, in one form of spacing."""
    text = re.sub(r"\s+", " ", code_of(text))
    return re.sub(r"(?<=\() | (?=[),;])", "", text).strip()


# The text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [UP, ALWAYS, "by_hand/example.sql"])
def test_it_is_valid_sql_as_it_stands(name):
    text = source(name)
    assert pglast.parse_sql(text)
    for _, _, function in functions(text):
        assert pglast.parse_plpgsql(function.replace("TODO_KEY_TYPE", "bigint"))


def test_the_example_is_the_template_filled_in():
    example = bare(source("by_hand/example.sql"))
    assert "TODO_" not in source("by_hand/example.sql")
    for name in (UP, ALWAYS):
        filled = fill(source(name), FILLED)
        assert "TODO_" not in filled
        assert bare(filled) in example, f"example.sql differs from {name} with its TODOs filled"


def test_every_todo_is_explained_to_the_reader():
    readme = (source("by_hand/README.md"), source(UP), source(ALWAYS))
    for word in FILLED:
        assert f"`{word}`" in readme[0]
        assert any(word in text for text in readme[1:]), word
    used = set(
        re.findall(r"TODO_(?:[A-Z]+_?)+(?: AS t| = DEFAULT| text)?", code_of(readme[1]) + code_of(readme[2]))
    )
    assert {word.rstrip("_") for word in used} - {"TODO_KEY_TYPE", "TODO_TABLE AS t"} <= FILLED.keys()


def test_the_signatures_are_those_of_a_mapping():
    """Python calls both by the same statements."""

    def signatures(text: str, replacements: dict[str, str]) -> dict[str, str]:
        for old, new in replacements.items():
            text = text.replace(old, new)
        found = {}
        for name, _, function in functions(text):
            found[name] = bare(function.partition("AS $function$")[0][function.index("CREATE") :])
        inner_or_for_people = ("standing", "cancel_task", "retry_tasks", "backlog", "shares", "why")
        return {name: text for name, text in found.items() if not name.startswith(inner_or_for_people)}

    ours = signatures(
        source("tasks.alwaysup.sql"), {"__set__": "_x", "__key_type__": "bigint", "__columns__": "columns"}
    )
    theirs = signatures(
        source(ALWAYS), {"TODO_NAME": "x", "TODO_KEY_TYPE": "bigint", "TODO_COLUMNS": "columns"}
    )
    assert theirs == ours
    assert sorted(ours) == ["end_session_x", "finish_in_x", "finish_tasks_x", "get_work_x", "release_tasks_x"]


def test_the_rules_of_our_own_files_hold():
    code = code_of(source(ALWAYS))
    assert not re.search(r"\bnow\(|clock_timestamp|\btimestamp\b|SAVEPOINT|EXCEPTION WHEN", code)
    for name, function, _ in functions(source(ALWAYS)):
        if name.startswith("standing"):
            continue
        [path] = [each for each in option(function, "set") if each.name == "search_path"]
        assert [arg.val.sval for arg in path.args] == ["pg_catalog", "pg_temp"]


# What it does --------------------------------------------------------------------------------------


@pytest.fixture
async def shop(database):
    """The example as it is shipped; its functions called by the role `app`, with EXECUTE and nothing else."""
    admin = await asyncpg.connect(database.admin_dsn)
    lab = Lab(admin, database.app_dsn, "packing", shipped=True)
    try:
        for name in (
            "sessions.up.sql",
            "sessions.alwaysup.sql",
            "by_hand/example.sql",
            "by_hand/example.sql",
        ):
            await admin.execute(source(name))
        await admin.execute("GRANT USAGE ON SCHEMA session_lock TO app")
        called = ("schema_version", "start_session", "bump_session")
        five = ("get_work", "finish_tasks", "finish_in", "release_tasks", "end_session")
        for function in (*called, *(f"{each}_packing" for each in five)):
            await admin.execute(f"GRANT EXECUTE ON FUNCTION session_lock.{function} TO app")
        await lab.own_clock()
        await admin.execute(
            """
            INSERT INTO shop.customer (id, name, is_vip) VALUES (1, 'Ann', false), (2, 'Bo', true), (3, 'Cy', false);
            INSERT INTO shop.orders (customer_id, placed_at)
            SELECT 1 + g % 3, timestamptz '2026-01-01 00:00+00' + make_interval(hours => g) FROM generate_series(1, 6) AS g;
            INSERT INTO shop.payment (order_id) SELECT id FROM shop.orders WHERE id <> 6;
            UPDATE shop.customer SET blocked_at = now() WHERE name = 'Cy';
            """
        )
        yield lab
    finally:
        await lab.close()


OPEN = [1, 4, 3]
"""Bo's two first, who is a VIP, then Ann's by age. Two are Cy's, who is blocked; one of Ann's is not paid."""


async def start(lab: Lab, ttl: float = 300) -> Actor:
    return await lab.runner(ttl=ttl, name="packing")


async def order(lab: Lab, key: int) -> asyncpg.Record:
    return await lab.admin.fetchrow("SELECT * FROM shop.orders WHERE id = $1", key)


async def test_what_is_a_task_and_in_which_order_is_said_by_three_tables(shop):
    runner = await start(shop)
    work = await runner.get_work()
    assert work.keys == OPEN
    assert await runner.finish(work.claims) == dict.fromkeys(OPEN, "finished")
    assert (await order(shop, 1))["packed_at"] is not None
    await shop.admin.execute(
        "INSERT INTO shop.payment VALUES (6); UPDATE shop.customer SET blocked_at = NULL WHERE name = 'Cy'"
    )
    assert (await runner.get_work()).keys == [2, 5, 6]


async def test_what_decode_gets(shop):
    runner = await start(shop)
    rows = await runner.connection.fetch(
        "SELECT * FROM session_lock.get_work_packing($1, $2, 1, '{}', NULL, NULL, false, NULL, '{}', '{}')",
        runner.id,
        runner.nonce,
    )
    task, state = rows
    assert [row["kind"] for row in rows] == ["task", "state"]
    assert (task["task_key"], task["task_attempt"], task["id"], task["customer"]) == (1, 1, 1, "Bo")
    assert (state["task_key"], state["id"], state["customer"]) == (None, None, None)
    assert 299 < state["lease_left"] <= 300


async def test_the_fence(shop):
    first, second = await start(shop, ttl=30), await start(shop)
    old = (await first.get_work()).claims
    await shop.advance(31)
    for call in (first.bump(), first.get_work(), first.finish(old), first.finish_in(old), first.release(old)):
        assert await sqlstate(call) == "SL001"
    new = (await second.get_work()).claims
    assert new == dict.fromkeys(OPEN, 2)
    assert await second.finish(old) == dict.fromkeys(OPEN, "lost")
    assert await sqlstate(second.finish_in(new | {1: 1})) == "SL002"
    assert await second.finish(new | {77: 1}) == dict.fromkeys(OPEN, "finished") | {77: "unknown"}
    assert await second.finish(new) == dict.fromkeys(OPEN, "already yours")


async def test_rescue_with_a_locked_row_and_the_end_of_the_list(shop):
    dead, other = await start(shop, ttl=30), await start(shop)
    await dead.get_work()
    await shop.advance(31)
    async with shop.admin.transaction():
        await shop.admin.execute("SELECT FROM shop.orders WHERE id = 4 FOR UPDATE")
        waits, work = await shop.begin(other, other.get_work())
        assert not waits
        assert (await work).claims == {1: 2, 3: 2}
    assert (await shop.session(dead))["swept_at"] is None
    assert (await other.get_work(held=[1, 3])).claims == {4: 2}
    await other.get_work(held=OPEN)
    assert (await shop.session(dead))["swept_at"] is not None


async def test_what_only_names_a_dead_session_is_found_again(shop):
    dead, other = await start(shop, ttl=30), await start(shop)
    await dead.get_work(1)
    await shop.advance(31)
    await shop.admin.execute("UPDATE shop.orders SET state = 'cancelled' WHERE id = 1")
    held = (await other.get_work()).keys
    assert held == [4, 3]
    assert (await shop.session(dead))["swept_at"] is not None
    await shop.admin.execute("UPDATE shop.orders SET state = 'new' WHERE id = 1")
    assert [key for _ in range(2) for key in (await other.get_work(held=held)).keys] == [1]
    await shop.admin.execute("DELETE FROM session_lock.session WHERE id = $1", other.id)
    last = await start(shop)
    assert [key for _ in range(2) for key in (await last.get_work()).keys] == OPEN


async def test_reopened_and_closed_by_hand(shop):
    runner, other = await start(shop), await start(shop)
    claims = (await runner.get_work()).claims
    await runner.finish({1: claims[1]})
    await shop.admin.execute("UPDATE shop.orders SET state = 'new' WHERE id = 1")
    assert (await other.get_work()).claims == {1: 2}
    await shop.admin.execute("UPDATE shop.orders SET state = 'cancelled' WHERE id = 4")
    assert await runner.finish({4: claims[4]}) == {4: "lost"}
    assert (await order(shop, 4))["state"] == "cancelled"
    await shop.admin.execute("UPDATE shop.orders SET state = 'new' WHERE id = 4")
    assert (await other.get_work(held=[1])).claims == {4: 2}


async def test_a_row_that_is_closed_while_finish_in_waits_for_it_is_not_finished(shop):
    runner = await start(shop)
    claims = (await runner.get_work(1)).claims
    async with shop.admin.transaction():
        await shop.admin.execute("UPDATE shop.orders SET state = 'cancelled' WHERE id = 1")
        waits, finish = await shop.begin(runner, sqlstate(runner.finish_in(claims)))
        assert waits
    assert await finish == "SL002"
    assert (await order(shop, 1))["state"] == "cancelled"


async def test_finish_in_is_of_one_piece_with_what_is_written_beside_it(shop):
    runner, keepalive = await start(shop), await shop.connect()
    claims = (await runner.get_work()).claims
    transaction = runner.connection.transaction()
    await transaction.start()
    await runner.finish_in(claims)
    left = "SELECT current_setting('idle_in_transaction_session_timeout')::interval"
    assert 290 < (await runner.connection.fetchval(left)).total_seconds() <= 300
    second = Actor(keepalive, "packing", runner.id, runner.nonce)
    waits, end = await shop.begin(second, second.end())
    assert waits
    await transaction.rollback()
    assert await end is True
    assert (await order(shop, 1))["state"] == "new"


async def test_release_in_every_way(shop):
    runner = await start(shop)
    claims = (await runner.get_work()).claims
    assert await runner.release({1: claims[1]}, error="no paper") == {1: "released"}
    assert await runner.release({4: claims[4]}, after=60, give_back=False) == {4: "released"}
    assert await runner.release({3: claims[3]}, discard=True, error="gone") == {3: "discarded"}
    assert await runner.release({1: claims[1], 3: claims[3]}) == {1: "already yours", 3: "already yours"}
    assert [(await order(shop, key))["attempts"] for key in (1, 4, 3)] == [0, 1, 1]
    errors = await shop.admin.fetch("SELECT task_key, attempt, error FROM session_lock.failure ORDER BY id")
    assert [tuple(row) for row in errors] == [("1", 1, "no paper"), ("3", 1, "gone")]

    again = (await runner.get_work()).claims
    assert again == {1: 2}
    assert await runner.release(again, after=float("inf")) == {1: "parked"}
    await shop.advance(61)
    assert (await runner.get_work()).claims == {4: 2}


async def test_a_stale_claim_has_no_say_in_how_a_good_one_is_given_back(shop):
    runner = await start(shop)
    await runner.get_work(1)
    assert (await runner.get_work(1)).claims == {1: 2}
    await shop.admin.execute("UPDATE shop.orders SET attempts = 5 WHERE id = 1")
    rows = await runner.connection.fetch(
        """
        SELECT * FROM session_lock.release_tasks_packing(
          $1, $2, '{1,1,1}', '{1,2,2}', '{NULL,NULL,NULL}', '{true,true,true}', '{true,false,false}', '{NULL,NULL,NULL}', false
        )
        """,
        runner.id, runner.nonce,
    )  # fmt: skip
    assert sorted(row["outcome"] for row in rows) == ["lost", "released"]
    row = await order(shop, 1)
    assert (row["state"], row["attempts"]) == ("new", 4)


async def test_end(shop):
    runner, other = await start(shop), await start(shop)
    claims = (await runner.get_work()).claims
    assert await runner.end({1: claims[1]}) is True
    assert await runner.end() is False
    assert (await other.get_work()).attempts == {1: 1, 4: 2, 3: 2}  # what was given back did not count


async def test_shares_and_claims_whose_answer_was_lost(shop):
    runner, other = await start(shop), await start(shop)
    work = await runner.get_work(over_share=False)
    assert (work.keys, work.share) == (OPEN[:2], 2)
    assert (await other.get_work(over_share=False)).keys == OPEN[2:]
    healed = await runner.get_work(held=[])
    assert (healed.claims, healed.attempts) == ({1: 2, 4: 2}, {1: 1, 4: 1})
    assert (await runner.get_work(held=[1, 4], finished={1: 2})).outcomes == {1: "finished"}


async def test_a_finish_that_leaves_a_row_pending_and_a_check_change_nothing(shop):
    runner = await start(shop)
    claims = (await runner.get_work()).claims
    await shop.admin.execute("ALTER TABLE shop.orders ADD CHECK (id <> 3 OR state <> 'packed')")
    for call in (
        runner.finish(claims),
        runner.finish_in(claims),
        runner.get_work(0, held=OPEN, finished=claims),
    ):
        assert await sqlstate(call) == "23514"
    await shop.admin.execute(
        """
        CREATE FUNCTION shop.meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.state := 'new'; RETURN new; END $$;
        CREATE TRIGGER meddle BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.meddle();
        """
    )
    for call in (runner.finish({1: 1}), runner.finish_in({1: 1})):
        assert await sqlstate(call) == "SL003"
    assert [row["session_id"] for row in [await order(shop, key) for key in OPEN]] == [runner.id] * 3


async def test_the_role_has_no_other_rights(shop):
    runner = await start(shop)
    for statement in (
        "SELECT FROM shop.orders",
        "SELECT session_lock.standing_packing(1, '{1}', '{1}')",
        "SELECT FROM session_lock.session",
    ):
        assert await sqlstate(runner.execute(statement)) == "42501"


# Under the Runner ----------------------------------------------------------------------------------


@dataclass
class Order:
    id: int
    customer: str
    placed_at: datetime


async def test_it_runs_under_the_runner(shop, database):
    packed: list[Order] = []

    async def pack(batch: Batch[Order]) -> list[Task[Order]]:
        packed.extend(task.data for task in batch)
        first, *rest = batch
        async with first.transaction() as connection:  # it may finish, and nothing else
            assert await connection.fetchval("SELECT current_user") == "app"
        return rest

    orders = PostgresDatabase(database.app_dsn, functions="packing", key=int, decode=Order)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        due = await admin.fetch(
            "SELECT o.id, c.name FROM shop.orders AS o JOIN shop.customer AS c ON c.id = o.customer_id"
            " WHERE c.blocked_at IS NULL AND EXISTS (SELECT FROM shop.payment AS p WHERE p.order_id = o.id)"
            " ORDER BY c.is_vip DESC, o.placed_at"
        )
        async with Runner(orders, pack, Settings(start_jitter=0, poll_interval=0.05)):
            async with asyncio.timeout(10):
                while await admin.fetchval("SELECT count(*) FROM shop.orders WHERE state = 'packed'") < len(
                    due
                ):
                    await asyncio.sleep(0.02)
        assert [(order.id, order.customer) for order in packed] == [tuple(row) for row in due]
        assert await admin.fetchval("SELECT count(*) FROM shop.orders WHERE session_id IS NOT NULL") == 0
    finally:
        await orders.close()
        await admin.close()
