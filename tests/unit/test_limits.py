"""`Limit`, `Rate` and `fair_by`: what is refused, what names a mapping's functions, and how a Runner lives with them."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from session_lock import Limit, Rate, Runner, Settings, SettingsError, TaskTable, each
from session_lock.objects import function_set
from session_lock.schema import mapping_files
from session_lock.table import Shape
from session_lock.testing import MemoryDatabase
from tests.unit.virtual import virtual

MAILS = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()")
SHAPE = Shape(
    "bigint",
    {
        "id": "bigint",
        "tenant": "text",
        "shop": "text",
        "available_at": "timestamp with time zone",
    },
    frozenset({"id"}),
)

# Declarations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Limit, {"n": 0}, "n of a Limit is a whole number from 1 to 1,000,000, not 0"),
        (Limit, {"n": 2.0}, "whole number"),
        (Limit, {"n": True}, "whole number"),
        (Limit, {"n": 10**9}, "whole number"),
        (Limit, {"n": 1, "by": ""}, "Limit by= column"),
        (Limit, {"n": 1, "by": 3}, "by of a Limit is the name of a column"),
        (Limit, {"n": 1, "by": "a", "ordered": 1}, "True or False"),
        (Limit, {"n": 1, "ordered": True}, "needs by="),
        (Limit, {"n": 2, "by": "a", "ordered": True}, "n=1"),
        (Rate, {"n": 0, "per": 1}, "n of a Rate"),
        (Rate, {"n": 1, "per": 0}, "per of a Rate is a number of seconds"),
        (Rate, {"n": 1, "per": -1}, "number of seconds"),
        (Rate, {"n": 1, "per": math.inf}, "number of seconds"),
        (Rate, {"n": 1, "per": math.nan}, "number of seconds"),
        (Rate, {"n": 1, "per": True}, "number of seconds"),
        (Rate, {"n": 1, "per": "1"}, "number of seconds"),
    ],
)
def test_a_wrong_limit_is_refused(make, arguments, message):
    with pytest.raises(SettingsError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": Limit(3)}, r"limits is a sequence; write limits=\(Limit\(n=3"),
        ({"limits": 3}, "limits is a sequence of Limit and Rate, not 3"),
        ({"limits": (3,)}, "3 is neither"),
        ({"limits": (Limit(3), Limit(4))}, "leave one of the two out"),
        ({"limits": (Rate(3, 1, "tenant"), Rate(4, 1, "tenant"))}, "leave one of the two out"),
        ({"limits": (Limit(3, by="tenant"), Rate(3, 1, by="shop"))}, r"different columns \(tenant, shop\)"),
        ({"limits": (Limit(3, by="tenant"), Limit(3, by="shop"))}, "different columns"),
        ({"limits": (Limit(3, by="tenant"),), "fair_by": "shop"}, "different columns"),
        ({"fair_by": 3}, "fair_by column"),
        ({"fair_by": "attempts"}, "claim column 'attempts'"),
        ({"limits": (Limit(1, by="tenant", ordered=True),)}, "name an order that stays"),
    ],
)
def test_limits_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(SettingsError, match=message):
        replace(MAILS, **changes)


def hashed(**changes: Any) -> str:
    return function_set(replace(MAILS, **changes), SHAPE)


def test_the_hash_is_over_what_the_indexes_depend_on():
    """The numbers are replaced in place, as finish is: while two versions of a service run, they share one limit."""
    sets = [
        hashed(),
        hashed(limits=(Rate(3, 1),)),
        hashed(limits=(Limit(3),)),
        hashed(limits=(Limit(3, by="tenant"),)),
        hashed(limits=(Limit(3, by="shop"),)),
        hashed(fair_by="tenant"),
    ]
    assert len(set(sets)) == len(sets)
    assert hashed(limits=(Limit(3),)) == hashed(limits=(Limit(4),))
    assert hashed(limits=()) == hashed()


def test_only_who_has_limits_gets_their_files():
    assert mapping_files(MAILS, "alwaysup") == ("tasks.alwaysup.sql",)
    assert mapping_files(MAILS, "index") == ("tasks.index.sql",)
    assert mapping_files(MAILS, "down") == ("tasks.down.sql",)
    fair = replace(MAILS, fair_by="tenant")
    assert mapping_files(fair, "index") == ("tasks.index.sql", "tasks.values.index.sql")
    assert mapping_files(fair, "down") == ("tasks.limits.down.sql", "tasks.down.sql")
    limited = replace(MAILS, limits=(Limit(3),))
    assert mapping_files(limited, "index") == ("tasks.index.sql", "tasks.held.index.sql")
    assert mapping_files(limited, "alwaysup") == ("tasks.alwaysup.sql", "tasks.limits.alwaysup.sql")


def test_data_without_the_column_are_told_with_the_remedy():
    database = MemoryDatabase({1: "a"}, fair_by="tenant")
    with pytest.raises(SettingsError, match="the data of task 1 has no 'tenant': give MemoryDatabase value="):
        database._limits.value_of(database[1])


# Runners ---------------------------------------------------------------------------------------------------


class Gauge:
    """A tasker of one second a task, which counts what runs at once."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_in_all = 0
        self.ended: list[tuple[str, float]] = []

    async def __call__(self, task: Any) -> None:
        value = task.data["tenant"]
        self.running[value] += 1
        self.most[value] = max(self.most[value], self.running[value])
        self.most_in_all = max(self.most_in_all, self.running.total())
        await asyncio.sleep(1)
        self.running[value] -= 1
        self.ended.append((value, asyncio.get_running_loop().time()))


