"""The spans of one session, and how they hang together: with whoever has put a task in, and with the call that has done it."""

from __future__ import annotations

import logging
import re
import time
from asyncio import CancelledError
from collections.abc import Iterable, Mapping, Sequence
from contextvars import Token
from typing import Any, Protocol, Self, TypeAlias

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from session_lock.errors import SessionLockError
from session_lock.tasks import Task
from session_lock.telemetry import words
from session_lock.wording import level_of

Values: TypeAlias = Mapping[str, str | float]

MOST_LINKS = 128
"""Of a span: an SDK keeps no more, unless it is told to."""

NOBODY = Context()
"""What was current when the Runner started is no parent of its spans."""

logger: logging.Logger = logging.getLogger("session_lock.telemetry")

TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""W3C trace context. Read here, since the propagator takes ten times as long, and there may be one for each task."""


class Phase:
    """What a phase says of itself. This one says it to nobody."""

    __slots__ = ("asks", "error", "idle")

    def __init__(self) -> None:
        self.idle: bool = False
        """Nothing came of it: an empty poll, a keepalive."""
        self.error: BaseException | None = None
        """An error that ended the phase without being raised out of it."""
        self.asks: bool = True
        """Whether the database is asked at all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace_: object) -> None: ...

    def set(self, **attributes: str | float) -> None:
        """Words of our own."""

    def count(self, tasks: int) -> None:
        """How many tasks it is about, where that may be several."""

    def event(self, name: str, at: int | None = None, **attributes: str | float) -> None:
        """At this moment, or at another one (nanoseconds)."""


class Timer(Protocol):
    """Is told how long a phase took."""

    def took(self, phase: Phase, name: str, seconds: float, attributes: Mapping[str, str | int]) -> None: ...


class Spans:
    """What is known of a session's spans from one to the next."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self.tracer = tracer
        self._calls: set[Span] = set()  # of the tasker, under way
        self._done_by: dict[Task[Any], SpanContext] = {}  # the call of each task, until that is recorded
        self._events: list[tuple[str, int, Values]] = []

    def event(self, name: str, attributes: Values) -> None:
        """Told on the calls under way, and at the session's end."""
        at = time.time_ns()
        self._events.append((name, at, attributes))
        for span in self._calls:
            span.add_event(name, _ours(attributes), at)

    def tell_events(self, phase: Phase) -> None:
        for name, at, attributes in self._events:
            phase.event(name, at, **attributes)

    def begun(self, tasks: Iterable[Task[Any]], span: Span, *, recorded: bool) -> None:
        """A call of the tasker for these."""
        if recorded:
            self._calls.add(span)
        call = span.get_span_context()
        for task in tasks:
            self._done_by[task] = call

    def ended(self, span: Span) -> None:
        self._calls.discard(span)

    def calls_of(self, tasks: Iterable[Task[Any]]) -> list[SpanContext]:
        """Each once."""
        calls = [self._done_by[task] for task in tasks if task in self._done_by]
        return [*{call.span_id: call for call in calls}.values()]

    def forget(self, tasks: Iterable[Task[Any]]) -> None:
        """They are recorded."""
        for task in tasks:
            self._done_by.pop(task, None)


