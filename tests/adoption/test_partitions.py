"""Partitioned task tables on a real PostgreSQL: what is refused, how the index comes to each partition, and what work does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from session_lock import Limit, PostgresDatabase, Rate, Runner, Settings, each
from session_lock.catalog import read_shape
from session_lock.errors import SchemaError
from session_lock.indexes import index_steps
from session_lock.migrations import install, peek, pending_summary, prune, validate
from session_lock.names import quote_name
from session_lock.objects import function_set, index_name, partition_index_name
from session_lock.schema import mapping_files, render
from session_lock.table import Shape, TaskTable
from tests.conftest import APP_ROLE
from tests.sql.schedule import Actor, Lab, open_lab, sqlstate
from tests.sql.test_migrations import differences, everything, notes, work_once
from tests.support import apply_mapping, until_waited_for

EVENTS = TaskTable(
    "public.event", key="id", pending="done_at IS NULL", finish="done_at = now()", columns=("id", "body")
)

BY_RANGE = """
CREATE TABLE public.event (id bigint PRIMARY KEY, body text, done_at timestamptz) PARTITION BY RANGE (id);
CREATE TABLE public.event_0 PARTITION OF public.event FOR VALUES FROM (0) TO (100);
CREATE TABLE public.event_1 PARTITION OF public.event FOR VALUES FROM (100) TO (200) PARTITION BY HASH (id);
CREATE TABLE public.event_1a PARTITION OF public.event_1 FOR VALUES WITH (modulus 2, remainder 0);
CREATE TABLE public.event_1b PARTITION OF public.event_1 FOR VALUES WITH (modulus 2, remainder 1);
CREATE TABLE public.event_rest PARTITION OF public.event DEFAULT;
-- its columns are in another order, and one is gone
CREATE SCHEMA old;
CREATE TABLE old."Event 2" (gone integer, done_at timestamptz, id bigint NOT NULL, body text);
ALTER TABLE old."Event 2" DROP COLUMN gone;
ALTER TABLE public.event ATTACH PARTITION old."Event 2" FOR VALUES FROM (200) TO (300);
"""
NAMES = ('old."Event 2"', "public.event_0", "public.event_1a", "public.event_1b", "public.event_rest")
ADD = "INSERT INTO public.event (id, body) SELECT g, 'b' || g FROM generate_series($1::bigint, $2::bigint, $3::bigint) AS g"


@pytest.fixture
async def bare(database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def admin(bare) -> asyncpg.Connection:
    await bare.execute(BY_RANGE)
    return bare


async def index_of(connection) -> str:
    return index_name(function_set(EVENTS, await read_shape(connection, EVENTS)))


async def parts(connection) -> dict[str, bool]:
    """By partition: whether its part of the index is valid."""
    rows = await connection.fetch(
        """
        SELECT format('%I.%I', n.nspname, c.relname), i.indisvalid
          FROM pg_partition_tree(to_regclass($1)) AS p
          JOIN pg_index AS i ON i.indexrelid = p.relid
          JOIN pg_class AS c ON c.oid = i.indrelid
          JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE p.isleaf
        """,
        f"public.{await index_of(connection)}",
    )
    return dict(map(tuple, rows))


def part_of(shape: Shape, number: int) -> str:
    """The part of the index in one of the partitions, if we have built it."""
    partition = shape.partitions[number]
    return f"{partition[0]}.{partition_index_name(index_name(function_set(EVENTS, shape)), partition)}"


async def invalid(connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT n.nspname || '.' || c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE NOT i.indisvalid"
    )
    return [row[0] for row in rows]


async def add_columns(connection) -> Shape:
    shape = await read_shape(connection, EVENTS)
    await connection.execute(render("tasks.up.sql", EVENTS, shape))
    return shape


# What is refused -----------------------------------------------------------------------------------


REFUSED = {
    "the key is unique together with what it is partitioned by": (
        "CREATE TABLE public.event (id bigint, done_at timestamptz, body text, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        ("the key public.event.id is not unique: PostgreSQL keeps it so only in a table that is partitioned by nothing else, and "
        "public.event is by RANGE (at): partition it by the key (by range, a uuid of version 7 or a growing number is in the order "
        "of time; or by hash), or keep what is to do in a table of its own"),
    ),
    "a partition is partitioned by another column": (
        ("CREATE TABLE public.event (id bigint NOT NULL, body text, done_at timestamptz) PARTITION BY RANGE (id);"
        "CREATE TABLE public.event_0 PARTITION OF public.event FOR VALUES FROM (0) TO (9) PARTITION BY LIST (body)"),
        "public.event_0 is by LIST (body)",
    ),
    "by an expression": (
        "CREATE TABLE public.event (id bigint NOT NULL, body text, done_at timestamptz) PARTITION BY RANGE (abs(id))",
        "public.event is by RANGE (abs(id))",
    ),
    "unique in each partition only": (
        ("CREATE TABLE public.event (id bigint NOT NULL, body text, done_at timestamptz) PARTITION BY HASH (id);"
        "CREATE TABLE public.event_0 PARTITION OF public.event (PRIMARY KEY (id)) FOR VALUES WITH (modulus 2, remainder 0)"),
        "the key public.event.id is not unique: give it a primary key",
    ),
    "a unique index that not all partitions have yet": (
        ("CREATE TABLE public.event (id bigint NOT NULL, body text, done_at timestamptz) PARTITION BY HASH (id);"
        "CREATE TABLE public.event_0 PARTITION OF public.event FOR VALUES WITH (modulus 1, remainder 0);"
        "CREATE UNIQUE INDEX ON ONLY public.event (id)"),
        "the key public.event.id is not unique: give it a primary key",
    ),
    "a foreign table is a partition": (
        ("CREATE TABLE public.event (id bigint NOT NULL, body text, done_at timestamptz) PARTITION BY RANGE (id);"
        "CREATE FOREIGN DATA WRAPPER nobody; CREATE SERVER nowhere FOREIGN DATA WRAPPER nobody;"
        "CREATE FOREIGN TABLE public.event_0 PARTITION OF public.event FOR VALUES FROM (0) TO (9) SERVER nowhere"),
        "cannot be made so while public.event_0, a foreign table, is a partition: detach that",
    ),
    "others inherit from it": (
        ("CREATE TABLE public.event (id bigint PRIMARY KEY, body text, done_at timestamptz);"
        "CREATE TABLE public.event_0 (PRIMARY KEY (id)) INHERITS (public.event)"),
        "public.event has tables that inherit from it (public.event_0), over which PostgreSQL keeps no key unique",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("ddl", "reason"), REFUSED.values(), ids=list(REFUSED))
async def test_a_table_over_which_no_key_is_unique_is_refused_before_anything_changes(bare, ddl, reason):
    await bare.execute(ddl)
    before = await everything(bare)
    for action in (validate, install, peek):
        with pytest.raises(SchemaError) as refused:
            await action(bare, EVENTS)
        assert reason in str(refused.value)
    assert await differences(bare, EVENTS) == [str(refused.value)]
    assert await everything(bare) == before


async def test_a_partition_alone_is_refused_and_a_child_that_inherits_is_a_table_as_any_other(admin):
    with pytest.raises(
        SchemaError, match="public.event_0 is a partition of public.event, .*name the whole table"
    ):
        await install(admin, replace(EVENTS, table="public.event_0", name="part"))
    await admin.execute("CREATE TABLE public.base (id bigint PRIMARY KEY, body text, done_at timestamptz)")
    await admin.execute("CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.base)")
    child = replace(EVENTS, table="public.child", name="child")
    await install(admin, child)
    await admin.execute("INSERT INTO public.base (id) VALUES (1); INSERT INTO public.child (id) VALUES (1)")
    assert [row["task_key"] for row in await work_once(admin, child)] == [1]
    assert await admin.fetchval("SELECT count(*) FROM ONLY public.base WHERE done_at IS NULL") == 1


async def test_a_unique_key_keeps_foreign_tables_out(admin):
    """The server itself does: so no claim ever has to lock a row that is elsewhere."""
    await admin.execute(
        "CREATE FOREIGN DATA WRAPPER nobody; CREATE SERVER nowhere FOREIGN DATA WRAPPER nobody"
    )
    with pytest.raises(asyncpg.WrongObjectTypeError):
        await admin.execute(
            "CREATE FOREIGN TABLE far PARTITION OF public.event FOR VALUES FROM (900) TO (999) SERVER nowhere"
        )


async def test_a_role_that_does_not_own_each_partition_is_refused_before_anything_changes(database, admin):
    await admin.execute(f"ALTER TABLE public.event OWNER TO {APP_ROLE}")
    await admin.execute(f"GRANT CREATE ON SCHEMA public TO {APP_ROLE}")
    await admin.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO {APP_ROLE}')
    app = await asyncpg.connect(database.app_dsn)
    for name in (
        "public.event_0",
        "public.event_1",
        "public.event_1a",
        "public.event_1b",
        "public.event_rest",
    ):
        with pytest.raises(SchemaError, match=f"'{APP_ROLE}' does not own .*, a partition of public.event"):
            await install(app, EVENTS)
        await admin.execute(f"ALTER TABLE {name} OWNER TO {APP_ROLE}")
    await admin.execute(f'ALTER TABLE old."Event 2" OWNER TO {APP_ROLE}')
    with pytest.raises(
        SchemaError, match="in the schema 'old', where the partition old.\"Event 2\" is: GRANT"
    ):
        await install(app, EVENTS)
    await admin.execute(f"GRANT USAGE, CREATE ON SCHEMA old TO {APP_ROLE}")
    await install(app, EVENTS)
    assert await differences(app, EVENTS) == []
    await app.close()


# How the index comes to each partition ---------------------------------------------------------------


async def test_it_is_installed_while_others_write_and_once(database, admin):
    await admin.execute(ADD, 0, 399, 10)
    await add_columns(admin)
    installer, writer = await asyncpg.connect(database.admin_dsn), await asyncpg.connect(database.admin_dsn)
    slow = admin.transaction()
    await slow.start()
    await admin.execute("UPDATE public.event SET body = 'x' WHERE id = 200")
    installing = asyncio.create_task(install(installer, EVENTS, grant_to=APP_ROLE))
    await until_waited_for(admin)  # the first of the builds does
    await writer.execute("SET lock_timeout = '1s'")
    await writer.execute(ADD, 1, 391, 10)
    await slow.commit()
    assert await installing
    assert await differences(admin, EVENTS, role=APP_ROLE) == []
    assert await parts(admin) == dict.fromkeys(NAMES, True)
    before = await everything(admin)
    assert await install(admin, EVENTS, grant_to=APP_ROLE) == []
    assert await everything(admin) == before
    await installer.close()
    await writer.close()


async def test_an_installation_that_died_in_the_middle_is_healed_by_the_next(database, admin):
    """It died in the second build: the first is kept, what is left of the second is dropped."""
    await admin.execute(ADD, 0, 399, 10)
    shape = await add_columns(admin)
    builds = list(index_steps("tasks.index.sql", EVENTS, shape).values())
    await admin.execute(builds[0])
    first = await admin.fetchval("SELECT to_regclass($1)::oid", part_of(shape, 0))
    installer = await asyncpg.connect(database.admin_dsn)
    slow = admin.transaction()
    await slow.start()
    await admin.execute("UPDATE public.event SET body = 'x' WHERE id = 200")
    installing = asyncio.create_task(install(installer, EVENTS))
    await until_waited_for(admin)
    await admin.execute("SELECT pg_terminate_backend($1)", installer.get_server_pid())
    with pytest.raises(Exception, match="connection"):
        await installing
    await slow.commit()
    assert await invalid(admin) == [part_of(shape, 1)]

    index = await index_of(admin)
    missing = f"the index public.{index} is missing: run session-lock install"
    assert missing in await differences(admin, EVENTS)
    for _ in range(2):
        with pytest.raises(asyncpg.RaiseError, match="is invalid: its build has failed") as refused:
            await admin.execute(builds[-1])  # as a migration tool would
        name = part_of(shape, 1).removeprefix("public.")
        assert refused.value.hint == f"DROP INDEX CONCURRENTLY {name}, and run what builds it again"
    assert f"built the index {index} on public.event" in await install(admin, EVENTS)
    assert await parts(admin) == dict.fromkeys(NAMES, True)
    assert await admin.fetchval("SELECT to_regclass($1)::oid", part_of(shape, 0)) == first
    assert await differences(admin, EVENTS) == []
    assert await invalid(admin) == []


async def test_the_file_of_the_columns_drops_what_a_failed_build_has_left(admin):
    shape = await add_columns(admin)
    await admin.execute(next(iter(index_steps("tasks.index.sql", EVENTS, shape).values())))
    await admin.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass($1)", part_of(shape, 0)
    )
    await admin.execute(render("tasks.up.sql", EVENTS, shape))
    assert await admin.fetchval("SELECT to_regclass($1)", part_of(shape, 0)) is None


@pytest.mark.parametrize(
    "table", [EVENTS, replace(EVENTS, limits=(Limit(5), Limit(2, by="body")))], ids=["plain", "limits"]
)
async def test_check_names_the_partition_whose_part_is_missing_or_invalid(admin, table):
    await install(admin, table)
    wholes = "SELECT 'public.' || relname FROM pg_class WHERE relkind = 'I' AND relname ~ '^(pending|values|held)_event_'"
    for (index,) in await admin.fetch(wholes):
        part = await admin.fetchval(
            "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid"
            " WHERE inhparent = to_regclass($1) AND indrelid = 'public.event_0'::regclass",
            index,
        )
        await admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass($1)", part)
        told = f"the index {index} is missing or invalid in public.event_0: run session-lock install"
        assert await differences(admin, table) == [told]
        await install(admin, table)
        assert await differences(admin, table) == []

        definition = await admin.fetchval("SELECT pg_get_indexdef(to_regclass($1))", index)
        await admin.execute(f"DROP INDEX {index}")
        await admin.execute(definition)  # ON ONLY the whole: as a dump that was not restored to its end
        assert await differences(admin, table) == [told.replace("public.event_0", 'old."Event 2"')]
        await install(admin, table)
        assert await differences(admin, table) == []
        await admin.execute(
            f"DROP INDEX {index}; CREATE INDEX {index.partition('.')[2]} ON public.event (done_at)"
        )
        assert await differences(admin, table) == [
            f"the index {index} has another definition: DROP INDEX, then run session-lock install"
        ]
        await admin.execute(f"DROP INDEX {index}")
        await install(admin, table)


async def test_an_index_that_is_there_already_is_taken_when_a_partition_is_attached(admin):
    """What the page advises for a large one: built concurrently before, nothing is built under ATTACH's lock."""
    await install(admin, EVENTS)
    await admin.execute("CREATE TABLE public.event_4 (LIKE public.event_0)")
    definition = await admin.fetchval(
        "SELECT pg_get_indexdef(to_regclass($1))", f"public.{await index_of(admin)}"
    )
    await admin.execute(
        definition.replace(await index_of(admin), "CONCURRENTLY mine").replace(
            "ONLY public.event", "public.event_4"
        )
    )
    await admin.execute(
        "ALTER TABLE public.event ATTACH PARTITION public.event_4 FOR VALUES FROM (400) TO (500)"
    )
    assert await admin.fetchval("SELECT relispartition FROM pg_class WHERE relname = 'mine'")
    assert await differences(admin, EVENTS) == []


