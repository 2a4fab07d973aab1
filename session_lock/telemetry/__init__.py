"""Spans around the phases of a session, and what is measured of them. The only package that imports OpenTelemetry.

Where nothing is installed that would take them, a phase is an object that does nothing, and nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider as MeterProvider
from opentelemetry.trace import TracerProvider as TracerProvider

from session_lock.database import Identity
from session_lock.tasks import Task
from session_lock.telemetry import words
from session_lock.telemetry.call import Call, Calls
from session_lock.telemetry.meters import Attributes, Figures, Meter, meter_of
from session_lock.telemetry.spans import TRACEPARENT as TRACEPARENT
from session_lock.telemetry.spans import Phase as Phase
from session_lock.telemetry.spans import Spans, ToldPhase, untold
from session_lock.telemetry.spans import current_traceparent as current_traceparent
from session_lock.telemetry.words import OPERATIONS, Metric
from session_lock.versions import LIBRARY_VERSION


class Telemetry:
    """The tracer and the meter of one Runner. Attributes are names, counts and the session's id: never keys or rows."""

    def __init__(
        self,
        name: str,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        idle_spans: bool = True,
    ) -> None:
        self.name = name
        self.common: Attributes = {}
        self.figures: Callable[[], Figures] | None = None
        """What there is to see of the session now."""
        self._providers = tracer_provider, meter_provider
        self._idle_spans = idle_spans
        self._spans: Spans | None = None
        self._meter: Meter | None = None
        self._of_phases: dict[str, Attributes] = {}
        self._calls: Calls | None = None

    def begin(self, identity: Identity) -> None:
        """A session is about to start there. Providers are looked for now: an application may set them up late."""
        tracers, meters = self._providers
        self._spans = self._meter = None
        with untold():
            if _is_installed(tracers := tracers or trace.get_tracer_provider()):
                tracer = tracers.get_tracer("session_lock", LIBRARY_VERSION, schema_url=words.SCHEMA_URL)
                self._spans = Spans(tracer)
        with untold():
            if _is_installed(meters := meters or metrics.get_meter_provider()):
                self._meter = meter_of(meters)
        messaging: dict[str, str | int] = {
            words.MESSAGING_SYSTEM: words.SYSTEM,
            words.MESSAGING_DESTINATION: self.name,
        }
        place: dict[str, str | int] = {}
        if identity.schema:  # only PostgreSQL has one
            place = {words.DB_SYSTEM: "postgresql", words.DB_NAMESPACE: identity.database}
        if identity.server is not None:
            place[words.SERVER_ADDRESS], place[words.SERVER_PORT] = identity.server
        self.common = messaging | place
        for phase, operation in OPERATIONS.items():
            told = messaging | {words.MESSAGING_OPERATION: phase}
            if operation.type is not None:
                told[words.MESSAGING_OPERATION_TYPE] = operation.type
            if operation.verb is not None and place:
                told |= place | {words.DB_OPERATION: operation.verb}
            self._of_phases[phase] = told
        self._tell_calls()
        self._calls = None
        self._count_from_zero()

    # Spans -------------------------------------------------------------------------------------------------

    def phase(
        self,
        phase: str,
        *,
        may_be_idle: bool = False,
        settles: Sequence[Task[Any]] = (),
        verb: str | None = None,
        **attributes: str | float,
    ) -> Phase:
        """A span around the block, its parent while it runs; under `idle_spans=False` an idle one leaves no span.

        The tasks that it settles say what it hangs together with; `verb` is the call of the database, if not the usual one.
        """
        if not self.heard:
            return Phase()
        common = self._of_phases[phase]
        if verb is not None and words.DB_OPERATION in common:
            common = {**common, words.DB_OPERATION: verb}
        told = ToldPhase(
            phase,
            f"{phase} {self.name}",
            attributes=common,
            spans=self._spans,
            timer=self,
            deferred=may_be_idle and not self._idle_spans,
        )
        if self._spans is not None:
            told.set(**attributes)
            if settles:
                told.settles(settles)
        return told

    def call(self, tasks: Sequence[Task[Any]], session_id: int, *, counted: bool) -> Phase:
        """Around a call of the tasker for these; `counted`: there may be several."""
        if self._spans is None and self._meter is None:
            return Phase()
        calls = self._calls
        if calls is None or calls.session_id != session_id:
            self._tell_calls()
            calls = Calls(self.name, session_id, self._of_phases["process"], self._spans, self._meter)
            self._calls = calls
        return Call(calls, tasks, counted=counted)

    def finishing(self, tasks: Sequence[Task[Any]], session_id: int) -> Phase:
        """Around what finishes these in a transaction of the tasker's; in any thread."""
        phase = self.phase("finish", settles=tasks, verb=words.FINISH_IN, session_id=session_id)
        phase.count(len(tasks))
        return phase

    @property
    def heard(self) -> bool:
        """Whether anybody wants to know anything."""
        return self._spans is not None or self._meter is not None

    @property
    def traces(self) -> bool:
        """Whether somebody wants spans."""
        return self._spans is not None

    def event(self, name: str, **attributes: str | float) -> None:
        """Something that concerns the session, and so all calls of the tasker under way."""
        if self._spans is not None:
            with untold():
                self._spans.event(name, attributes)

    def tell_events(self, phase: Phase) -> None:
        """All of them, on the last span of the session."""
        if self._spans is not None:
            self._spans.tell_events(phase)

    def forget(self, tasks: Iterable[Task[Any]]) -> None:
        """They are recorded."""
        if self._spans is not None:
            self._spans.forget(tasks)

    # Metrics -----------------------------------------------------------------------------------------------

    @property
    def measures(self) -> bool:
        """Whether somebody wants to know."""
        return self._meter is not None

    def count(self, metric: Metric, value: int, attributes: Mapping[str, str] | None = None) -> None:
        """Count so many more."""
        if self._meter is not None:
            self._meter.count(metric, value, {**self.common, **attributes} if attributes else self.common)

    def record(self, metric: Metric, value: float) -> None:
        """How long it took, or how much there was."""
        if self._meter is not None:
            with untold():
                self._meter.record(metric, value, self.common)

    def _count_from_zero(self) -> None:
        """Of a counter that is there from its first event on, whoever collects now and then sees no increase by that."""
        self.consumed(0)
        for metric in (words.FAILED, words.RESCUED, words.LEASES_LOST):
            self.count(metric, 0)
        for outcome in words.OUTCOMES:
            self.settled(outcome, 0)

    def consumed(self, tasks: int) -> None:
        """So many were claimed."""
        self.count(words.CONSUMED, tasks, {words.MESSAGING_OPERATION: "receive"})

    def settled(self, outcome: str, tasks: int) -> None:
        """So many are done with here."""
        self.count(words.SETTLED, tasks, {words.OUTCOME: outcome})

    def failed(self, error: BaseException | None) -> None:
        """An attempt at a task has failed."""
        if self._meter is not None:
            self.count(
                words.FAILED, 1, None if error is None else {words.ERROR_TYPE: self._meter.type_of(error)}
            )

    def took(self, phase: Phase, name: str, seconds: float, attributes: Attributes) -> None:
        """A phase that is no call of the tasker."""
        if self._meter is None:
            return
        self._tell_calls()
        if phase.error is not None:
            attributes = {**attributes, **self._meter.error_of(phase.error)}
        if OPERATIONS[name].type is not None:
            self._meter.record(words.OPERATION_DURATION, seconds, attributes)
        elif phase.asks and words.DB_OPERATION in attributes:
            self._meter.record(words.DB_DURATION, seconds, attributes)

    def _tell_calls(self) -> None:
        if self._calls is not None:
            self._calls.tell()

    def observe(self, figures: Callable[[], Figures]) -> None:
        """From now on there is something to see."""
        if self._meter is not None:
            self.figures = figures
            self._meter.join(self)

    def end(self) -> None:
        """There is nothing more to see."""
        self._tell_calls()
        if self._meter is not None:
            self._meter.leave(self)
        self.figures = None


def _is_installed(provider: object) -> bool:
    """The providers of the API itself do nothing."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
