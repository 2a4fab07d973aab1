"""Spans around the phases of a session. The only module that imports OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace import TracerProvider as TracerProvider  # noqa: PLC0414 (part of Runner's signature)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from session_lock.versions import LIBRARY_VERSION

PHASES = {
    "start": SpanKind.CLIENT,
    "keepalive": SpanKind.CLIENT,
    "fetch": SpanKind.CLIENT,
    "execute": SpanKind.CONSUMER,
    "finish": SpanKind.CLIENT,
    "release": SpanKind.CLIENT,
    "end": SpanKind.CLIENT,
}
"""The phases by the name of their span; the mapping's name follows it, as in `fetch email`."""


@dataclass(slots=True)
class Phase:
    """What a phase says of itself; ends up on its span."""

    attributes: dict[str, str | float] = field(default_factory=dict)
    idle: bool = False
    """Nothing came of it: an empty poll, a keepalive."""
    error: BaseException | None = None
    """An error that ended the phase without being raised out of it."""

    def set(self, **attributes: str | float) -> None:
        self.attributes.update({f"session_lock.{name}": value for name, value in attributes.items()})


class Telemetry:
    """The tracer of one Runner. Attributes are names, counts and the session's id: never keys or rows."""

    def __init__(
        self, name: str, *, tracer_provider: TracerProvider | None = None, idle_spans: bool = True
    ) -> None:
        self.name = name
        self._idle_spans = idle_spans
        self._tracer = trace.get_tracer("session_lock", LIBRARY_VERSION, tracer_provider)

    @contextmanager
    def phase(self, phase: str, *, may_be_idle: bool = False, **attributes: str | float) -> Iterator[Phase]:
        """A span around the block, its parent while it runs; under `idle_spans=False` an idle one leaves no span."""
        told = Phase()
        told.set(**attributes)
        deferred = may_be_idle and not self._idle_spans
        started = time.time_ns()
        span = (
            None
            if deferred
            else self._tracer.start_span(f"{phase} {self.name}", kind=PHASES[phase], start_time=started)
        )
        try:
            if span is None:
                yield told
            else:
                with trace.use_span(
                    span, end_on_exit=False, record_exception=False, set_status_on_exception=False
                ):
                    yield told
        except BaseException as error:
            told.error = error
            raise
        finally:
            if span is None and (told.error is not None or not told.idle):
                span = self._tracer.start_span(f"{phase} {self.name}", kind=PHASES[phase], start_time=started)
            if span is not None:
                span.set_attributes(told.attributes)
                if told.error is not None:
                    # The type alone: a message may hold what the row held.
                    span.set_attribute("error.type", type(told.error).__qualname__)
                    span.set_status(Status(StatusCode.ERROR))
                span.end()


def current_traceparent() -> str | None:
    """W3C trace context of the span that is current; None if none is."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