async def test_prune_drops_the_index_of_an_earlier_version_with_its_parts(admin):
    old = replace(EVENTS, pending="done_at IS NULL AND body <> ''")
    await install(admin, EVENTS)
    before = await parts(admin)
    await install(admin, old)
    assert any("another version of this mapping" in note for note in await notes(admin, EVENTS))
    done = await prune(admin, EVENTS)
    assert len([text for text in done if text.startswith("dropped the index")]) == 1
    assert await parts(admin) == before
    assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relname ~ '^pending_'") == 6
    assert await differences(admin, EVENTS) == []


async def test_names_that_need_quotes_and_an_index_of_due_times(bare):
    """All of them are other words inside of a body, a comment and a literal."""
    schema = quote_name("we\"ird  '\n--")
    whole, part = quote_name("e'v\n--\"t"), quote_name("p'1\n-- %s")
    await bare.execute(
        f"CREATE SCHEMA {schema}; CREATE SCHEMA other;"
        f"CREATE TABLE {schema}.{whole} (id bigint PRIMARY KEY, body text, done_at timestamptz) PARTITION BY RANGE (id);"
        f"CREATE TABLE other.{part} PARTITION OF {schema}.{whole} DEFAULT"
    )
    table = replace(
        EVENTS, table=f"{schema}.{whole}", name="odd", order_by=("body", "available_at"), pending="done_at IS NULL -- yet",
        schema="sl'; x\n",
    )  # fmt: skip
    await install(bare, table)
    assert await differences(bare, table) == []
    assert any("session-lock sql due" in text for text in await notes(bare, table))
    shape = await read_shape(bare, table)
    for statement in 2 * list(index_steps("tasks.due.index.sql", table, shape).values()):
        await bare.execute(statement)
    assert not any("session-lock sql due" in text for text in await notes(bare, table))
    await bare.execute(f"INSERT INTO {schema}.{whole} (id, body) VALUES (1, 'a')")
    assert len(await work_once(bare, table)) == 1
    changed = replace(table, pending="done_at IS NULL AND body <> ''")
    await install(bare, changed)
    assert len([text for text in await prune(bare, changed) if text.startswith("dropped the index")]) == 2
    assert await differences(bare, changed) == []


