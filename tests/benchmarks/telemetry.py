"""A real SDK of OpenTelemetry, whose exporters make text of all that is recorded, in batches, and throw it away."""

from __future__ import annotations

import os
from collections.abc import Sequence

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


def record() -> None:
    """From here on all of it, as an application would have it done."""
    spans = TracerProvider()
    spans.add_span_processor(BatchSpanProcessor(_Thrown()))
    trace.set_tracer_provider(spans)
    nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(nowhere), export_interval_millis=500)
    metrics.set_meter_provider(MeterProvider([reader]))


class _Thrown(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            span.to_json(indent=None)
        return SpanExportResult.SUCCESS
