"""`accepts` in a real database: what is refused, installed, shown and told; and the sweep, which must not be fooled by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from session_lock import Limit
from session_lock.catalog import read_shape
from session_lock.errors import SchemaError, SettingsError
from session_lock.migrations import check, install, peek, validate
from session_lock.objects import function_set
from session_lock.table import TaskTable
from tests.sql.schedule import TASKS, fault, open_lab, seen_to_fail
from tests.support import EMAILS

ACCEPTS = "substring(address FROM '^needs (.*)$')"
MAPPING = replace(EMAILS, accepts=ACCEPTS)


async def add(connection, *addresses):
    await connection.executemany(
        "INSERT INTO public.email (address) VALUES ($1)", [(address,) for address in addresses]
    )


async def told(connection, table, *, notes: bool) -> list[str]:
    return [str(each) for each in await check(connection, table) if each.note is notes]


# What is refused -----------------------------------------------------------------------------------------


REFUSED = [
    ("CASE kind WHEN 'refund' THEN '2.4' END", "accepts of 'email' names what is not there"),
    ("CASE address WHEN", "accepts of 'email' does not parse"),
    ("address, body", "accepts of 'email' is of type record"),
    ("address; DROP TABLE public.email", "accepts of 'email' does not parse"),
    ("address) IS NULL OR (body", "accepts of 'email' is not one expression"),
    ("id", "accepts of 'email' is of type bigint: write one of type text"),
    ("2.4", "is of type numeric: write one of type text"),
    ("address = 'x'", "is of type boolean"),
    ("now()::text", "accepts of 'email' is not immutable"),
    ("CASE WHEN sent_at < 'now' THEN '2' END", "is read once and then stands still"),
    ("(SELECT max(address) FROM public.email)", "is no expression over the stored columns of one row"),
    ("attempts::text", "names the claim column 'attempts'"),
    ("needs(address)", "write accepts='public.needs(address)'"),
]  # fmt: skip


async def test_what_is_refused_before_anything_changes(admin):
    await admin.execute(
        "CREATE FUNCTION public.needs(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1 $$"
    )
    for accepts, sentence in REFUSED:
        table = replace(EMAILS, accepts=accepts)
        with pytest.raises(SchemaError) as refused:
            await validate(admin, table)
        assert sentence in str(refused.value), accepts
        assert await told(admin, table, notes=False) == [str(refused.value)]


async def test_what_is_served(admin):
    for accepts in ("body", "'2.4'", "address::varchar(9)", "address -- the version\n", "NULL::text"):
        table = replace(EMAILS, accepts=accepts)
        await install(admin, table)
        assert await told(admin, table, notes=False) == [], accepts


def test_what_a_declaration_refuses():
    with pytest.raises(SettingsError, match="accepts of 'email' is text, not 2.4"):
        replace(EMAILS, accepts=2.4)
    with pytest.raises(SettingsError, match="accepts of 'email' is empty"):
        replace(EMAILS, accepts=" ")


# What is installed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(), (Limit(5),)], ids=["plain", "limited"])
async def test_it_is_replaced_in_place_for_instances_that_know_nothing_of_it(admin, limits):
    before = replace(EMAILS, limits=limits)
    after = replace(before, accepts=ACCEPTS)
    await install(admin, before)
    shape = await read_shape(admin, before)
    assert function_set(before, shape) == function_set(after, shape)
    assert any("get_work_email" in text for text in await told(admin, after, notes=False))
    await install(admin, after)
    assert await told(admin, after, notes=False) == []


async def test_peek_shows_the_version_that_a_task_needs(admin):
    await install(admin, MAPPING)
    await add(admin, "ann", "needs 2.4")
    assert [(row["address"], row["accepts"]) for row in await peek(admin, MAPPING)] == [
        ("ann", None),
        ("needs 2.4", "2.4"),
    ]


async def test_check_tells_what_no_runner_is_given(admin):
    await add(admin, "ann", "needs 2.4", "needs 2.4", "needs soon", "needs 2.3")
    assert not [
        text for text in await told(admin, MAPPING, notes=True) if "app_version" in text
    ]  # not installed
    await install(admin, MAPPING)
    await admin.execute("SELECT session_lock.start_session('email', '', 1, 30, '', '2.3', '')")
    unreadable, too_new = [text for text in await told(admin, MAPPING, notes=True) if "app_version" in text]
    assert unreadable.startswith(
        "1 pending row needs app_version 'soon' (accepts), which cannot be read, so no Runner is given it"
    )
    assert too_new == "2 pending rows need app_version '2.4' (accepts), which no live session has"


# The sweep -----------------------------------------------------------------------------------------------


@pytest.fixture
async def lab(request, database):
    async with open_lab(database, getattr(request, "param", ()), table=MAPPING) as lab:
        yield lab


SWEEPS_BY_WHAT_IT_MAY_TAKE = fault(
    "only the tasks that it may take are asked whom they name", TASKS,
    (
        "AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> my.id",
        "AND t.__session_id__ IS NOT NULL AND t.__session_id__ <> my.id AND __acceptable__",
    ),
)  # fmt: skip


@seen_to_fail(SWEEPS_BY_WHAT_IT_MAY_TAKE)
async def test_a_dead_session_is_not_swept_by_who_may_not_take_its_tasks(lab):
    """Swept, it would not be among the ended, and who may take them would find nothing until the look after next."""
    old, dead = await lab.runner(), await lab.runner()
    await lab.admin.execute("UPDATE session_lock.session SET app_version = '2.4' WHERE id = $1", dead.id)
    await lab.admin.execute("INSERT INTO public.email (address) VALUES ('needs 2.4')")
    [key] = (await dead.get_work()).keys
    await lab.admin.execute("UPDATE session_lock.session SET expires_at = started_at WHERE id = $1", dead.id)
    for _ in range(2):
        assert (await old.get_work()).keys == []
    new = await lab.runner()
    await lab.admin.execute("UPDATE session_lock.session SET app_version = '2.4' WHERE id = $1", new.id)
    assert ((await new.get_work()).keys == [key]) is lab.shipped


# Value by value ------------------------------------------------------------------------------------------


async def claimed(database, table: TaskTable, rows: str, limit: int) -> list[str]:
    """The addresses that a session without a version is given of these rows (address, body)."""
    async with open_lab(database, table=replace(table, accepts="body")) as lab:
        await lab.admin.execute(f"INSERT INTO public.email (address, body) {rows}")
        keys = (await (await lab.runner()).get_work(limit)).keys
        query = "SELECT address FROM public.email WHERE id = ANY ($1) ORDER BY 1"
        return [row["address"] for row in await lab.admin.fetch(query, keys)]


async def test_a_value_whose_first_tasks_are_not_for_it_has_its_turn(database):
    rows = """
        SELECT 'z', NULL FROM generate_series(1, 40) UNION ALL SELECT v, b FROM unnest('{a,b,c}'::text[]) AS v,
        unnest('{2,2,2,2,2,NULL}'::text[]) AS b
    """
    assert await claimed(database, replace(EMAILS, fair_by="address"), rows, 4) == ["a", "b", "c", "z"]


async def test_values_whose_heads_are_not_for_it_take_no_place(database):
    rows = """
        SELECT 'z', NULL FROM generate_series(1, 40) UNION ALL SELECT 'not ' || v, '2' FROM generate_series(1, 500) AS v
        UNION ALL VALUES ('b', NULL)
    """
    ordered = replace(EMAILS, limits=(Limit(1, by="address", ordered=True),), order_by=("id",))
    assert await claimed(database, ordered, rows, 2) == ["b", "z"]