async def test_what_down_takes_away_is_all_of_it(admin):
    async def names() -> set[str]:
        return {each_.split(" ")[-1] for each_ in await everything(admin) if "pg.dropped" not in each_}

    before = await names()
    shape = await read_shape(admin, EVENTS)
    await apply_mapping(admin, EVENTS)
    for file in (*mapping_files(EVENTS, "down"), "sessions.down.sql"):
        await admin.execute(render(file, EVENTS, shape))
    assert await names() - before == set()


async def test_the_notes_are_about_what_is_of_a_partition_too(admin):
    await admin.execute(
        """
        CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER everywhere AFTER UPDATE ON public.event FOR EACH ROW EXECUTE FUNCTION public.note();
        CREATE TRIGGER here AFTER UPDATE ON public.event_0 FOR EACH ROW EXECUTE FUNCTION public.note();
        CREATE PUBLICATION news FOR TABLE public.event_0, public.event_1a;
        """
    )
    await install(admin, EVENTS)
    await admin.execute(
        "CREATE INDEX mine ON public.event_0 (claim_token); CREATE INDEX ours ON public.event (attempts)"
    )
    told = await notes(admin, EVENTS)
    assert len([text for text in told if "trigger 'everywhere'" in text]) == 1
    assert len([text for text in told if "'here' of public.event_0 fires" in text]) == 1
    assert len([text for text in told if "publication 'news'" in text]) == 1
    assert len([text for text in told if re.match(r"the index (public\.)?(mine|ours) contains", text)]) == 2
    assert len([text for text in told if "contains the claim column" in text]) == 2


