"""`Retry`: which policy counts, how long it waits, when it gives up, and what a task whose attempts are used up becomes."""

from __future__ import annotations

import copy
import math
import pickle
import random
from typing import Any

import pytest

from session_lock import Release, Retry, Runner, Settings, SettingsError, each
from session_lock.testing import MemoryDatabase
from tests.unit.faults import Faulty
from tests.unit.scenes import assert_free, rows, run_for, running, settings, table
from tests.unit.virtual import until, virtual


class RateLimited(ConnectionError):
    pass


def errors(database: Any, key: int) -> list[str]:
    return [failure.error for failure in database.failures.get(key, [])]


# What it refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, True, False, 1.5, 3.0, "3", math.inf, math.nan])
def test_max_attempts_is_a_whole_number_from_1_on_or_none(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"max_attempts=.* must be a whole number from 1 on, or None"):
        Retry(max_attempts=value)


WRONG = {
    "delay": [-1, -0.001],
    "factor": [0, 0.99, -2],
    "longest": [-1],
    "jitter": [-0.1, 1.01, 2],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, some in WRONG.items()
        for value in [*some, math.nan, math.inf, -math.inf, True, "1", None, 1j, 10**400, 1e300]
    ],
)
def test_a_number_out_of_its_bounds_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}=.* of a Retry must be a number from [01] to "):
        Retry(**{name: value})


def test_the_bounds_themselves_are_allowed() -> None:
    Retry(max_attempts=1, delay=0, factor=1, longest=0, jitter=0)
    Retry(max_attempts=None, delay=1e9, factor=1e9, longest=1e9, jitter=1)


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ([(ValueError, Retry())], "maps types of exceptions to Retry, it is no list"),
        (None, "it is no NoneType"),
        ({"ValueError": Retry()}, "the key 'ValueError', which is no type of exception"),
        ({int: Retry()}, "which is no type of exception"),
        ({ValueError(): Retry()}, "which is no type of exception"),
        ({(ValueError, KeyError): Retry()}, "which is no type of exception"),
        ({ValueError: 3}, r"has 3 for ValueError: give a Retry \(max_attempts=1 gives up at once\)"),
        ({ValueError: None}, "has None for ValueError"),
        ({ValueError: Retry}, "for ValueError: give a Retry"),
    ],
)
def test_what_is_no_mapping_of_types_to_policies_is_refused(on: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Retry(on=on)


def test_settings_take_a_retry_and_nothing_else() -> None:
    for value in (3, None, {"max_attempts": 3}, Retry):
        with pytest.raises(SettingsError, match="retry is a Retry, not"):
            Settings(retry=value)  # type: ignore[arg-type]


def test_it_cannot_be_changed_behind_the_runners_back() -> None:
    on: dict[type[BaseException], Retry] = {ValueError: Retry(max_attempts=1)}
    retry = Retry(on=on)
    on.clear()
    assert retry.policy(ValueError()).max_attempts == 1


def test_settings_with_policies_can_be_copied_pickled_compared_and_hashed() -> None:
    config = Settings(retry=Retry(max_attempts=None, on={RateLimited: Retry(delay=60)}), task_timeout=3)
    for copied in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):  # noqa: S301
        assert copied == config
        assert hash(copied) == hash(config)
        assert copied.retry.policy(RateLimited()).delay == 60


# Which policy counts ---------------------------------------------------------------------------------------


def test_the_nearest_base_class_counts() -> None:
    retry = Retry(
        on={
            OSError: Retry(max_attempts=2),
            ConnectionError: Retry(max_attempts=3),
            Exception: Retry(max_attempts=4),
            BaseException: Retry(max_attempts=5),
        }
    )
    expected = [(RateLimited(), 3), (FileNotFoundError(), 2), (ValueError(), 4), (GeneratorExit(), 5)]
    assert [retry.policy(error).max_attempts for error, _ in expected] == [most for _, most in expected]
    assert retry.policy(None) is retry


def test_a_policy_of_a_policy_counts() -> None:
    retry = Retry(
        on={OSError: Retry(max_attempts=2, on={ConnectionError: Retry(max_attempts=7), KeyError: Retry()})}
    )
    assert retry.policy(RateLimited()).max_attempts == 7
    assert retry.policy(OSError()).max_attempts == 2
    assert retry.policy(KeyError()) is retry


def test_of_a_group_the_first_exception_is_looked_up_unless_the_group_is_named() -> None:
    limited = ExceptionGroup("two", [RateLimited(), ValueError()])
    nested = BaseExceptionGroup("outer", [ExceptionGroup("inner", [limited]), KeyboardInterrupt()])
    one, two, three = (Retry(max_attempts=most) for most in (1, 2, 3))
    assert Retry(on={RateLimited: one, ValueError: two}).policy(limited) is one
    assert Retry(on={RateLimited: one}).policy(nested) is one
    assert Retry(on={ValueError: one}).policy(limited).max_attempts == 25
    assert Retry(on={RateLimited: one, ExceptionGroup: two}).policy(limited) is two
    assert Retry(on={RateLimited: one, BaseExceptionGroup: two}).policy(nested) is two
    assert Retry(on={ExceptionGroup: Retry(on={RateLimited: one})}).policy(limited) is one
    # A group is an Exception, but that is not what such an entry means.
    assert Retry(on={Exception: three, RateLimited: one}).policy(limited) is one
    assert Retry(on={Exception: three}).policy(limited) is three


