"""Faults in words: whatever an exception is like, there is a text of it, and nothing that it does is fatal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from session_lock import Discard, Retry, each
from session_lock.wording import LONGEST_STORY, describe, level_of, story
from tests.unit.scenes import assert_free, run_for, settings, table
from tests.unit.virtual import virtual


class Mute(Exception):
    def __init__(self, raised: BaseException) -> None:
        super().__init__()
        self.raised = raised

    def __str__(self) -> str:
        raise self.raised


class Wordless(Exception):
    def __str__(self) -> Any:
        return 3  # noqa: PLE0307


class Falsy(Exception):
    """An exception that is a container, and empty."""

    def __len__(self) -> int:
        return 0


class Undecided(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("neither")


def chained(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


def circle() -> BaseException:
    first, second, third = ValueError("1"), KeyError("2"), OSError("3")
    first.__cause__, second.__cause__, third.__cause__ = second, third, first
    third.__context__ = third
    return first


def deep(links: int, link: str) -> BaseException:
    error: BaseException = ValueError("the first")
    for number in range(links):
        later = RuntimeError(str(number))
        setattr(later, link, error)
        error = later
    return error


def nested(depth: int) -> BaseException:
    error: Exception = ValueError("inside")
    for _ in range(depth):
        error = ExceptionGroup("g", [error])
    return error


def group_in_a_circle() -> BaseException:
    leaf = ValueError("leaf")
    group = ExceptionGroup("g", [leaf, leaf])
    leaf.__context__ = group
    return group


def with_cancelled() -> BaseException:
    return BaseExceptionGroup("b", [asyncio.CancelledError(), ValueError("v"), KeyboardInterrupt()])


ERRORS: dict[str, tuple[Any, str]] = {
    "plain": (lambda: ValueError("v"), "ValueError: v"),
    "mute": (lambda: Mute(RuntimeError()), "Mute"),
    "mute by an exit": (lambda: Mute(SystemExit(1)), "Mute"),
    "mute by a cancellation": (lambda: Mute(asyncio.CancelledError()), "Mute"),
    "wordless": (lambda: Wordless(), "Wordless"),
    "falsy": (lambda: Falsy("f"), "Falsy: f"),
    "undecided": (lambda: Undecided("u"), "Undecided: u"),
    "falsy cause": (lambda: chained(ValueError("v"), Falsy("f")), "ValueError: v\nfrom Falsy: f"),
    "undecided cause": (lambda: chained(ValueError("v"), Undecided("u")), "ValueError: v\nfrom Undecided: u"),
    "mute cause": (lambda: chained(ValueError("v"), Mute(SystemExit())), "ValueError: v\nfrom Mute"),
    "circle": (circle, "ValueError: 1\nfrom KeyError: '2'\nfrom OSError: 3"),
    "its own cause": (lambda: chained(e := ValueError("v"), e), "ValueError: v"),
    "group": (with_cancelled, "BaseExceptionGroup: b (3 sub-exceptions)\n- CancelledError: \n- ValueError: v\n- KeyboardInterrupt: "),
    "group in a circle": (group_in_a_circle, "ExceptionGroup: g (2 sub-exceptions)\n- ValueError: leaf"),
    "nul": (lambda: ValueError("a\0b\ud800c"), "ValueError: a\0b\ud800c"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_every_exception_has_a_story(name: str) -> None:
    make, expected = ERRORS[name]
    assert story(make()) == expected


def test_a_context_is_told_unless_it_is_suppressed() -> None:
    error = ValueError("v")
    error.__context__ = KeyError("k")
    assert story(error) == "ValueError: v\nfrom KeyError: 'k'"
    error.__suppress_context__ = True  # `from None`
    assert story(error) == "ValueError: v"


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_a_chain_of_thousands_is_told_in_part(link: str) -> None:
    lines = story(deep(10_000, link)).split("\n")
    assert len(lines) == LONGEST_STORY
    assert lines[:2] == ["RuntimeError: 9999", "from RuntimeError: 9998"]


def test_groups_in_groups_and_wide_groups_are_told_in_part() -> None:
    assert len(story(nested(10_000)).split("\n")) == LONGEST_STORY
    wide = ExceptionGroup("wide", [ValueError(str(number)) for number in range(100_000)])
    assert len(story(wide).split("\n")) == LONGEST_STORY


@pytest.mark.parametrize(
    "raised", [RuntimeError(), SystemExit(), KeyboardInterrupt(), asyncio.CancelledError()]
)
def test_to_describe_never_raises(raised: BaseException) -> None:
    assert describe(Mute(raised)) == "Mute"


def test_an_outage_is_said_at_its_1st_2nd_4th_8th_failure() -> None:
    loud = level_of(1)
    assert [n for n in range(1, 20) if level_of(n) == loud] == [1, 2, 4, 8, 16]


STORED = {**ERRORS, "nul": (ERRORS["nul"][0], "ValueError: a\\0b\\ud800c")}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("kind", ["each", "thread", "batch"])
@virtual
async def test_whatever_is_raised_is_kept_as_text_and_the_others_go_on(name: str, kind: str) -> None:
    make, expected = STORED[name]
    database = table(3)

    async def tasker(task: Any) -> None:
        if task.key == 2:
            raise make()

    def plain(task: Any) -> None:
        if task.key == 2:
            raise make()

    async def whole(batch: Any) -> Any:
        for task in batch:
            await tasker(task)
        return batch

    taskers: dict[str, Any] = {"each": each(tasker), "thread": each(plain), "batch": whole}
    await run_for(0.4, database, taskers[kind], settings())
    assert sorted(database.finished) == [1, 3]
    assert [failure.error for failure in database.failures[2]] == [expected]
    assert_free(database)


@pytest.mark.parametrize(
    "make", [lambda: deep(10_000, "__cause__"), lambda: deep(10_000, "__context__"), lambda: nested(10_000)]
)
@virtual
async def test_no_chain_is_too_deep_for_a_runner(make: Any) -> None:
    database = table(3)
    error = make()

    async def tasker(batch: Any) -> Any:
        if any(task.key == 2 for task in batch):
            raise error
        return batch

    retry = Retry(on={OSError: Retry(max_attempts=1)})
    await run_for(0.4, database, tasker, settings(retry=retry))
    assert sorted(database.finished) == [1, 3]
    (failure,) = database.failures[2]
    assert len(failure.error.split("\n")) == LONGEST_STORY


@virtual
async def test_a_reason_that_is_no_text_is_kept_as_one() -> None:
    database = table(4)
    reasons = {1: Mute(RuntimeError()), 2: ValueError("v"), 3: "x" * 10**6, 4: None}

    async def tasker(task: Any) -> Any:
        return Discard(reasons[task.key])  # type: ignore[arg-type]

    await run_for(0.4, database, each(tasker), settings())
    assert sorted(database.discarded) == [1, 2, 3, 4]
    assert [database.failures[key][0].error[:10] for key in (1, 2, 3, 4)] == ["Mute", "v", "x" * 10, "None"]
    assert len(database.failures[3][0].error) == 4000


@virtual
async def test_a_tasker_that_recurses_too_deep_has_failed_like_any_other() -> None:
    database = table(2)

    def recurse(depth: int) -> int:
        return recurse(depth + 1) + 1

    async def tasker(task: Any) -> None:
        if task.key == 1:
            recurse(0)

    await run_for(0.4, database, each(tasker), settings())
    assert database.finished == [2]
    assert database.failures[1][0].error.startswith("RecursionError: maximum recursion depth exceeded")