# What work does --------------------------------------------------------------------------------------


@pytest.fixture
async def lab(database) -> AsyncIterator[Lab]:
    async with open_lab(database, table=EVENTS, ddl=BY_RANGE) as lab:
        yield lab


async def runner(lab: Lab) -> Actor:
    return await lab.runner(name="event")


async def test_partitions_that_come_and_go_are_served(lab):
    """Those that are created, or attached, get columns and index from PostgreSQL; of one that is detached nobody asks."""
    await lab.admin.execute(
        """
        CREATE TABLE public.event_3 PARTITION OF public.event FOR VALUES FROM (300) TO (400);
        CREATE TABLE public.event_4 (LIKE public.event_0 INCLUDING DEFAULTS);
        ALTER TABLE public.event ATTACH PARTITION public.event_4 FOR VALUES FROM (400) TO (500);
        """
    )
    assert await differences(lab.admin, EVENTS) == []
    await lab.admin.execute(ADD, 0, 450, 50)
    one = await runner(lab)
    work = await one.get_work()
    assert work.keys == [*range(0, 451, 50)]
    await lab.admin.execute(
        "ALTER TABLE public.event DETACH PARTITION public.event_0; DROP TABLE public.event_4"
    )
    assert await differences(lab.admin, EVENTS) == []
    outcomes = await one.finish({key: work.claims[key] for key in (0, 50, 100, 400, 450)})
    assert outcomes == {0: "unknown", 50: "unknown", 100: "finished", 400: "unknown", 450: "unknown"}
    assert await lab.admin.fetchval("SELECT count(*) FROM public.event_0 WHERE done_at IS NULL") == 2

    # It comes back, and its rows name a session that does not know of them any more.
    await lab.admin.execute(
        "ALTER TABLE public.event ATTACH PARTITION public.event_0 FOR VALUES FROM (0) TO (100)"
    )
    assert await differences(lab.admin, EVENTS) == []
    again = await one.get_work(held=[150, 200, 250, 300, 350])
    assert again.claims == {0: 2, 50: 2}
    assert await one.finish(again.claims) == {0: "finished", 50: "finished"}


