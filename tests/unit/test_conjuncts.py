"""The parts of a condition are those that PostgreSQL's own parser finds (pglast), or it is left whole."""

from __future__ import annotations

import pglast
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pglast import ast as pg
from pglast.stream import RawStream

from session_lock.conjuncts import conjuncts, items

PLAIN = [
    "sent_at IS NULL",
    "NOT done",
    "a = 'x AND y'",
    "a = 'it''s AND'",
    r"a = E'\' AND '",
    '"AND" > 1',
    '"b "" AND" IS NOT NULL',
    "a = $$ AND $$",
    "a = $t$ ' AND $$ $t$",
    "(a OR b)",
    "f(a, b AND c)",
    "tags[1] = 'x'",
    "CASE WHEN a AND b THEN c ELSE d AND e END",
    "a BETWEEN 1 AND 2",
    "a NOT BETWEEN SYMMETRIC 1 AND 2",
    "a /* AND /* AND */ ) */ = 1",
    "a -- AND (\n = 2",
    "brand = 1",
    "and_more = 1.5e3",
    "a$and = 1",
    "a IS DISTINCT FROM b",
    "a OPERATOR(pg_catalog.=) 1",
    "a::text = 'b'",
    "größe > 1",
]
WHOLE = ["a OR b", "NOT a OR b AND c", "a = 1 OR a BETWEEN 1 AND 2"]

JOINED = st.sampled_from([" AND ", " and\n", " And ", " OR "])
WRAPPED = st.sampled_from(["{}", "({})", "NOT ({})", "CASE WHEN {} THEN b END"])


def chains(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Up to four parts, one behind the other, with an AND or OR between two."""
    return st.lists(st.tuples(JOINED, parts), min_size=1, max_size=4).map(
        lambda pairs: "".join(f"{join}{part}" for join, part in pairs)[len(pairs[0][0]) :]
    )


PART = st.tuples(WRAPPED, chains(st.sampled_from(PLAIN))).map(lambda pair: pair[0].format(pair[1]))


def tree(condition: str) -> pg.Node:
    [statement] = pglast.parse_sql(f"SELECT ({condition}\n)")
    return statement.stmt.targetList[0].val


def flat(*nodes: pg.Node) -> list[str]:
    """The parts as the parser sees them, which knows parentheses no more: `(a AND b) AND c` are three."""
    found: list[str] = []
    for node in nodes:
        if isinstance(node, pg.BoolExpr) and node.boolop.name == "AND_EXPR":
            found += flat(*node.args)
        else:
            found.append(RawStream()(node))
    return found


@pytest.mark.parametrize("condition", [*PLAIN, *WHOLE])
def test_what_is_one_part(condition):
    assert conjuncts(condition) == (condition,)
    assert tree(condition)


@pytest.mark.parametrize("first", PLAIN)
@pytest.mark.parametrize("second", PLAIN[::3])
def test_what_is_two(first, second):
    assert conjuncts(f" {first}\n AND {second} ") == (first, second)


@pytest.mark.parametrize("first", PLAIN)
@pytest.mark.parametrize("around", ["({})", "( ({}\n) )", "(/* ) */ {})"])
def test_parentheses_around_all_of_it_count_for_nothing(first, around):
    assert conjuncts(around.format(f"{first}\n AND b = 1"))[1] == "b = 1"
    assert conjuncts(around.format(f"b = 1 AND {first}"))[1] == first
    one = around.format(first)
    assert conjuncts(one) == (one,)
    assert len(conjuncts(f"{one} AND {one}")) == 2


@pytest.mark.parametrize(
    "condition",
    [
        "(a OR b AND c)",
        "(SELECT a AND b FROM t)",
        "(/* x */ SELECT a AND b)",
        "(WITH t AS (SELECT 1 AS a) SELECT a = 1 AND true FROM t)",
        "((SELECT a) UNION SELECT b AND c)",
        "(VALUES (a AND b) ORDER BY a AND b)",
    ],
)
def test_of_a_query_the_parentheses_are_a_part(condition):
    assert conjuncts(condition) == (condition,)
    assert tree(condition)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(chains(PART))
def test_together_they_are_the_condition(condition):
    assert flat(*map(tree, conjuncts(condition))) == flat(tree(condition))


@pytest.mark.parametrize(
    "condition",
    ["a AND", "AND b", "a AND AND b", "(a AND b", "a) AND (b", "(a, b AND c)", "(a AND b) -- c", "a AND $x$ b", "a AND /* b", "between = 1 AND b", ""],
)  # fmt: skip
def test_what_is_no_condition_or_not_plain_stays_whole(condition):
    assert conjuncts(condition) == (condition,)


def test_a_list_consists_of_what_stands_between_its_commas():
    assert items(" ,\n".join(PLAIN)) == tuple(PLAIN)
    assert items("") == ("",)
