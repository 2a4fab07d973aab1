"""Hours of faults, each judged by all promises; and each fault of the product is seen to be found."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.storms import faults, promises
from tests.storms.replay import replay

HOURS = 200
AT_ONCE = 10


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Deaths are no news here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("begin", range(0, HOURS, AT_ONCE))
def test_all_is_kept(begin: int) -> None:
    for seed in range(begin, begin + AT_ONCE):
        hour = replay(seed)
        assert not hour.wrong, str(hour)


def test_the_same_seed_plays_the_same_hour() -> None:
    played = [
        subprocess.run(
            [sys.executable, "-m", "tests.storms", "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert " claimed instance " in played[0]
    assert played[0] == played[1]


# What the promises are for --------------------------------------------------------------------------------------

FOUND: dict[faults.Fault, tuple[int, set[promises.Promise]]] = {}
"""The first hour in which each is found, and by what."""


@pytest.mark.parametrize("fault", FOUND, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault: faults.Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    seed, broken = FOUND[fault]
    fault(monkeypatch)
    assert {*replay(seed).wrong} >= {promise.__name__ for promise in broken}


def test_each_fault_is_looked_for() -> None:
    known = {each for each in vars(faults).values() if inspect.getmodule(each) is faults}
    assert {*FOUND} == known


def test_each_promise_is_broken_by_a_fault() -> None:
    assert set().union(*(broken for _, broken in FOUND.values())) == {*promises.PROMISES}