async def test_a_task_whose_row_moves_to_another_partition_while_it_is_claimed_is_done_once_under_its_new_key(
    lab,
):
    """To the holder the old key is gone. The row names it all the same, so nobody else takes it before it does itself."""
    await lab.admin.execute(ADD, 5, 5, 1)
    one, other = await runner(lab), await runner(lab)
    work = await one.get_work()
    await lab.admin.execute("UPDATE public.event SET id = 205 WHERE id = 5")
    assert (await other.get_work()).keys == []
    assert await one.finish(work.claims) == {5: "unknown"}
    assert await lab.admin.fetchval("SELECT done_at FROM public.event") is None
    again = await one.get_work()
    assert again.claims == {205: 2}
    assert await one.finish(again.claims) == {205: "finished"}
    assert (await other.get_work()).keys == []


async def test_a_row_that_is_just_moving_is_passed_over_and_the_transaction_that_waits_for_it_is_undone(lab):
    """PostgreSQL does not follow a row into another partition (40001): in no case is an effect kept without the finish."""
    await lab.admin.execute(ADD, 5, 5, 1)
    one, other = await runner(lab), await runner(lab)
    work = await one.get_work()
    async with lab.admin.transaction():
        await lab.admin.execute("UPDATE public.event SET id = 205 WHERE id = 5")
        assert await one.finish(work.claims) == {5: "locked"}
        transaction = one.connection.transaction()
        await transaction.start()
        waits, finishing = await lab.begin(one, one.finish_in(work.claims))
        assert waits
    assert await sqlstate(finishing) == "40001"
    await transaction.rollback()
    assert await one.end()
    again = await other.get_work()
    assert again.claims == {205: 2}
    assert await other.finish(again.claims) == {205: "finished"}


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_no_call_reads_or_sorts_a_partition_as_a_whole(database, mode):
    """Claims merge what the parts of the index give in order; keys are looked up by the primary key of each partition."""
    async with open_lab(database, table=EVENTS, ddl=re.sub(r"(\d)00\b", r"\g<1>0000", BY_RANGE)) as lab:
        await lab.admin.execute(
            """
            INSERT INTO public.event (id, done_at, available_at)
            SELECT g, CASE WHEN g % 400 <> 0 THEN now() END, now() + make_interval(secs => g % 1000 - 500)
              FROM generate_series(0, 39998, 2) AS g;
            ANALYZE public.event;
            """
        )
        told: list[str] = []
        lab.admin.add_log_listener(lambda _, message: told.append(message.message))
        await lab.admin.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;"
            f"SET auto_explain.log_level = notice; SET plan_cache_mode = {mode}; SET client_min_messages = notice"
        )
        one = await lab.start_session(lab.admin, name="event")
        other = await runner(lab)
        first = await one.get_work(10, over_share=False)
        second = await one.get_work(10, held=first.keys, position=first.position, over_share=False)
        assert len({*first.keys, *second.keys}) == 20
        await one.finish(first.claims)
        await one.release(second.claims)
        await other.end()
        plans = [text.split("Query Text:")[-1] for text in told if "event_0" in text]
        claims = [text for text in plans if "SKIP LOCKED" in text and "LIMIT my.want" in text]
        assert len(claims) == 2
        for plan in claims:
            assert "Merge Append" in plan
            assert re.search(r"Index Scan using pending_\w+_event_0_\w+ on event_0", plan)
            assert len(re.findall(r"Index Cond: .*available_at <= ", plan)) == 5
            assert not re.search(r"->  (Incremental )?Sort\b", plan)
        assert len(plans) > 6
        for plan in plans:
            assert "Seq Scan" not in plan, plan


