"""A real SDK of OpenTelemetry, that exports in batches: all is encoded as it would be sent by OTLP, and thrown away."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

try:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
except ImportError:
    sys.exit("the encoder of OTLP is not installed, and `nox -s bench` does that")


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
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS
