"""T1: whatever the names are, a mapping is installed right, and works, or is refused in one sentence; and nothing else is made.

Most are installed by their files within a transaction that is rolled back; a sample by `install`, and used by a Runner's own
database. What was made is compared with what tame names make, word for word.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import asynccontextmanager

import asyncpg
import pytest

from session_lock import PostgresDatabase, SchemaError, SettingsError
from session_lock.indexes import index_steps
from session_lock.migrations import check, install
from session_lock.schema import mapping_files, render
from tests.conftest import fresh_database
from tests.security.names import KINDS, PARTS, UNSTORABLE, Hostile, hostile, numbers, tame

COUNT = int(os.environ.get("SESSION_LOCK_TEST_NAMES", "240"))
CHUNKS = list(numbers(0, COUNT, 30))
SAMPLE = range(2, COUNT, 51)


@pytest.fixture
async def admin(database):
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def undone(connection):
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def install_mapping(admin: asyncpg.Connection, each: Hostile) -> None:
    table, shape = each.table, each.shape
    texts = [render("tasks.up.sql", table, shape)]
    for name in mapping_files(table, "index"):
        texts += [
            text.replace("INDEX CONCURRENTLY", "INDEX") for text in index_steps(name, table, shape).values()
        ]
    texts += [render(name, table, shape) for name in (*mapping_files(table, "alwaysup"), "tasks.trigger.sql")]
    texts.append(render("grants.sql", table, shape, role=each.names["role"]))
    await admin.execute("\n".join(texts))


async def work_once(admin: asyncpg.Connection, each: Hostile) -> None:
    """As a session with hostile words of its own would: start, claim, finish, end."""
    functions, schema = each.functions, each.quoted("schema")
    words = [each.names[part] for part in ("mapping", "table", "key", "done")]
    id_, nonce, _ = await admin.fetchrow(
        f"SELECT * FROM {schema}.start_session($1, $2, 100, 30, $3, $4, '')",
        words[0],
        functions,
        words[2],
        words[3],
    )
    [task, _] = await admin.fetch(
        f"SELECT * FROM {schema}.get_work_{functions}($1, $2, 10, '{{}}', NULL, NULL, true, NULL, '{{}}', '{{}}')",
        id_,
        nonce,
    )
    assert (task["task_key"], task[-1]) == (each.names["key"], each.names["table"])
    finish = f"SELECT outcome FROM {schema}.finish_tasks_{functions}($1, $2, $3, $4)"
    assert await admin.fetchval(finish, id_, nonce, [task["task_key"]], [task["task_token"]]) == "finished"
    assert await admin.fetchval(
        f"SELECT {schema}.end_session_{functions}($1, $2, '{{}}', '{{}}')", id_, nonce
    )


async def made_by(admin: asyncpg.Connection, each: Hostile) -> list[str]:
    """What the mapping writes, beside its sessions, which are there; all of it is undone."""
    async with undone(admin):
        await each.make_table(admin)
        first = await written_by(admin, each.names["task_schema"])
        await install_mapping(admin, each)
        made = await each.written_since(admin, first)
        await admin.execute(f"SET LOCAL ROLE {each.quoted('role')}")
        await work_once(admin, each)
        await admin.execute("RESET ROLE")
        assert await admin.fetchval(f"SELECT {each.quoted('done')} FROM {each.source}") == "x"
    return made


async def written_by(admin: asyncpg.Connection, schema: str) -> int:
    """The transaction that made a schema."""
    return await admin.fetchval("SELECT xmin::text::bigint FROM pg_namespace WHERE nspname = $1", schema)


async def sessions_made_by(admin: asyncpg.Connection, each: Hostile) -> list[str]:
    for name in ("sessions.up.sql", "sessions.alwaysup.sql"):
        await admin.execute(render(name, each.table, None))
    return await each.written_since(admin, await written_by(admin, each.names["schema"]))


@pytest.fixture(scope="module")
async def expected(server_dsn: str, template: str) -> list[list[str]]:
    """What tame names make, the sessions first and then each kind of declaration."""
    async with fresh_database(server_dsn, template) as database:
        admin = await asyncpg.connect(database.admin_dsn)
        found = [await sessions_made_by(admin, tame(0))]
        found += [await made_by(admin, tame(number)) for number in range(KINDS)]
        await admin.close()
    return found


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: f"{chunk.start}-{chunk.stop}")
async def test_t1_hostile_names_are_installed_right_or_refused(admin, expected, chunk):
    """Those of a chunk share the schema of their sessions, since that takes longest to make."""
    sessions = hostile(chunk.start + 1)
    schema = sessions.names["schema"]
    refused = []
    async with undone(admin):
        assert await sessions_made_by(admin, sessions) == expected[0]
        for number in chunk:
            try:
                each = hostile(number, schema=schema)
            except SettingsError as error:
                refused.append(str(error))
                continue
            try:
                made = await made_by(admin, each)
            except SchemaError as error:
                refused.append(str(error).replace(each.table.table, ""))
            else:
                assert made == expected[1 + number % KINDS], number
    assert len(refused) < len(chunk) / 4
    assert not [text for text in refused if "\n" in text]


@pytest.mark.parametrize("part", [part for part in PARTS if part not in {"done", "role"}])
@pytest.mark.parametrize("text", UNSTORABLE)
def test_t1_what_would_end_a_quotation_of_ours_is_refused(part, text):
    names = tame(0).names
    with pytest.raises(SettingsError, match="name .* must have 1 to 63 bytes, without NUL") as refused:
        Hostile(0, {**names, part: f"a{text}b"})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", UNSTORABLE)
async def test_t1_nor_is_anything_granted_to_such_a_role(admin, text):
    with pytest.raises(SettingsError, match="role name .* must have 1 to 63 bytes"):
        await install(admin, tame(0).table, grant_to=f"a{text}b")


@pytest.mark.parametrize("number", SAMPLE)
async def test_t1_hostile_names_installed_for_good(database, admin, expected, number):
    """Or refused, which is no more often than in the chunks. Roles are those of the server, where others make some at the same time."""
    try:
        each = hostile(number, role=f"\"'%s{number}")
    except SettingsError:
        return
    first = await admin.fetchval("SELECT pg_current_xact_id()::text::bigint")
    try:
        try:
            await each.make_table(admin)
            await install(admin, each.table, grant_to=each.names["role"])
        except SchemaError as error:
            assert str(error).count("\n") == each.table.table.count("\n")
            assert not await admin.fetchval("SELECT to_regnamespace($1) IS NOT NULL", each.quoted("schema"))
            return
        assert not [
            str(found) for found in await check(admin, each.table, role=each.names["role"]) if not found.note
        ]
        made = await each.written_since(admin, first)
        more = {thing for thing in expected[1 + number % KINDS] if re.match("trigger|role", thing)}
        assert {*made, *more} == {*expected[0], *expected[1 + number % KINDS]}
        async with PostgresDatabase(database.admin_dsn, each.table) as tasks:
            heard = asyncio.Event()
            async with tasks.listening(heard.set):
                await asyncio.wait_for(heard.wait(), 10)  # it listens, and something may have been missed
                heard.clear()
                await admin.execute(f"SELECT {each.quoted('schema')}.wake($1)", each.table.name)
                await asyncio.wait_for(heard.wait(), 10)
            lease = await tasks.start_session(
                capacity=5, ttl=30, label=each.names["key"], app_version=each.names["done"]
            )
            work = await tasks.get_work(lease, limit=5)
            assert [task.data for task in work.tasks] == [
                {each.names["key"]: each.names["key"], each.names["payload"]: each.names["table"]}
            ]
            assert (await tasks.why(each.names["key"])).state == "held"
            (settled,) = await tasks.finish_tasks(lease, [task.claim for task in work.tasks])
            assert settled.outcome == "finished"
            await tasks.end_session(lease)
    finally:
        for part in ("schema", "task_schema"):
            await admin.execute(f"DROP SCHEMA IF EXISTS {each.quoted(part)} CASCADE")
        await admin.execute(f"DROP ROLE {each.quoted('role')}")
