"""Spans around the phases of a session. The only module that imports OpenTelemetry."""

from __future__ import annotations

import time
from contextvars import Token
from dataclasses import dataclass, field

from opentelemetry import context, trace
from opentelemetry.context import Context
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

    def phase(self, phase: str, *, may_be_idle: bool = False, **attributes: str | float) -> _PhaseSpan:
        """A span around the block, its parent while it runs; under `idle_spans=False` an idle one leaves no span."""
        told = Phase()
        told.set(**attributes)
        return _PhaseSpan(
            self._tracer, f"{phase} {self.name}", PHASES[phase], told, may_be_idle and not self._idle_spans
        )


class _PhaseSpan:
    """A class and no generator, since there is one around each call of the tasker."""

    __slots__ = ("_deferred", "_kind", "_name", "_phase", "_span", "_started", "_token", "_tracer")

    def __init__(self, tracer: trace.Tracer, name: str, kind: SpanKind, phase: Phase, deferred: bool) -> None:
        self._tracer, self._name, self._kind, self._phase, self._deferred = (
            tracer,
            name,
            kind,
            phase,
            deferred,
        )
        self._span: trace.Span | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> Phase:
        self._started = time.time_ns()
        if not self._deferred:
            self._span = self._start()
            if self._span is not trace.INVALID_SPAN:  # there is nobody who wants to know
                self._token = context.attach(trace.set_span_in_context(self._span))
        return self._phase

    def __exit__(self, kind: object, error: BaseException | None, trace_: object) -> None:
        told = self._phase
        if self._token is not None:
            context.detach(self._token)
        if error is not None:
            told.error = error
        if self._span is None and (told.error is not None or not told.idle):
            self._span = self._start()
        if self._span is None or self._span is trace.INVALID_SPAN:
            return
        self._span.set_attributes(told.attributes)
        if told.error is not None:
            # The type alone: a message may hold what the row held.
            self._span.set_attribute("error.type", type(told.error).__qualname__)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _start(self) -> trace.Span:
        return self._tracer.start_span(self._name, kind=self._kind, start_time=self._started)


def current_traceparent() -> str | None:
    """W3C trace context of the span that is current; None if none is."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
