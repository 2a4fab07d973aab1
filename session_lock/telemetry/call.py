"""A call of the tasker: its span, and how long it took. Apart from the other phases, since under `each` there is one for every
task: what all calls of a session have in common is made once, and nothing is kept or told that nobody records.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextvars import Token
from typing import Any, Self

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind

from session_lock.tasks import Task
from session_lock.telemetry import words
from session_lock.telemetry.meters import Attributes, Meter
from session_lock.telemetry.spans import (
    MOST_LINKS,
    NOBODY,
    Phase,
    Spans,
    Values,
    as_parent,
    is_sampled,
    producers_of,
    tell_error,
    untold,
)

AT_ONCE = 100
"""Durations that wait to be told; one after the other they take a third of what each takes amid the work."""


class Calls:
    """What the calls of one session have in common."""

    __slots__ = ("_attributes", "_meter", "_took", "of_span", "session_id", "spans", "title")

    def __init__(
        self, name: str, session_id: int, attributes: Attributes, spans: Spans | None, meter: Meter | None
    ) -> None:
        self.title: str = f"process {name}"
        self.session_id: int = session_id
        self.of_span: Values = {**attributes, words.SESSION_ID: session_id}
        self.spans: Spans | None = spans
        self._attributes = attributes
        self._meter = meter
        self._took: deque[tuple[float, str | None]] = deque()

    def took(self, seconds: float, error: BaseException | None) -> None:
        """One has ended. Told together with others, by the next phase of the session if not before."""
        if self._meter is not None:
            self._took.append((seconds, None if error is None else self._meter.type_of(error)))
            if len(self._took) >= AT_ONCE:
                self.tell()

    def tell(self) -> None:
        """How long those took that have ended since. Others may tell at the same time, in a thread."""
        while self._meter is not None and self._took:
            try:
                seconds, error = self._took.popleft()
            except IndexError:
                return
            attributes = self._attributes
            if error is not None:
                attributes = {**attributes, words.ERROR_TYPE: error}
            with untold():
                self._meter.record(words.PROCESS_DURATION, seconds, attributes)


class Call(Phase):
    """One of them."""

    __slots__ = ("_began", "_calls", "_counted", "_span", "_tasks", "_token")
    error: BaseException | None

    def __init__(self, calls: Calls, tasks: Sequence[Task[Any]], *, counted: bool) -> None:
        super().__init__()
        self._calls, self._tasks, self._counted = calls, tasks, counted
        self._span: Span | None = None  # if it is recorded
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        if (spans := self._calls.spans) is not None:
            with untold():
                span = self._start(spans)
                if span.is_recording():
                    self._span = span
                spans.begun(self._tasks, span, recorded=self._span is not None)
                # Also of one that is not recorded, which says so to the spans of the tasker.
                self._token = context.attach(trace.set_span_in_context(span))
        return self

    def _start(self, spans: Spans) -> Span:
        """Whoever has put its only task in is its parent."""
        tasks, attributes = self._tasks, self._calls.of_span
        parent, links = NOBODY, None
        if len(tasks) > 1 or tasks[0].traceparent is not None:
            producers = producers_of(tasks, MOST_LINKS)
            if len(tasks) > 1:
                links = [Link(each) for each in producers if is_sampled(each)]
            elif producers:
                parent = as_parent(producers[0])
        if self._counted:
            attributes = {**attributes, words.MESSAGING_BATCH: len(tasks)}
        return spans.tracer.start_span(self._calls.title, parent, SpanKind.CONSUMER, attributes, links)

    def __exit__(self, kind: object, error: BaseException | None, trace_: object) -> None:
        if self._token is not None:
            context.detach(self._token)
        if error is not None:
            self.error = error
        self._calls.took(time.perf_counter() - self._began, self.error)
        if self._span is not None and (spans := self._calls.spans) is not None:
            spans.ended(self._span)
            with untold():
                tell_error(self._span, self.error)
                self._span.end()
