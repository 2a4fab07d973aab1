"""The spans of the phases, and what is not in them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from session_lock import DatabaseError, Runner, SchemaError, each
from tests.unit.faults import NONCES
from tests.unit.scenes import CANARY, Sleeper, do_all, running, settings, table
from tests.unit.virtual import until, virtual


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
        f"{phase} email" for phase in ("start", "keepalive", "fetch", "execute", "finish", "release", "end")
    }
    assert all(session_lock_attributes(span)["session_id"] == 1 for span in spans.all())
    (execute,) = spans.of("execute")
    assert (execute.kind, session_lock_attributes(execute)["tasks"]) == (SpanKind.CONSUMER, 5)
    assert session_lock_attributes(spans.of("fetch")[0])["tasks"] == 5
    assert session_lock_attributes(spans.of("finish")[0])["tasks"] == 4
    assert session_lock_attributes(spans.of("release")[0])["tasks"] == 1
    assert session_lock_attributes(spans.of("end")[0])["held"] == 0
    assert spans.of("start")[0].kind is SpanKind.CLIENT
    assert all(span.status.status_code is not StatusCode.ERROR for span in spans.all())


@virtual
async def test_the_taskers_own_spans_are_children_of_execute_and_those_of_no_other_phase(
    spans: Spans,
) -> None:
    database = table(3)
    tracer = spans.provider.get_tracer("app")

    async def tasker(task: Any) -> None:
        with tracer.start_as_current_span(f"mine {task.key}"):
            await asyncio.sleep(0.1)

    async with running(Runner(database, each(tasker), settings(), tracer_provider=spans.provider)):
        await until(lambda: len(database.finished) == 3)
    executes = {span.context.span_id for span in spans.of("execute")}
    mine = spans.of("mine")
    assert {span.parent.span_id for span in mine if span.parent} == executes
    assert len(executes) == len(mine) == 3
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
    assert [span.name.split()[0] for span in spans.all()][:4] == ["start", "fetch", "execute", "finish"]
    assert len(spans.of("fetch")) == 2
    assert len(spans.of("keepalive")) == 1
    assert [span.status.status_code for span in spans.of("fetch")] == [StatusCode.UNSET, StatusCode.ERROR]
    assert spans.of("keepalive")[0].status.status_code is StatusCode.ERROR
    assert len(spans.of("end")) == 1


@virtual
async def test_with_idle_spans_each_look_and_keepalive_has_one(spans: Spans) -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(), tracer_provider=spans.provider)):
        await asyncio.sleep(30)
    assert len(spans.of("fetch")) == database.count("get_work") > 20
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
    assert ("execute", "LookupError") in failed
    assert ("fetch", "SchemaError") in failed
    assert all(span.events == () for span in spans.all())


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
    assert [span.status.status_code for span in spans.of("execute")] == [StatusCode.UNSET, StatusCode.ERROR]


@virtual
async def test_the_name_is_the_mappings_unless_given(spans: Spans) -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(), tracer_provider=spans.provider)):
        await asyncio.sleep(1)
    assert spans.of("start")[0].name == "start tasks"