def test_groups_in_groups_are_looked_through_however_deep() -> None:
    error: Exception = RateLimited()
    for _ in range(10_000):
        error = ExceptionGroup("", [error])
    assert Retry(on={RateLimited: Retry(max_attempts=1)}).policy(error).max_attempts == 1


def test_the_most_attempts_of_all_policies() -> None:
    assert Retry().most_attempts == 25
    assert Retry(max_attempts=3, on={OSError: Retry(max_attempts=9)}).most_attempts == 9
    assert Retry(max_attempts=9, on={OSError: Retry(max_attempts=3)}).most_attempts == 9
    assert Retry(max_attempts=3, on={OSError: Retry(max_attempts=None)}).most_attempts == math.inf
    assert Retry(max_attempts=None, on={OSError: Retry(max_attempts=1)}).most_attempts == math.inf


# How long it waits, and when it gives up ---------------------------------------------------------------------


def test_the_pause_grows_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(delay=3, factor=2, longest=40, jitter=0)
    assert [retry.pause(attempt) for attempt in range(1, 7)] == [3, 6, 12, 24, 40, 40]
    assert Retry(delay=5, factor=1, jitter=0).pause(1000) == 5
    assert Retry(delay=0, jitter=0).pause(10**9) == 0
    assert Retry(delay=100, longest=10, jitter=0).pause(1) == 10


@pytest.mark.parametrize("factor", [1, 1.001, 2, 1e9])
@pytest.mark.parametrize("delay", [0, 1e-9, 1, 1e9])
def test_no_attempt_is_too_many_for_the_arithmetic(factor: float, delay: float) -> None:
    retry = Retry(max_attempts=None, delay=delay, factor=factor, longest=1e9, jitter=0)
    pauses = [retry.pause(attempt) for attempt in (1, 2, 1000, 10**6, 10**9, 2**31)]
    assert pauses == sorted(pauses)
    assert pauses[0] == delay
    assert pauses[-1] == (1e9 if factor > 1 and delay else pytest.approx(delay))


def test_jitter_takes_off_a_part_and_never_adds() -> None:
    random.seed(3)
    retry = Retry(delay=10, factor=1, jitter=0.3)
    pauses = [retry.pause(1) for _ in range(1000)]
    assert 7 <= min(pauses) < 7.1
    assert 9.9 < max(pauses) <= 10
    assert 0 <= min(Retry(delay=10, jitter=1).pause(1) for _ in range(1000)) < 0.2


def test_it_gives_up_at_max_attempts_and_never_without() -> None:
    assert [Retry(max_attempts=3).gives_up(attempt) for attempt in (1, 2, 3, 4)] == [False, False, True, True]
    assert not Retry(max_attempts=None).gives_up(10**9)


@virtual
async def test_attempts_follow_one_another_by_the_policy() -> None:
    begun: list[tuple[int, float]] = []
    database = table(1)

    async def fail(task: Any) -> None:
        begun.append((task.attempt, database.clock()))
        raise RuntimeError

    retry = Retry(max_attempts=5, delay=10, factor=3, longest=100, jitter=0)
    await run_for(300, database, each(fail), settings(retry=retry))
    assert [attempt for attempt, _ in begun] == [1, 2, 3, 4, 5]
    gaps = [later - earlier for (_, earlier), (_, later) in zip(begun, begun[1:], strict=False)]
    assert gaps == pytest.approx([10, 30, 90, 100], abs=0.1)  # no poll interval is added


@pytest.mark.parametrize("discards", [True, False])
@virtual
async def test_given_up_is_discarded_in_the_tables_words_or_parked_where_it_has_none(
    discards: bool, caplog: Any
) -> None:
    database = table(2, discards=discards)

    async def fail(task: Any) -> None:
        if task.key == 1:
            raise RuntimeError(f"attempt {task.attempt}")

    config = settings(retry=Retry(max_attempts=3, delay=1, jitter=0))
    await run_for(100, database, each(fail), config)
    assert (database.discarded, database.parked) == (([1], []) if discards else ([], [1]))
    assert errors(database, 1) == [f"RuntimeError: attempt {attempt}" for attempt in (1, 2, 3)]
    assert database[1].attempts == 3
    assert database.finished == [2]
    assert "gives a task up at its attempt 3" in caplog.text
    assert_free(database)