class ToldPhase(Phase):
    """All but the calls of the tasker."""

    __slots__ = (
        "_attributes", "_began", "_deferred", "_events", "_links", "_name", "_own", "_parent", "_span", "_spans", "_started", "_timer",
        "_title", "_token",
    )  # fmt: skip
    error: BaseException | None

    def __init__(
        self,
        name: str,
        title: str,
        *,
        attributes: Mapping[str, str | int],
        spans: Spans | None,
        timer: Timer,
        deferred: bool,
    ) -> None:
        super().__init__()
        self._name, self._title, self._attributes = name, title, attributes
        self._spans, self._timer, self._deferred = spans, timer, deferred
        self._own: dict[str, str | float] = {}
        self._events: list[tuple[str, int | None, Values]] = []
        self._links: list[SpanContext] = []
        self._parent = NOBODY
        self._span: Span | None = None
        self._token: Token[Context] | None = None

    def set(self, **attributes: str | float) -> None:
        self._own.update(_ours(attributes))

    def count(self, tasks: int) -> None:
        self._own[words.MESSAGING_BATCH] = tasks

    def event(self, name: str, at: int | None = None, **attributes: str | float) -> None:
        self._events.append((name, at or time.time_ns(), _ours(attributes)))

    def settles(self, tasks: Sequence[Task[Any]]) -> None:
        """It records these. The call that has done them is its parent, if it was one."""
        calls = self._spans.calls_of(tasks) if self._spans is not None else []
        if len(calls) == 1:
            self._parent = as_parent(calls[0])
        else:
            self._links = [call for call in calls[:MOST_LINKS] if is_sampled(call)]

    def __enter__(self) -> Self:
        self._began, self._started = time.perf_counter(), time.time_ns()
        if self._spans is not None and not self._deferred:
            with untold():
                self._span = self._start(self._spans)
                self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace_: object) -> None:
        if self._token is not None:
            context.detach(self._token)
        cut_off = isinstance(error, CancelledError)  # by our own end: nothing has failed, and it was not done
        if error is not None and not cut_off:
            self.error = error
        if self.error is not None or not cut_off:
            with untold():
                self._timer.took(self, self._name, time.perf_counter() - self._began, self._attributes)
        if self._spans is not None and not (self._deferred and self.error is None and (self.idle or cut_off)):
            with untold():
                self._end(self._span or self._start(self._spans))

    def _end(self, span: Span) -> None:
        if span.is_recording():
            for name, at, attributes in self._events:
                span.add_event(name, attributes, at)
            if self._own:
                span.set_attributes(self._own)
            tell_error(span, self.error)
            if (state := state_of(self.error)) is not None:
                span.set_attribute(words.DB_STATUS, state)
        span.end()

    def _start(self, spans: Spans) -> Span:
        links = [Link(other) for other in self._links]
        attributes, self._own = {**self._attributes, **self._own}, {}
        return spans.tracer.start_span(
            self._title, self._parent, SpanKind.CLIENT, attributes, links, self._started
        )


class untold:  # noqa: N801 (it reads as a word)
    """What goes wrong with telling what happens is no fault of what happens. A class and no generator: it is around each call of the
    tasker.
    """

    _count = 0

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace_: object) -> bool:
        if not isinstance(error, Exception):
            return False
        untold._count += 1
        logger.log(level_of(untold._count), "telemetry fails: %s", type(error).__name__)
        return True


def _ours(attributes: Values) -> dict[str, str | float]:
    return {f"{words.OURS}{name}": value for name, value in attributes.items()}


def type_of(error: BaseException) -> str:
    """The type alone: a message may hold what the row held."""
    return type(error).__qualname__[:100]


def state_of(error: BaseException | None) -> str | None:
    """The SQLSTATE, where the database has answered with one."""
    return error.sqlstate if isinstance(error, SessionLockError) else None


def tell_error(span: Span, error: BaseException | None) -> None:
    """What the phase has failed with."""
    if error is not None:
        span.set_attribute(words.ERROR_TYPE, type_of(error))
        span.set_status(Status(StatusCode.ERROR))


def as_parent(other: SpanContext) -> Context:
    """For a span that is to be its child."""
    return trace.set_span_in_context(trace.NonRecordingSpan(other), NOBODY)


def is_sampled(other: SpanContext) -> bool:
    """A link to one that is not leads nowhere."""
    return other.trace_flags.sampled


def current_traceparent() -> str | None:
    """W3C trace context of the span that is current; None if none is."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def producers_of(tasks: Iterable[Task[Any]], most: int) -> list[SpanContext]:
    """Who has put them in, each once, as far as the rows have W3C trace context to say so."""
    found: dict[str, SpanContext] = {}
    for task in tasks:
        told = task.traceparent
        if isinstance(told, str) and told not in found and (match := TRACEPARENT.fullmatch(told)):
            trace_id, span_id, flags = (int(part, 16) for part in match.groups())
            producer = SpanContext(trace_id, span_id, True, TraceFlags(flags))
            if producer.is_valid:
                found[told] = producer
                if len(found) == most:
                    break
    return [*found.values()]