async def run(database: MemoryDatabase, *, runners: int = 1, **settings: Any) -> tuple[Gauge, float]:
    """Until all is done; returns how long that took, too."""
    gauge, clock = Gauge(), asyncio.get_running_loop().time
    chosen = Settings(**{"start_jitter": 0, "concurrency": 10, **settings})
    made = [Runner(database, each(gauge), chosen) for _ in range(runners)]
    began = clock()
    runs = [asyncio.create_task(runner.run()) for runner in made]
    while database.pending:
        await asyncio.sleep(0.05)
    took = clock() - began
    for runner in made:
        runner.stop()
    await asyncio.gather(*runs)
    return gauge, took


def of(**counts: int) -> dict[int, dict[str, str]]:
    tenants = [tenant for tenant, count in counts.items() for _ in range(count)]
    return {key: {"tenant": tenant} for key, tenant in enumerate(tenants)}


@virtual
async def test_a_runner_goes_on_as_soon_as_a_task_under_the_limit_is_done():
    gauge, took = await run(MemoryDatabase(of(a=20), limits=(Limit(4),)), poll_interval=60)
    assert gauge.most_in_all == 4
    assert took < 6


@virtual
async def test_runners_keep_to_the_limit_together_and_use_all_of_it():
    gauge, took = await run(MemoryDatabase(of(a=40), limits=(Limit(4),)), runners=3)
    assert gauge.most_in_all == 4
    assert took < 20


@virtual
async def test_runners_that_share_a_limit_go_on_as_soon_as_a_task_is_done():
    gauge, took = await run(MemoryDatabase(of(a=40), limits=(Limit(4),)), runners=2, poll_interval=60)
    assert gauge.most_in_all == 4
    assert took < 14


@virtual
async def test_each_value_is_in_order_and_different_ones_run_side_by_side():
    database = MemoryDatabase(of(a=5, b=5, c=5), limits=(Limit(1, by="tenant", ordered=True),))
    gauge, took = await run(database, poll_interval=60)
    assert gauge.most == {"a": 1, "b": 1, "c": 1}
    assert gauge.most_in_all == 3
    assert took < 6


@virtual
async def test_the_few_of_one_value_do_not_wait_for_the_many_of_another():
    _, alone = await run(MemoryDatabase(of(small=20), fair_by="tenant"))
    began = asyncio.get_running_loop().time()
    gauge, _ = await run(MemoryDatabase(of(big=500, small=20), fair_by="tenant"))
    assert max(at for value, at in gauge.ended if value == "small") - began <= 3 * alone + 1


@virtual
async def test_a_runner_that_is_held_back_by_a_rate_looks_when_it_may_and_not_before():
    database = MemoryDatabase(of(a=9), limits=(Rate(3, per=30),))
    looks = 0
    get_work = database.get_work

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal looks
        looks += 1
        return await get_work(*args, **kwargs)

    database.get_work = counted  # type: ignore[method-assign]
    gauge, took = await run(database, poll_interval=600)
    assert [round(at) for _, at in gauge.ended] == [1, 1, 1, 31, 31, 31, 61, 61, 61]
    assert took == pytest.approx(61, abs=1)
    assert looks < 30
