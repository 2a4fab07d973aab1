"""What is measured: that it is what happened, and what the page in docs says."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.semconv import schemas as semconv

from session_lock import (
    DatabaseError,
    Discard,
    Duties,
    Duty,
    Retry,
    Runner,
    RunnerGroup,
    SchemaError,
    SessionLost,
    each,
    every,
)
from session_lock.facts import Backlog
from session_lock.recording import COUNTED_AS
from session_lock.telemetry import words
from session_lock.telemetry.call import AT_ONCE
from session_lock.telemetry.meters import MOST_TYPES, meter_of
from session_lock.telemetry.words import METRICS, OPERATIONS, OUTCOMES
from session_lock.testing import MemoryDuties
from tests.docs.examples import ROOT
from tests.unit.scenes import CANARY, Sleeper, do_all, running, settings, table
from tests.unit.virtual import until, virtual

ALLOWED = {
    "messaging.system", "messaging.destination.name", "messaging.operation.name", "messaging.operation.type", "error.type",
    "db.response.status_code", "session_lock.outcome",
}  # fmt: skip
"""All attributes of metrics of a database in memory."""


class Meters:
    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def read(self) -> dict[str, list[Any]]:
        """The points of each metric."""
        found: dict[str, list[Any]] = defaultdict(list)
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] += metric.data.data_points
        return found

    def value(self, name: str, **attributes: str) -> float:
        """Of a counter or a gauge, in all; of a histogram how often something was recorded."""
        points = [
            point for point in self.read()[name]
            if all(point.attributes.get(key.replace("__", ".")) == value for key, value in attributes.items())
        ]  # fmt: skip
        return sum(point.count if hasattr(point, "count") else point.value for point in points)

    def outcomes(self) -> dict[str, float]:
        return {
            point.attributes["session_lock.outcome"]: point.value
            for point in self.read()["session_lock.tasks.settled"]
            if point.value
        }


@pytest.fixture
def meters() -> Any:
    measured = Meters()
    yield measured
    points = [point for each in measured.read().values() for point in each]
    assert {name for point in points for name in point.attributes} <= ALLOWED
    texts = {str(value) for point in points for value in point.attributes.values()}
    assert not any(CANARY in text for text in texts)
    assert all(len(text) <= 100 for text in texts)
    measured.provider.shutdown()


@virtual
async def test_what_became_of_tasks_is_counted_once_each(meters: Meters) -> None:
    database = table(9, refuse=lambda key, _: "no" if key == 9 else None)

    async def tasker(batch: Any) -> Any:
        batch.release(batch[0], after=1000)
        batch.discard(batch[1])
        if len(batch) > 1:
            async with batch[2].transaction():
                pass
        return batch[2:]

    async def other(task: Any) -> None:
        raise LookupError(task.data)

    async with running(Runner(database, tasker, settings(), meter_provider=meters.provider)):
        await until(lambda: meters.outcomes().get("retried"))
    assert meters.outcomes() == {"released": 1, "discarded": 1, "finished": 6, "retried": 1}
    assert meters.value("session_lock.tasks.failed") == 1  # the tasker did what it should; the row refused
    assert meters.value("session_lock.tasks.failed", error__type="RowRefusedError") == 1
    assert meters.value("messaging.client.consumed.messages") == 9
    async with running(
        Runner(table(3), each(other), settings(), name="other", meter_provider=meters.provider)
    ):
        await until(lambda: meters.value("session_lock.tasks.failed", error__type="LookupError") == 3)
        await until(lambda: meters.outcomes().get("retried", 0) >= 3)


@virtual
async def test_an_attempt_that_is_refused_has_failed_once_whatever_refuses_it(meters: Meters) -> None:
    """1: its finish. 2: its finish in a transaction. 3: nothing but the tasker, whose failure's record is as good as any other. 4: its
    discard, which is no attempt that has failed.
    """
    refuses = {"refuse": lambda key, _: "no" if key in (1, 2) else None, "refuse_discard": lambda *_: "no"}
    database = table(4, **refuses)

    async def tasker(task: Any) -> Any:
        match task.key:
            case 2:
                async with task.transaction():
                    pass
            case 3:
                raise LookupError
            case 4:
                return Discard("no address")
        return None

    config = settings(retry=Retry(max_attempts=3, delay=1))
    async with running(Runner(database, each(tasker), config, meter_provider=meters.provider)):
        await until(lambda: meters.outcomes().get("parked") == 4)
    failed = "session_lock.tasks.failed"
    assert meters.value(failed, error__type="RowRefusedError") == 3 + 3
    assert meters.value(failed, error__type="LookupError") == 3
    assert meters.value(failed) == 9
    settled = "messaging.client.operation.duration"
    assert meters.value(settled, error__type="RowRefusedError", messaging__operation__name="finish") == 3 + 3
    assert meters.value(settled, error__type="RowRefusedError", messaging__operation__name="release") == 4


@virtual
async def test_counters_are_there_from_the_beginning(meters: Meters) -> None:
    """Of one that comes with its first event Prometheus sees no increase: an alert of the first task that is parked would not be given."""
    async with running(Runner(table(0), do_all, settings(), meter_provider=meters.provider)):
        await asyncio.sleep(1)
        told = meters.read()
        for metric in METRICS:
            if metric.kind == "counter":
                assert told[metric.name], metric.name
                assert {point.value for point in told[metric.name]} == {0}
        outcomes = {point.attributes["session_lock.outcome"] for point in told["session_lock.tasks.settled"]}
    assert outcomes == {*OUTCOMES} == {*COUNTED_AS.values()}


@virtual
async def test_types_of_errors_are_told_apart_as_long_as_they_are_few(meters: Meters) -> None:
    database = table(MOST_TYPES + 20)

    async def tasker(task: Any) -> None:
        raise type(f"Error{task.key}", (Exception,), {})

    config = settings(retry=Retry(max_attempts=1), breaker_failures=1000)
    async with running(Runner(database, each(tasker), config, meter_provider=meters.provider)):
        await until(lambda: meters.value("session_lock.tasks.failed") == MOST_TYPES + 20)
    for name in ("session_lock.tasks.failed", "messaging.process.duration"):
        assert meters.value(name, error__type="_OTHER") == 20
        types = {
            point.attributes["error.type"]
            for point in meters.read()[name]
            if "error.type" in point.attributes
        }
        assert len(types) == MOST_TYPES + 1


@virtual
async def test_sqlstates_are_told_apart_as_long_as_they_are_few(meters: Meters) -> None:
    """A trigger may raise any."""
    database = table(1)
    for number in range(MOST_TYPES + 20):
        error = DatabaseError("away")
        error.sqlstate = f"P{number:04}"
        database.fail("get_work", error, times=1)
    async with running(Runner(database, do_all, settings(), meter_provider=meters.provider)):
        await until(lambda: database.finished, within=2000)
    took, status = "messaging.client.operation.duration", "db.response.status_code"
    assert meters.value(took, error__type="DatabaseError") == MOST_TYPES + 20
    told = [point for point in meters.read()[took] if status in point.attributes]
    assert len(told) == MOST_TYPES + 1
    assert {point.count for point in told if point.attributes[status] == "_OTHER"} == {20}


@virtual
async def test_operations_are_timed_with_their_errors(meters: Meters) -> None:
    database = table(1)
    database.fail("get_work", DatabaseError("away"), times=1)
    async with running(Runner(database, do_all, settings(), meter_provider=meters.provider)):
        await until(lambda: database.finished)
        await asyncio.sleep(30)
    took = "messaging.client.operation.duration"
    assert meters.value(took, error__type="DatabaseError") == 1
    assert meters.value(took, messaging__operation__type="receive") == database.count("get_work") > 20
    assert meters.value(took, messaging__operation__name="finish") == 1
    assert meters.value("messaging.process.duration") == 1
    assert meters.value("session_lock.keepalive.delay") >= 5
    assert meters.value("session_lock.loop.lag") >= 5
    margins = meters.read()["session_lock.lease.margin"]
    assert all(10 < point.min <= point.max < 30 for point in margins)
    assert not meters.read()["db.client.operation.duration"]  # this is none that the conventions know


@virtual
@pytest.mark.parametrize("tasks", [1, AT_ONCE + 30])
async def test_how_long_calls_took_is_told_at_the_next_look(meters: Meters, tasks: int) -> None:
    database = table(tasks)
    durations = "messaging.process.duration"

    async def tasker(task: Any) -> None:
        async with task.transaction():  # there is nothing left to record
            await asyncio.sleep(0.2)
        if task.key == 1:
            raise LookupError(CANARY)

    config = settings(concurrency=tasks, batch_size=1, poll_interval=5)
    async with running(Runner(database, each(tasker), config, meter_provider=meters.provider)):
        await until(lambda: len(database.finished) == tasks)
        await until(lambda: meters.value(durations) == tasks, within=1)
        assert meters.value(durations, error__type="LookupError") == 1
    assert meters.value(durations) == tasks


@virtual
async def test_what_there_is_to_see_is_that_of_now_and_nothing_after_the_end(meters: Meters) -> None:
    database, tasker = table(30), Sleeper(100)
    config = settings(concurrency=3, batch_size=5, prefetch=4)
    async with running(Runner(database, tasker, config, meter_provider=meters.provider)):
        await until(lambda: len(tasker.begun) == 3)
        await asyncio.sleep(40)
        assert {
            name.removeprefix("session_lock."): meters.value(name)
            for name in ("session_lock.tasks.running", "session_lock.tasks.held", "session_lock.tasks.share",
                         "session_lock.slots.free", "session_lock.backlog", "session_lock.oldest.age")
        } == {"tasks.running": 15, "tasks.held": 19, "tasks.share": 19, "slots.free": 0, "backlog": 11,
              "oldest.age": pytest.approx(database.clock(), abs=20)}  # fmt: skip
        assert 10 < meters.value("session_lock.lease.left") < 30
    for name in ("session_lock.tasks.held", "session_lock.backlog", "session_lock.lease.left"):
        assert meters.value(name) == 0
    assert meter_of(meters.provider)._seen == ()


@virtual
async def test_duties_tell_what_waits_as_well(meters: Meters) -> None:
    database, config = MemoryDuties(), settings(concurrency=1)
    duty = Duty("bells", every("1m"), lambda _: asyncio.sleep(1000), missed="all")
    async with Duties(database, duty, settings=config, meter_provider=meters.provider):
        await asyncio.sleep(5 * 60 + 30)
        assert meters.value("session_lock.tasks.running") == 1
        assert meters.value("session_lock.backlog") == 4


@virtual
async def test_sessions_of_one_name_are_added_up_and_others_are_not(meters: Meters) -> None:
    databases = [table(2), table(3), table(4)]
    group = RunnerGroup(
        *(Runner(one, Sleeper(100), settings(), name=name, meter_provider=meters.provider)
          for one, name in zip(databases, ("a", "a", "b"), strict=True))
    )  # fmt: skip
    async with running(group):
        await asyncio.sleep(5)
        assert meters.value("session_lock.tasks.held", messaging__destination__name="a") == 5
        assert meters.value("session_lock.tasks.held", messaging__destination__name="b") == 4
        assert 20 < meters.value("session_lock.lease.left", messaging__destination__name="a") < 30


@virtual
async def test_from_a_wake_up_to_the_start_of_what_it_brought(meters: Meters) -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(poll_interval=5), meter_provider=meters.provider)):
        await asyncio.sleep(20)
        database.add(1, CANARY)  # which wakes
        await until(lambda: database.finished)
        await asyncio.sleep(20)
    assert meters.value("session_lock.wake_up.duration") == 1
    (point,) = meters.read()["session_lock.wake_up.duration"]
    assert point.max < 0.5


@virtual
async def test_rescued_and_lost_tasks_and_lost_leases_are_counted(meters: Meters) -> None:
    database, tasker = table(4), Sleeper(1000)
    runner = Runner(database, tasker, settings(), meter_provider=meters.provider)
    async with running(runner):
        await until(lambda: tasker.begun)
        database.fail("bump_session", SessionLost("gone"), times=1)
        database.fail("release_tasks", SessionLost("gone"), times=1)
        await until(lambda: len(tasker.begun) == 2)
    assert meters.value("session_lock.leases.lost") == 1
    assert meters.outcomes()["lost"] == 4
    assert meters.value("messaging.process.duration") == len(tasker.begun)
    assert meters.value("session_lock.tasks.rescued") == 4


@virtual
async def test_a_session_without_metrics_may_keep_the_backlog_from_the_others(meters: Meters) -> None:
    """As docs/reference/telemetry.md has it: the oldest is told, whether it records or not."""
    database = table(3)
    silent, telling = [Runner(database, do_all, settings(), **options) for options in ({}, {"meter_provider": meters.provider})]  # fmt: skip
    async with running(silent):
        await until(lambda: silent.ready)
        async with running(telling):
            await asyncio.sleep(100)
            assert meters.value("session_lock.lease.left") > 0
            assert "session_lock.backlog" not in meters.read()
            silent.stop()
            await until(lambda: "session_lock.backlog" in meters.read(), within=60)
    page = " ".join((ROOT / "docs" / "reference" / "telemetry.md").read_text().split())
    assert "as long as the oldest is of one that records none, the backlog and its age are missing" in page


@virtual
async def test_a_backlog_that_cannot_be_told_is_not_and_hurts_nobody(
    meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def backlog(_: Any) -> Backlog:
        asked.append(True)
        if len(asked) == 2:
            raise DatabaseError(CANARY)
        if len(asked) == 4:
            raise SchemaError("no such function")
        return Backlog(7, 3.0)

    database = table(1)
    monkeypatch.setattr(database.inner, "backlog", backlog)
    async with running(Runner(database, do_all, settings(), meter_provider=meters.provider)):
        await until(lambda: database.finished)
        for told, pause in ((7, 20), (0, 16), (7, 0)):
            assert meters.value("session_lock.backlog") == told
            await asyncio.sleep(pause)
        await asyncio.sleep(100)
    assert len(asked) == 4


@virtual
async def test_without_a_meter_nothing_is_asked_or_counted() -> None:
    database = table(1)
    asked = []
    database.inner.backlog = asked.append
    runner = Runner(database, do_all, settings())
    async with running(runner):
        await until(lambda: database.finished)
        telemetry = runner._telemetry
        assert (telemetry.heard, telemetry.measures, telemetry.traces, telemetry.figures) == (
            False,
            False,
            False,
            None,
        )
    assert not asked


# The page ------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "reference" / "telemetry.md").read_text(encoding="utf-8")


def test_the_page_lists_the_metrics_as_they_are() -> None:
    listed = re.findall(r"^\| `([\w.]+)` \| (\w+) \| (\S+) \| (.*?) \|", PAGE, flags=re.MULTILINE)
    assert listed == [(each.name, each.kind, each.unit, each.description) for each in METRICS]
    assert len({each.name for each in METRICS}) == len(METRICS)


def test_the_page_lists_the_spans_as_they_are() -> None:
    listed = re.findall(r"^\| `(\w+) NAME` \| (\w+) \|", PAGE, flags=re.MULTILINE)
    assert listed == [
        (name, "CONSUMER" if operation.type == "process" else "CLIENT")
        for name, operation in OPERATIONS.items()
    ]


def test_the_page_lists_what_may_become_of_tasks() -> None:
    [listed] = re.findall(r"`session_lock\.outcome`: ([\w, ]+)", PAGE)
    assert tuple(listed.strip().split(", ")) == OUTCOMES


# The conventions -----------------------------------------------------------------------------------------

CONSTANT = re.compile(r'^\w+: Final = "([^"]+)"\n(?:"{3}\n(Deprecated)?)?', re.MULTILINE)


def test_the_words_of_the_conventions_are_in_them_and_not_deprecated() -> None:
    """By the package that the SDK brings along. It names those of messaging under `_incubating`, which is why the library does not use it."""
    folder = Path(semconv.__file__).parent
    if words.SCHEMA_URL not in (folder / "schemas.py").read_text():
        pytest.skip("the package is of an earlier version of the conventions")
    found = {
        name: not deprecated
        for path in sorted(
            folder.rglob("*.py"), key=lambda path: "_incubating" not in path.parts
        )  # the stable ones have the last word
        for name, deprecated in CONSTANT.findall(path.read_text(encoding="utf-8"))
    }
    ours = {value for value in vars(words).values() if isinstance(value, str)} | {
        each.name for each in METRICS
    }
    theirs = {name for name in ours if re.match(r"(messaging|db|server|error)\.", name)}
    assert len(theirs) > 12
    assert {name for name in theirs if not found.get(name)} == set()
