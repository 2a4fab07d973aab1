"""The shares of `session_lock.shares` and those of a `MemoryDatabase` are the same, and fair by a measure of neither."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from session_lock.testing.rows import divide
from tests.sql.schedule import open_lab
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

Shares = Mapping[int, int]

CAPACITIES = st.integers(1, 12) | st.just(1) | st.just(100_000) | st.integers(1, 2**31 - 1)
SESSIONS = st.dictionaries(st.integers(1, 40) | st.integers(1, 2**62), CAPACITIES, max_size=12)
ALIKE = st.builds(dict.fromkeys, st.sets(st.integers(1, 600), min_size=1, max_size=12), CAPACITIES)  # ties
CASES = st.tuples(SESSIONS | ALIKE, st.integers(0, 30) | st.integers(0, 10**6))

EXAMPLES = [
    ({}, 5), ({}, 0), ({7: 3}, 5), ({7: 3}, 0), ({1: 10, 2: 10, 3: 10}, 4), ({3: 1, 2: 1, 1: 1}, 2), ({1: 1, 2: 1, 3: 10}, 1),
    ({1: 1, 2: 100_000}, 1), ({1: 1, 2: 100_000}, 50_000), ({1: 1, 2: 100_000}, 100_000), ({1: 1, 2: 100_000}, 100_001),
    (dict.fromkeys(range(500, 0, -1), 20), 7), ({id_: 1 + id_ % 3 for id_ in range(1, 501)}, 1234),
]  # fmt: skip


def wrongs(capacities: Shares, tasks: int, shares: Shares) -> list[str]:
    """What is wrong with a division, by its definition: in fractions, with no rounding."""
    if shares.keys() != capacities.keys():
        return ["not each session has one share"]
    if not capacities:
        return []
    total = sum(capacities.values())
    quota = {id_: Fraction(tasks * capacity, total) for id_, capacity in capacities.items()}
    found = []
    if sum(shares.values()) != tasks:
        found.append("they do not add up")
    if any(abs(shares[id_] - quota[id_]) >= 1 for id_ in quota):
        found.append("one is a whole task from its quota")
    favoured = [id_ for id_ in quota if shares[id_] > quota[id_]]
    passed_over = [id_ for id_ in quota if shares[id_] < quota[id_]]
    part = {id_: quota[id_] % 1 for id_ in quota}
    last, first = (
        min(((part[id_], -id_) for id_ in favoured), default=None),
        max(((part[id_], -id_) for id_ in passed_over), default=None),
    )
    if last is not None and first is not None and last < first:
        found.append("one with a smaller remainder, or a higher id, was favoured")
    return found


async def in_sql(connection: asyncpg.Connection, cases: list[tuple[Shares, int]]) -> list[Shares]:
    """Of many cases in one query."""
    rows = await connection.fetch(
        "SELECT c.n, s.id, s.share FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS c (of, n),"
        " session_lock.shares("
        "   ARRAY(SELECT id::bigint FROM jsonb_array_elements_text(c.of -> 0) WITH ORDINALITY AS i (id, n) ORDER BY i.n),"
        "   ARRAY(SELECT size::integer FROM jsonb_array_elements_text(c.of -> 1) WITH ORDINALITY AS i (size, n) ORDER BY i.n),"
        "   (c.of ->> 2)::bigint) AS s",
        json.dumps([[list(of), list(of.values()), tasks] for of, tasks in cases]),
    )
    shares: list[dict[int, int]] = [{} for _ in cases]
    for n, id_, share in rows:
        assert id_ not in shares[n - 1]
        shares[n - 1][id_] = share
    return shares


@pytest.fixture
async def connection(database):
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(EMAIL_TABLE)
    await apply_mapping(connection, EMAILS)
    yield connection
    await connection.close()


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(CASES, min_size=1, max_size=40))
async def test_memory_and_sql_divide_alike_and_fairly(connection, cases):
    for (capacities, tasks), shares in zip(cases, await in_sql(connection, cases), strict=True):
        assert shares == divide(tasks, capacities), (capacities, tasks)
        assert wrongs(capacities, tasks, shares) == [], (capacities, tasks)


async def test_so_they_do_by_example(connection):
    for (capacities, tasks), shares in zip(EXAMPLES, await in_sql(connection, EXAMPLES), strict=True):
        assert shares == divide(tasks, capacities), (capacities, tasks)
        assert wrongs(capacities, tasks, shares) == [], (capacities, tasks)


@pytest.mark.parametrize(
    ("capacities", "tasks", "shares"),
    [
        ({1: 1, 2: 1}, 3, {1: 1, 2: 1}),
        ({1: 1, 2: 1}, 3, {1: 1, 2: 2}),  # a tie
        ({1: 1, 2: 1}, 4, {1: 3, 2: 1}),
        ({1: 1, 2: 2}, 1, {1: 1, 2: 0}),  # the smaller remainder
        ({1: 1, 2: 1}, 2, {1: 2}),
    ],
)
def test_a_division_that_is_wrong_is_seen(capacities, tasks, shares):
    assert wrongs(capacities, tasks, divide(tasks, capacities)) == []
    assert wrongs(capacities, tasks, shares) != []


@pytest.mark.parametrize(
    ("sessions", "age", "known"),
    [(8, 0.9, 100), (8, 1.5, 87), (8, 2.5, 0), (7, 1.5, 0), (100, 1.5, 99)],
    ids=["new", "old", "too old", "old, and few sessions", "old, and many sessions"],
)
async def test_a_count_that_is_too_old_is_made_anew_by_one_of_many_sessions_and_the_others_go_by_it_meanwhile(
    database, sessions, age, known
):
    async with open_lab(database) as lab:
        for _ in range(sessions):
            actor = await lab.start_session(lab.admin)
        await lab.admin.execute("SELECT setseed(0.5)")
        now = await lab.admin.fetchval("SELECT session_lock.clock()")
        await lab.admin.execute(
            "UPDATE session_lock.session SET counted = 5000, counted_at = $2::timestamptz - $3 * interval '1 second' WHERE id = $1",
            actor.id,
            now,
            age,
        )
        found = await lab.admin.fetch(
            "SELECT (session_lock.sessions_of('email', $1)).counted FROM generate_series(1, 1000)", now
        )
        assert abs(sum(row[0] == 5000 for row in found) - 10 * known) < 60
