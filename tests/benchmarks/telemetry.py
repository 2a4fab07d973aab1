"""A real SDK of OpenTelemetry, that exports in batches: all is encoded as it would be sent by OTLP, and thrown away."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind

try:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
except ImportError:
    sys.exit("the encoder of OTLP is not installed, and `nox -s bench` does that")


def record(share: float) -> None:
    """From here on all of it, as an application would have it done; of the traces such a share."""
    trace.set_tracer_provider(_traced(share))
    metrics.set_meter_provider(_measured())


def least(share: float) -> Callable[[], None]:
    """What the SDK alone takes for a task, whoever asks it: one span and one duration, of the attributes that ours have."""
    tracer = _traced(share).get_tracer("floor")
    duration = _measured().get_meter("floor").create_histogram("duration", "s")
    told = {
        "messaging.system": "session_lock",
        "messaging.destination.name": "email",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }
    of_span = {**told, "session_lock.session_id": 1}
    parent = Context()

    def of_a_task() -> None:
        tracer.start_span("process email", parent, SpanKind.CONSUMER, of_span).end()
        duration.record(0.0, told)

    return of_a_task


def _traced(share: float) -> TracerProvider:
    spans = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
    spans.add_span_processor(BatchSpanProcessor(_Thrown()))
    return spans


def _measured() -> MeterProvider:
    nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(nowhere), export_interval_millis=500)
    return MeterProvider([reader])


class _Thrown(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS
