"""T2, T14: whatever stands in a value comes out as it went in, and is SQL nowhere; and what is left of a task when it is done."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from session_lock import NewTask, PostgresDatabase, TaskTable, enqueue_many, queue
from session_lock.database import Claim, Handback, Outcome
from session_lock.migrations import install, parked
from tests.conftest import TestDatabase
from tests.security.names import LETTERS

TABLE = """
CREATE TABLE public.item (key text PRIMARY KEY, body text, done_at timestamptz, gone_at timestamptz);
CREATE TABLE public.victim (id integer); INSERT INTO public.victim VALUES (1);
"""
ITEMS = TaskTable(
    "public.item", key="key", pending="done_at IS NULL AND gone_at IS NULL", finish="done_at = now()", discard="gone_at = now()",
    columns=("key", "body"),
)  # fmt: skip

ATTACKS = [
    "'; DROP TABLE public.victim; --", "') ; DELETE FROM public.victim; --", "1 OR 1=1", "' OR ''='", "\\'; DROP TABLE public.victim; --",
    "$$; DROP TABLE public.victim; $$", "$function$; DROP TABLE public.victim; $function$", "$name$", "{a,b}", '{"a","b"}', "{NULL}", "NULL", "(1,2)",
    "%s %(x)s {0} {x}", "$1", ":x", "E'\\\\'", "a\tb\nc\rd", "COPY public.victim TO PROGRAM 'id'", "UNION SELECT pg_sleep(9)", "\t7", "\\.", "\\N",
    "\ufeff", "\u202e", "😀", "", " ", "x" * 2000,
]  # fmt: skip


def corpus() -> list[str]:
    chance = random.Random(2)
    drawn = ["".join(chance.choices(LETTERS, k=chance.choice((2, 5, 12)))) for _ in range(150)]
    return list(dict.fromkeys([*ATTACKS, *drawn]))


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(TABLE)
    await install(admin, ITEMS, grant_to="app")
    yield admin
    assert await admin.fetchval("SELECT count(*) FROM public.victim") == 1
    await admin.close()


async def test_t2_values_through_every_call(database: TestDatabase, admin: asyncpg.Connection) -> None:
    """Keys, columns, labels, versions and errors; each text in each place."""
    texts = corpus()
    await admin.executemany(
        "INSERT INTO public.item (key, body) VALUES ($1, $2)", zip(texts, reversed(texts), strict=True)
    )
    async with PostgresDatabase(database.app_dsn, ITEMS) as items:
        lease = await items.start_session(capacity=1000, ttl=60, label=texts[0], app_version=texts[1])
        work = await items.get_work(lease, limit=1000)
        assert {task.claim.key: task.data["body"] for task in work.tasks} == dict(
            zip(texts, reversed(texts), strict=True)
        )
        claims = {task.claim.key: task.claim for task in work.tasks}
        by_turns = [list(claims.values())[begin::4] for begin in range(4)]

        settled = await items.finish_tasks(lease, by_turns[0])
        assert {each.outcome for each in settled} == {Outcome.FINISHED}
        work = await items.get_work(
            lease, limit=0, held=[each.key for part in by_turns[1:] for each in part], finished=by_turns[1]
        )
        assert {(each.key, each.outcome) for each in work.settled} == {
            (each.key, Outcome.FINISHED) for each in by_turns[1]
        }
        handbacks = [Handback(claim, after=float("inf"), error=str(claim.key)) for claim in by_turns[2]]
        settled = await items.release_tasks(lease, handbacks)
        assert {(each.key, each.outcome) for each in settled} == {
            (each.key, Outcome.PARKED) for each in by_turns[2]
        }
        for each in by_turns[3]:
            assert await items.cancel(each.key) == "asked"
        assert set((await items.bump_session(lease, ttl=60, draining=False)).cancel) == {
            each.key for each in by_turns[3]
        }

        errors = await admin.fetch("SELECT task_key, error FROM session_lock.failure")
        assert {(row["task_key"], row["error"]) for row in errors} == {
            (each.key, each.key) for each in by_turns[2]
        }
        assert {row["last_error"] for row in await parked(admin, ITEMS, 1000)} == {
            each.key for each in by_turns[2]
        }
        assert set(await items.retry(*(each.key for each in by_turns[2]))) == {
            each.key for each in by_turns[2]
        }
        await items.end_session(lease, by_turns[3])

        for text in texts:
            other = await items.start_session(capacity=1, ttl=60, label=text or "x", app_version=text)
            row = await admin.fetchrow(
                "SELECT label, app_version, name FROM session_lock.session WHERE id = $1", other.id
            )
            assert tuple(row) == (text or "x", text, "item")


async def test_t2_values_of_a_ready_made_table(database: TestDatabase, admin: asyncpg.Connection) -> None:
    jobs = queue("jobs")
    await install(admin, jobs, grant_to="app")
    texts = [text for text in corpus() if text]
    connection = await asyncpg.connect(database.app_dsn)
    await enqueue_many(
        connection, jobs, [NewTask({text: [text]}, dedup_key=text[:200]) for text in texts[:60]]
    )  # by a statement
    await enqueue_many(connection, jobs, [{text: text} for text in texts[60:]])  # by COPY
    await connection.close()
    async with PostgresDatabase(database.app_dsn, jobs) as tasks:
        lease = await tasks.start_session(capacity=1000, ttl=60, label="", app_version="")
        work = await tasks.get_work(lease, limit=1000)
    payloads = [task.data["payload"] for task in work.tasks]
    assert payloads == [*({text: [text]} for text in texts[:60]), *({text: text} for text in texts[60:])]
    assert [task.data["dedup_key"] for task in work.tasks[:60]] == [text[:200] for text in texts[:60]]


async def test_t14_token_attempts_and_what_went_wrong_stay(
    database: TestDatabase, admin: asyncpg.Connection
) -> None:
    """The row tells how often it was claimed, `failure` who failed at it and when; the sessions are there until they are pruned."""
    await admin.execute("INSERT INTO public.item (key) VALUES ('a')")
    async with PostgresDatabase(database.app_dsn, ITEMS) as items:
        lease = await items.start_session(capacity=5, ttl=60, label="host:7", app_version="2")
        (task,) = (await items.get_work(lease, limit=5)).tasks
        await items.release_tasks(lease, [Handback(task.claim, after=0, error="no")])
        (task,) = (await items.get_work(lease, limit=5)).tasks
        await items.finish_tasks(lease, [task.claim])
        (again,) = await items.finish_tasks(lease, [task.claim])  # T10: the same message once more
        (older,) = await items.finish_tasks(lease, [Claim("a", 1)])
        assert (again.outcome, older.outcome) == (Outcome.ALREADY_YOURS, Outcome.LOST)
        await items.end_session(lease)
    row = await admin.fetchrow("SELECT claim_token, attempts, done_at IS NOT NULL AS done FROM public.item")
    assert tuple(row) == (2, 2, True)
    failure = await admin.fetchrow("SELECT task_key, attempt, session, error FROM session_lock.failure")
    assert tuple(failure) == ("a", 1, lease.id, "no")
    session = await admin.fetchrow(
        "SELECT label, app_version, ended_at IS NOT NULL AS ended FROM session_lock.session"
    )
    assert tuple(session) == ("host:7", "2", True)