@virtual
async def test_each_type_of_error_has_its_own_attempts_and_pauses() -> None:
    database = table(4)

    async def fail(task: Any) -> None:
        match task.key:
            case 1:
                raise KeyError
            case 2:
                raise RateLimited
            case 3:
                raise ExceptionGroup("g", [KeyError(), ValueError()])
            case 4:
                raise RuntimeError

    retry = Retry(
        max_attempts=2, delay=1, jitter=0,
        on={LookupError: Retry(max_attempts=1), OSError: Retry(max_attempts=4, delay=7, factor=1, jitter=0)},
    )  # fmt: skip
    await run_for(20.5, database, each(fail), settings(retry=retry, breaker_failures=None))
    assert {key: len(errors(database, key)) for key in (1, 2, 3, 4)} == {1: 1, 2: 3, 3: 1, 4: 2}
    assert sorted(database.discarded) == [1, 3, 4]
    await run_for(10, database, each(fail), settings(retry=retry, breaker_failures=None))
    assert len(errors(database, 2)) == 4
    assert sorted(database.discarded) == [1, 2, 3, 4]


@virtual
async def test_no_limit_is_none() -> None:
    database = table(1)

    async def fail(task: Any) -> None:
        raise RuntimeError

    config = settings(retry=Retry(max_attempts=None, delay=1, factor=1, jitter=0))
    await run_for(60.5, database, each(fail), config)
    assert database[1].attempts > 55
    assert database.pending == [1]


@virtual
async def test_attempts_that_were_released_do_not_count() -> None:
    database = table(1)
    begun: list[int] = []

    async def tasker(task: Any) -> Any:
        begun.append(task.attempt)
        if len(begun) % 5:
            return Release(after=0.5)
        raise RuntimeError

    await run_for(60, database, each(tasker), settings(retry=Retry(max_attempts=3, delay=1, jitter=0)))
    assert begun == [1] * 5 + [2] * 5 + [3] * 5
    assert database.discarded == [1]


# Those that nobody saw fail ----------------------------------------------------------------------------------


@pytest.mark.fault("P12")
@pytest.mark.parametrize("discards", [True, False])
@virtual
async def test_a_task_whose_attempts_were_used_up_by_expiry_is_parked_and_not_run(discards: bool) -> None:
    database = table(3, discards=discards)
    database[2].attempts = 3  # claimed by three sessions that expired
    begun: list[int] = []

    async def tasker(task: Any) -> None:
        begun.append(task.key)

    await run_for(5, database, each(tasker), settings(retry=Retry(max_attempts=3)))
    assert begun == [1, 3]
    assert (database.parked, database.discarded) == ([2], [])
    assert errors(database, 2) == ["given up after 3 attempts, the last of which ended with its session"]
    assert_free(database)


@virtual
async def test_the_last_attempt_is_run() -> None:
    database = table(1)
    database[1].attempts = 2
    await run_for(1, database, each(_accomplish), settings(retry=Retry(max_attempts=3)))
    assert database.finished == [1]


@virtual
async def test_attempts_that_the_policy_of_an_error_allows_are_not_used_up() -> None:
    """What is rate-limited may be tried more often than what fails otherwise."""
    database = table(1)

    async def tasker(task: Any) -> None:
        if task.attempt < 6:
            raise RateLimited

    config = settings(retry=Retry(max_attempts=2, on={RateLimited: Retry(max_attempts=8, delay=1)}))
    async with running(Runner(database, each(tasker), config)):
        await until(lambda: database.finished == [1])
    assert database[1].attempts == 6


async def _accomplish(task: Any) -> None:
    pass


# Those that failed outside of the tasker ---------------------------------------------------------------------


@virtual
async def test_a_row_that_cannot_be_decoded_obeys_the_policy() -> None:
    database = Faulty(MemoryDatabase({1: ValueError("not json"), 2: LookupError("no"), 3: "good"}))  # type: ignore[dict-item]
    retry = Retry(max_attempts=3, delay=1, jitter=0, on={LookupError: Retry(max_attempts=1)})
    await run_for(60, database, each(_accomplish), settings(retry=retry))
    assert sorted(database.discarded) == [1, 2]
    assert errors(database, 1) == ["decode failed: ValueError: not json"] * 3
    assert errors(database, 2) == ["decode failed: LookupError: no"]


@pytest.mark.parametrize("discards", [True, False])
@virtual
async def test_a_finish_that_is_refused_obeys_the_policy(discards: bool) -> None:
    inner = MemoryDatabase(
        rows(2), refuse=lambda key, data: "a CHECK" if key == 1 else None, discards=discards
    )
    database = Faulty(inner)
    await run_for(60, database, each(_accomplish), settings(retry=Retry(max_attempts=3, delay=1, jitter=0)))
    assert errors(database, 1) == ["finish was refused: a CHECK"] * 3
    assert (database.discarded, database.parked) == (([1], []) if discards else ([], [1]))
    assert database.finished == [2]


@virtual
async def test_what_refuses_its_discard_too_is_parked() -> None:
    inner = MemoryDatabase(rows(2), refuse_discard=lambda key, data: "a trigger" if key == 1 else None)
    database = Faulty(inner)

    async def fail(task: Any) -> None:
        if task.key == 1:
            raise RuntimeError("no")

    await run_for(60, database, each(fail), settings(retry=Retry(max_attempts=1)))
    assert database.parked == [1]
    assert errors(database, 1) == ["discard was refused: a trigger; RuntimeError: no"]
    assert database.finished == [2]
    assert_free(database)