async def test_limits_count_over_all_partitions(database):
    limited = replace(
        EVENTS,
        columns=("id", "body"),
        limits=(Limit(3), Limit(1, by="body"), Rate(100, per=60)),
        fair_by="body",
    )
    async with open_lab(database, table=limited, ddl=BY_RANGE) as lab:
        assert await differences(lab.admin, limited) == []
        for key, body in ((1, "a"), (101, "a"), (201, "b"), (301, "c"), (302, "d")):
            await lab.admin.execute("INSERT INTO public.event (id, body) VALUES ($1, $2)", key, body)
        one, other = await runner(lab), await runner(lab)
        work = await one.get_work()
        done: list[int] = []
        while work.keys:
            assert len(work.keys) == 3 or done
            assert not {1, 101} <= set(work.keys)
            assert done or (await other.get_work()).keys == []
            assert set((await one.finish(work.claims)).values()) == {"finished"}
            done += work.keys
            one, other, work = other, one, await other.get_work()
        assert sorted(done) == [1, 101, 201, 301, 302]


@pytest.mark.parametrize(
    "ddl",
    [
        (
            "CREATE TABLE public.event (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), body text, done_at timestamptz) PARTITION BY HASH (id);"
            "CREATE TABLE public.event_0 PARTITION OF public.event FOR VALUES WITH (modulus 2, remainder 0);"
            "CREATE TABLE public.event_1 PARTITION OF public.event FOR VALUES WITH (modulus 2, remainder 1)"
        ),
        (
            "CREATE TABLE public.event (id text UNIQUE NOT NULL DEFAULT gen_random_uuid(), body text, done_at timestamptz) PARTITION BY LIST (id);"
            "CREATE TABLE public.event_x PARTITION OF public.event FOR VALUES IN ('x'); CREATE TABLE public.event_0 PARTITION OF public.event DEFAULT"
        ),
    ],
    ids=["hash of a uuid", "list of a text"],
)
async def test_runners_do_the_tasks_of_all_partitions_once(database, bare, ddl):
    await bare.execute(ddl)
    await apply_mapping(bare, EVENTS, grant_to=APP_ROLE)
    await bare.execute("INSERT INTO public.event (body) SELECT g::text FROM generate_series(1, 60) AS g")
    seen: list[str] = []
    all_seen = asyncio.Event()

    async def do(task) -> None:
        seen.append(task.data["body"])
        if len(seen) == 60:
            all_seen.set()

    databases = [PostgresDatabase(database.app_dsn, EVENTS) for _ in range(2)]
    runners = [
        Runner(each_, each(do), settings=Settings(start_jitter=0, batch_size=7)) for each_ in databases
    ]
    async with runners[0], runners[1]:
        await asyncio.wait_for(all_seen.wait(), 20)
    assert sorted(seen, key=int) == [str(number) for number in range(1, 61)]
    assert (
        await bare.fetchval(
            "SELECT count(*) FROM public.event WHERE done_at IS NULL OR session_id IS NOT NULL"
        )
        == 0
    )
    assert await differences(bare, EVENTS) == []


