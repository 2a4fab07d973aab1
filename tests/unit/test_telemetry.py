"""The spans of the phases, and what is not in them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from session_lock import DatabaseError, Release, Retry, Runner, SchemaError, SessionLost, TaskLost, each
from session_lock.connections import place_of
from session_lock.telemetry.call import AT_ONCE
from session_lock.telemetry.spans import MOST_LINKS
from session_lock.telemetry.words import OPERATIONS, OUTCOMES, SCHEMA_URL
from session_lock.testing import MemoryDatabase
from tests.unit.faults import NONCES, Faulty
from tests.unit.scenes import CANARY, Sleeper, do_all, rows, running, settings, table
from tests.unit.virtual import until, virtual

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def nothing(task: Any) -> None:
    """The tasker of single tasks that does all at once."""


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def of(self, phase: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name.split()[0] == phase]


@pytest.fixture
def spans() -> Any:
    collected = Spans()
    yield collected
    told = [
        repr((span.name, dict(span.attributes or {}), span.events, span.status.description))
        for span in collected.all()
    ]
    assert not any(CANARY in text for text in told)
    assert not any(nonce in text for text in told for nonce in NONCES)
    collected.provider.shutdown()


def session_lock_attributes(span: ReadableSpan) -> dict[str, Any]:
    return {key.removeprefix("session_lock."): value for key, value in (span.attributes or {}).items()}


@virtual
async def test_each_phase_has_its_span_with_counts_and_the_session(spans: Spans) -> None:
    database = table(5)

    async def tasker(batch: Any) -> Any:
        await asyncio.sleep(6)
        batch.release(batch[0], after=100)
        return batch

    async with running(Runner(database, tasker, settings(), name="email", tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 4)
    assert {span.name for span in spans.all()} == {
        f"{phase} email" for phase in ("start", "keepalive", "receive", "process", "finish", "release", "end")
    }
    assert all(session_lock_attributes(span)["session_id"] == 1 for span in spans.all())
    assert {span.instrumentation_scope.schema_url for span in spans.all()} == {SCHEMA_URL}
    (process,) = spans.of("process")
    assert {span.kind for span in spans.all() if span is not process} == {SpanKind.CLIENT}
    assert process.kind is SpanKind.CONSUMER
    counts = {"receive": 5, "process": 5, "finish": 4, "release": 1}
    for phase, operation in OPERATIONS.items():
        span = spans.of(phase)[0]
        told = {
            name: value for name, value in span.attributes.items() if not name.startswith("session_lock.")
        }
        expected = {
            "messaging.system": "session_lock",
            "messaging.destination.name": "email",
            "messaging.operation.name": phase,
        }
        if phase in counts:
            expected |= {
                "messaging.operation.type": operation.type,
                "messaging.batch.message_count": counts[phase],
            }
        assert told == expected
    assert session_lock_attributes(spans.of("end")[0])["held"] == 0
    assert all(span.status.status_code is not StatusCode.ERROR for span in spans.all())


@virtual
async def test_the_taskers_own_spans_are_children_of_process_and_those_of_no_other_phase(
    spans: Spans,
) -> None:
    database = table(3)
    tracer = spans.provider.get_tracer("app")

    async def tasker(task: Any) -> None:
        with tracer.start_as_current_span(f"mine {task.key}"):
            await asyncio.sleep(0.1)

    async with running(Runner(database, each(tasker), settings(), tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 3)
    processes = {span.context.span_id for span in spans.of("process")}
    mine = spans.of("mine")
    assert {span.parent.span_id for span in mine if span.parent} == processes
    assert len(processes) == len(mine) == 3
    assert not trace.get_current_span().get_span_context().is_valid


@virtual
async def test_without_idle_spans_only_idle_looks_and_keepalives_leave_none(spans: Spans) -> None:
    database = table(0)
    async with running(
        Runner(database, do_all, settings(), tracer_provider=spans.provider, idle_spans=False)
    ):
        await asyncio.sleep(30)
        assert [span.name.split()[0] for span in spans.all()] == ["start"]
        database.add(1, CANARY)
        await until(lambda: database.finished)
        database.fail("get_work", times=1)
        database.fail("bump_session", times=1)
        await asyncio.sleep(30)
    assert [span.name.split()[0] for span in spans.all()][:4] == ["start", "receive", "process", "finish"]
    assert len(spans.of("receive")) == 2
    assert len(spans.of("keepalive")) == 1
    assert [span.status.status_code for span in spans.of("receive")] == [StatusCode.UNSET, StatusCode.ERROR]
    assert spans.of("keepalive")[0].status.status_code is StatusCode.ERROR
    assert len(spans.of("end")) == 1


@virtual
async def test_with_idle_spans_each_look_and_keepalive_has_one(spans: Spans) -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(), tracer_provider=spans.provider)):
        await asyncio.sleep(30)
    assert len(spans.of("receive")) == database.count("get_work") > 20
    assert len(spans.of("keepalive")) >= database.count("bump_session") - 1 >= 5


@virtual
async def test_errors_are_told_by_their_type_alone(spans: Spans) -> None:
    database = table(2)
    database.fail("start_session", DatabaseError("away"), times=1)

    async def tasker(task: Any) -> None:
        raise LookupError(task.data)

    with pytest.raises(SchemaError):
        async with running(Runner(database, each(tasker), settings(), tracer_provider=spans.provider)) as run:
            await until(lambda: len(database.failures) == 2)
            database.fail("get_work", SchemaError("x"))
            await asyncio.wait({run})
            run.result()
    failed = [
        (span.name.split()[0], dict(span.attributes or {})["error.type"])
        for span in spans.all()
        if span.status.status_code is StatusCode.ERROR
    ]
    assert ("start", "DatabaseError") in failed
    assert ("process", "LookupError") in failed
    assert ("receive", "SchemaError") in failed
    events = [(event.name, dict(event.attributes or {})) for span in spans.all() for event in span.events]
    assert events == [("session_lock.drain", {"session_lock.reason": "the database needs a person"})]


@virtual
async def test_a_cancelled_call_of_ours_is_no_error_and_an_abandoned_one_is(spans: Spans) -> None:
    for stubborn in (False, True):
        database, tasker = table(1), Sleeper(1000, stubborn=stubborn)
        async with running(
            Runner(
                database, tasker, settings(drain_timeout=1, cancel_grace=1), tracer_provider=spans.provider
            )
        ):
            await until(lambda: tasker.begun)  # noqa: B023
        tasker.thaw.set()
    assert [span.status.status_code for span in spans.of("process")] == [StatusCode.UNSET, StatusCode.ERROR]


@virtual
async def test_a_finish_that_a_row_refuses_is_an_error_also_along_with_a_look(spans: Spans) -> None:
    """Some of many, of a session that is alone."""
    inner = MemoryDatabase(rows(400), refuse=lambda key, _: "no" if key % 100 == 7 else None)
    database = Faulty(inner)
    config = settings(batch_size=5, concurrency=2, prefetch=0, retry=Retry(delay=1000))
    async with running(Runner(database, Sleeper(0.01), config, tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 396)
    failed = [span for span in spans.all() if span.status.status_code is StatusCode.ERROR]
    assert {(span.name.split()[0], span.attributes["error.type"]) for span in failed} == {
        ("finish", "RowRefusedError")
    }
    assert sum(session_lock_attributes(span)["refused"] for span in failed) == 4
    good = [session_lock_attributes(span) for span in spans.of("finish") if span not in failed]
    assert {(told["refused"], told["lost"]) for told in good} == {(0, 0)}
    assert database.count("finish_tasks") < len(good) / 2  # most were along with a look


@virtual
@pytest.mark.parametrize("idle_spans", [True, False])
async def test_a_keepalive_that_the_stop_cancels_is_no_error(spans: Spans, idle_spans: bool) -> None:
    """The stop sends one, so as to say that the session drains."""
    database = table(0)
    database.delay("bump_session", 0.5)
    runner = Runner(database, do_all, settings(), idle_spans=idle_spans, tracer_provider=spans.provider)
    took: list[str] = []
    runner._telemetry.took = lambda *told: took.append(told[1])
    async with running(runner):
        await asyncio.sleep(1)
    assert database.count("bump_session") == 1
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}
    assert not any("error.type" in span.attributes for span in spans.all())
    assert len(spans.of("keepalive")) == idle_spans
    assert took.count("keepalive") == 0  # how long it takes is not known
    assert took.count("end") == 1


@virtual
async def test_what_the_end_cuts_off_of_the_records_is_an_error(spans: Spans) -> None:
    """It is not known whether they were made."""
    database = table(1)
    database.hang("finish_tasks")
    config = settings(shutdown_timeout=1, call_timeout=100, lease_ttl=1000)
    async with running(Runner(database, do_all, config, tracer_provider=spans.provider)):
        await until(lambda: database.count("finish_tasks"))
    (finish,) = spans.of("finish")
    assert (finish.status.status_code, finish.attributes["error.type"]) == (
        StatusCode.ERROR,
        "CancelledError",
    )


@virtual
async def test_a_start_that_takes_too_long_has_failed_by_its_time(spans: Spans) -> None:
    database = table(0)
    database.hang("start_session", times=1)
    async with running(Runner(database, do_all, settings(), tracer_provider=spans.provider)):
        await until(lambda: len(spans.of("start")) == 2)
    late, started = spans.of("start")
    assert (late.status.status_code, late.attributes["error.type"]) == (StatusCode.ERROR, "TimeoutError")
    assert started.status.status_code is StatusCode.UNSET


@virtual
async def test_the_only_task_of_a_call_is_in_the_trace_of_who_put_it_in_and_so_is_its_finish(
    spans: Spans,
) -> None:
    database = Faulty(MemoryDatabase({1: {"traceparent": PARENT}}))
    with spans.provider.get_tracer("app").start_as_current_span("start of the service"):
        async with running(Runner(database, each(nothing), settings(), tracer_provider=spans.provider)):
            await until(lambda: database.finished)
    (process,), (finish,) = spans.of("process"), spans.of("finish")
    assert trace.format_trace_id(process.context.trace_id) == PARENT[3:35]
    assert trace.format_span_id(process.parent.span_id) == PARENT[36:52]
    assert (finish.context.trace_id, finish.parent.span_id) == (
        process.context.trace_id,
        process.context.span_id,
    )
    assert "messaging.batch.message_count" not in process.attributes
    # What was current when the Runner was started goes on for as long as the service.
    assert {span.parent for span in spans.all() if span.name.split()[0] in ("start", "receive", "end")} == {
        None
    }


@virtual
@pytest.mark.parametrize("batch_size", [1, 3])
async def test_a_finish_in_the_taskers_transaction_is_a_child_of_its_call(
    spans: Spans, batch_size: int
) -> None:
    """And no parent of what is done in that transaction."""
    database = Faulty(MemoryDatabase({key: {"traceparent": PARENT} for key in (1, 2, 3)}))
    tracer = spans.provider.get_tracer("app")

    async def tasker(batch: Any) -> Any:
        async with batch.transaction():
            with tracer.start_as_current_span("mine"):
                await asyncio.sleep(1)
        return batch

    config = settings(batch_size=batch_size)
    async with running(Runner(database, tasker, config, tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 3)
    processes = {span.context.span_id: span.context.trace_id for span in spans.of("process")}
    finishes = spans.of("finish")
    assert len(processes) == len(finishes) == 3 // batch_size
    assert min(span.end_time for span in finishes) <= min(span.start_time for span in spans.of("mine"))
    for span in (*finishes, *spans.of("mine")):
        assert processes[span.parent.span_id] == span.context.trace_id
    for span in finishes:
        assert span.kind is SpanKind.CLIENT
        assert span.attributes["messaging.operation.type"] == "settle"
        assert span.attributes["messaging.batch.message_count"] == batch_size
        assert session_lock_attributes(span)["session_id"] == 1
        assert span.status.status_code is StatusCode.UNSET


@virtual
@pytest.mark.parametrize(
    ("error", "told"),
    [(TaskLost(CANARY), (StatusCode.ERROR, "TaskLost", "SL002")), (None, (StatusCode.UNSET, None, None))],
)
async def test_a_finish_in_a_transaction_that_is_refused_is_an_error_and_one_that_is_cancelled_is_none(
    spans: Spans, error: Any, told: Any
) -> None:
    database = table(1)
    if error is None:
        database.hang("transaction")
    else:
        error.sqlstate = "SL002"
        database.fail("transaction", error, times=1)

    async def tasker(task: Any) -> None:
        async with task.transaction():
            pass

    config = settings(drain_timeout=1, cancel_grace=1, retry=Retry(delay=100))
    runner = Runner(database, each(tasker), config, tracer_provider=spans.provider)
    took: list[str] = []
    runner._telemetry.took = lambda *told: took.append(told[1])
    async with running(runner):
        await until(lambda: database.count("transaction"))
    (finish,) = spans.of("finish")
    told_of = (finish.attributes.get("error.type"), finish.attributes.get("db.response.status_code"))
    assert (finish.status.status_code, *told_of) == told
    assert took.count("finish") == (error is not None)


@virtual
async def test_a_batch_is_linked_to_who_put_its_tasks_in_and_ill_words_lead_nowhere(spans: Spans) -> None:
    others = [
        None,
        "",
        "nonsense",
        7,
        PARENT[:-3],
        PARENT.replace("a", "g"),
        "00-" + "0" * 32 + PARENT[35:],
        PARENT * 1000,
    ]
    told = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 200)]
    database = Faulty(MemoryDatabase(enumerate({"traceparent": each} for each in [*others, *told, told[0]])))
    batch = settings(batch_size=300)
    async with running(Runner(database, do_all, batch, tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == len(others) + len(told) + 1)
    (process,) = spans.of("process")
    assert process.parent is None
    assert [link.context.span_id for link in process.links] == [*range(1, MOST_LINKS + 1)]
    database.add(1000, {"traceparent": PARENT})
    database.add(1001, None)
    spans.exporter.clear()
    async with running(Runner(database, do_all, batch, tracer_provider=spans.provider)):
        await until(lambda: spans.of("finish"))
    (process,) = spans.of("process")
    assert (process.parent, len(process.links)) == (None, 1)
    (finish,) = spans.of("finish")
    assert (finish.parent.span_id, finish.links) == (process.context.span_id, ())


@virtual
async def test_what_several_calls_have_done_is_linked_to_them(spans: Spans) -> None:
    database = table(4)
    runner = Runner(database, each(nothing), settings(), tracer_provider=spans.provider)
    async with running(runner):
        await until(lambda: len(database.finished) == 4)
    assert runner._telemetry._spans._done_by == {}  # nothing is kept of what is recorded
    (finish,), processes = spans.of("finish"), spans.of("process")
    assert finish.parent is None
    assert {link.context.span_id for link in finish.links} == {span.context.span_id for span in processes}
    assert len(processes) == 4


@virtual
async def test_what_nobody_has_sampled_is_no_span_and_is_not_linked(spans: Spans) -> None:
    database = Faulty(MemoryDatabase({number: {"traceparent": f"{PARENT[:-1]}0"} for number in range(4)}))
    async with running(Runner(database, each(nothing), settings(), tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 4)
    assert not spans.of("process")
    assert [span.links for span in spans.of("finish")] == [()]
    database.add(7, {"traceparent": f"{PARENT[:-1]}0"})
    spans.exporter.clear()
    async with running(Runner(database, each(nothing), settings(), tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 5)
    assert not spans.of("finish")  # it would be in that trace


@virtual
async def test_a_lost_lease_is_told_on_what_runs_and_at_the_end(spans: Spans) -> None:
    database, tasker = table(1), Sleeper(1000)
    async with running(Runner(database, tasker, settings(), tracer_provider=spans.provider)):
        await until(lambda: tasker.begun)
        database.fail("bump_session", SessionLost("gone"), times=1)
        await until(lambda: len(tasker.begun) == 2)
    for phase in ("process", "end"):
        events = [(event.name, dict(event.attributes)) for event in spans.of(phase)[0].events]
        assert events == [("session_lock.lease.lost", {"session_lock.reason": "the session is lost"})]
    assert [event.name for event in spans.of("end")[-1].events] == ["session_lock.drain"]


@virtual
async def test_what_is_handed_over_is_told_on_the_release(spans: Spans) -> None:
    database, tasker = table(3), Sleeper(1)
    async with running(
        Runner(database, tasker, settings(concurrency=1, batch_size=1), tracer_provider=spans.provider)
    ):
        await until(lambda: len(tasker.begun) == 1)
    (release,) = spans.of("release")
    assert [(event.name, dict(event.attributes)) for event in release.events] == [
        (
            "session_lock.hand_over",
            {"session_lock.tasks": release.attributes["messaging.batch.message_count"]},
        )
    ]


class Bursting(SimpleSpanProcessor):
    def on_start(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(CANARY)

    def on_end(self, *_: Any) -> None:
        raise RuntimeError(CANARY)


@virtual
async def test_telemetry_that_fails_is_said_and_does_not_touch_the_work(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    database = table(20)
    spans.provider.add_span_processor(Bursting(spans.exporter))
    async with running(Runner(database, each(nothing), settings(), tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 20)
    assert [session.ended for session in database.sessions] == [True]
    told = [record for record in caplog.records if record.getMessage() == "telemetry fails: RuntimeError"]
    assert 1 <= sum(record.levelname == "WARNING" for record in told) <= 8 < len(told)


class Missing:
    """A provider that does not provide."""

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(CANARY)

    get_meter = get_tracer


@virtual
async def test_providers_that_fail_are_said_and_do_without(caplog: pytest.LogCaptureFixture) -> None:
    database = table(3)
    runner = Runner(database, each(nothing), settings(), tracer_provider=Missing(), meter_provider=Missing())
    async with running(runner):
        await until(lambda: len(database.finished) == 3)
    told = [record.getMessage() for record in caplog.records if record.name == "session_lock.telemetry"]
    assert told == ["telemetry fails: RuntimeError"] * 2


@virtual
async def test_the_name_is_the_mappings_unless_given(spans: Spans) -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(), tracer_provider=spans.provider)):
        await asyncio.sleep(1)
    assert spans.of("start")[0].name == "start tasks"


class Away(SpanExporter):
    """Of a collector that is down."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE


@virtual
async def test_nothing_is_kept_for_a_collector_that_is_down() -> None:
    """Neither of tasks that are done, nor of those that have failed, were refused or given back."""
    spans, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])  # whom nobody asks
    spans.add_span_processor(SimpleSpanProcessor(Away()))
    rows = {key: {"traceparent": PARENT} for key in range(1, 301)}
    database = Faulty(MemoryDatabase(rows, refuse=lambda key, _: "no" if key == 299 else None))
    called = []

    async def tasker(task: Any) -> Any:
        called.append(task.key)
        match task.key % 4:
            case 0:
                raise LookupError
            case 1:
                return Release(after=10_000)
            case 2:
                async with task.transaction():
                    await asyncio.sleep(0.1)
        return None

    config = settings(breaker_failures=1000, retry=Retry(delay=10_000, longest=10_000, jitter=0))
    runner = Runner(database, each(tasker), config, tracer_provider=spans, meter_provider=meters)
    async with running(runner):
        await until(lambda: len(called) == 300)
        await asyncio.sleep(5)
        told = runner._telemetry
        assert (told._spans._done_by, told._spans._calls, told._spans._events) == ({}, set(), [])
        assert len(told._calls._took) < AT_ONCE
        of_all = {metric.name: len(totals) for metric, totals in told._meter._totals.items()}
        assert of_all["session_lock.tasks.settled"] == len(OUTCOMES)
        assert sum(of_all.values()) < 20
    assert sorted(called) == sorted(rows)
    assert told._meter._seen == ()
    spans.shutdown()
    meters.shutdown()


async def by_hand() -> None:
    """A connect of the user's."""


@pytest.mark.parametrize(
    ("connect", "place"),
    [
        ("postgresql://ann:secret@db.example.com:6432/shop?sslmode=require", ("db.example.com", 6432)),
        ("postgresql://[::1]/shop", ("::1", 5432)),
        ("postgresql://one:5432,two:5433/shop", None),
        ("postgresql://one,two/shop", None),
        ("postgresql://ann@/shop?host=/var/run/postgresql", None),
        ("postgresql://db.example.com/shop?port=6432", None),
        ("postgresql:///shop", None),
        ("postgresql://%2Fvar%2Frun/shop", None),
        ("postgresql://ann:se/cret@db.example.com:5432/shop", None),
        (by_hand, None),
    ],
)
def test_where_the_server_is_said_to_be(
    connect: Any, place: tuple[str, int] | None, monkeypatch: Any
) -> None:
    monkeypatch.delenv("PGPORT", raising=False)
    assert place_of(connect) == place
    if place == ("::1", 5432):
        monkeypatch.setenv("PGPORT", "7000")
        assert place_of(connect) == ("::1", 7000)
