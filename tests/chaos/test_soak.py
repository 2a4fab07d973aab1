"""The bounds of a soak are seen to be broken by what breaks them; the soak itself is `nox -s soak`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.soak.judging import Sample, judge, table

SIZE = 10_000_000


def a_quiet_half_hour() -> list[Sample]:
    samples = []
    for minute in range(1, 31):
        part = "before" if minute <= 9 else "beside" if minute <= 18 else "after"
        heap = SIZE * (3 if part == "beside" else 3.1 if part == "after" else 1)
        dead = 200_000 if part == "beside" else 20_000
        age = 2000 * minute if part == "beside" else 10_000
        samples.append(
            Sample(
                at=60.0 * minute, part=part, looks=[0.002] * 98 + [0.01] * 2, resident=30_000_000, heap=int(heap), indexes=SIZE,
                dead=dead, vacuums=minute, xid_age=age, mxid_age=age, multixacts=3_000 * minute, pending=30, tasks=9_000 * minute,
                dead_sessions=10,
            )
        )  # fmt: skip
    return samples


def test_a_quiet_half_hour_is_well() -> None:
    samples = a_quiet_half_hour()
    assert judge(samples) == []
    assert len(table(samples).splitlines()) == 5


@pytest.mark.parametrize(
    ("broken", "parts", "said"),
    [
        ({"looks": [0.002] * 98 + [0.016] * 2}, ("after",), "p99 of a look is 1.60 times"),
        ({"looks": [0.002] * 98 + [0.04] * 2}, ("beside",), "beside an old snapshot is 4.00 times"),
        ({"resident": 34_000_000}, ("after",), "an instance's memory has grown 1.13 times"),
        ({"heap": 4 * SIZE}, ("after",), "the table has grown 1.33 times"),
        ({"indexes": 2 * SIZE}, ("after",), "the size of its indexes has grown 2.00 times"),
        ({"dead": 100_000}, ("after",), "100000 dead rows are left"),
        ({"vacuums": 18}, ("after",), "no autovacuum has come"),
        ({"xid_age": 36_000}, ("after",), "the table's oldest transaction is 36000 old"),
        ({"mxid_age": 36_001}, ("after",), "the table's oldest multixact is 36001 old"),
        ({"pending": 5_000}, ("after",), "does not keep up"),
    ],
)
def test_each_bound_is_seen_to_be_broken(broken: dict, parts: tuple[str, ...], said: str) -> None:
    samples = [replace(each, **broken) if each.part in parts else each for each in a_quiet_half_hour()]
    (wrong,) = judge(samples)
    assert said in wrong