async def test_peek_and_the_summary_look_into_all_partitions(admin):
    await admin.execute(ADD, 50, 350, 100)
    for installed in (False, True):
        if installed:
            await install(admin, EVENTS)
        assert [row["id"] for row in await peek(admin, EVENTS)] == ["50", "150", "250", "350"]
        assert str(await pending_summary(admin, EVENTS)).startswith("4 rows of public.event are pending")


@pytest.mark.parametrize("named", ["public.event", "public.event_0"])
async def test_why_sees_who_has_the_row_whatever_he_called_the_table(admin, database, named):
    await install(admin, EVENTS, grant_to=APP_ROLE)
    await admin.execute(ADD, 1, 1, 1)
    async with PostgresDatabase(database.app_dsn, EVENTS) as ours:
        await ours.start_session(capacity=1, ttl=30)
        assert (await ours.why(1)).state == "claimable"
        async with admin.transaction():
            async with (
                admin.transaction()
            ):  # a savepoint, and so a transaction number that is given up with it
                await admin.execute(f"SELECT FROM {named} WHERE id = 1 FOR UPDATE")
            found = await ours.why(1)
            assert (found.state, [each.pid for each in found.lockers]) == (
                "waiting",
                [admin.get_server_pid()],
            )
        async with admin.transaction():
            await admin.execute(f"SELECT FROM {named} WHERE id = 1 FOR UPDATE")
            found = await ours.why(1)
            assert (found.state, [each.pid for each in found.lockers]) == (
                "waiting",
                [admin.get_server_pid()],
            )
