"""What is measured, handed to OpenTelemetry: one set of instruments for each provider, whoever measures."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol, TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation

from session_lock.telemetry.spans import state_of, type_of
from session_lock.telemetry.words import (
    DB_STATUS,
    ERROR_TYPE,
    METRICS,
    OTHER_ERROR,
    SCHEMA_URL,
    SECONDS,
    Metric,
)
from session_lock.versions import LIBRARY_VERSION

Attributes: TypeAlias = Mapping[str, str | int]
Figures: TypeAlias = Mapping[Metric, float]


MOST_TYPES = 100
"""Types of errors that are told apart, and SQLSTATEs. Classes can be made while a program runs, and their names of anything; a trigger
may raise any SQLSTATE.
"""


class Seen(Protocol):
    """A session that can be looked at, in whatever thread somebody collects."""

    @property
    def common(self) -> Attributes: ...
    @property
    def figures(self) -> Callable[[], Figures] | None: ...


class Meter:
    """The instruments of one provider. Those that are looked at are registered once for all sessions: no callback can be taken back."""

    def __init__(self, provider: MeterProvider) -> None:
        self._seen: tuple[Seen, ...] = ()  # a new one at each change: somebody may be collecting
        self._lock = threading.Lock()
        self._totals: dict[Metric, dict[frozenset[tuple[str, str | int]], int]] = {}
        self._histograms: dict[Metric, Histogram] = {}
        self._types: set[str] = set()
        self._states: set[str] = set()
        meter = provider.get_meter("session_lock", LIBRARY_VERSION, SCHEMA_URL)
        for metric in METRICS:
            name, unit, text = metric.name, metric.unit, metric.description
            match metric.kind:
                case "counter":
                    self._totals[metric] = defaultdict(int)
                    meter.create_observable_counter(name, [partial(self._count_of, metric)], unit, text)
                case "histogram":
                    self._histograms[metric] = meter.create_histogram(
                        name, unit, text, explicit_bucket_boundaries_advisory=SECONDS
                    )
                case "sum":
                    meter.create_observable_up_down_counter(name, [partial(self._look, metric)], unit, text)
                case "gauge":
                    meter.create_observable_gauge(name, [partial(self._look, metric)], unit, text)

    def record(self, metric: Metric, value: float, attributes: Attributes) -> None:
        self._histograms[metric].record(value, attributes)

    def type_of(self, error: BaseException) -> str:
        """As an attribute."""
        return self._one_of(self._types, type_of(error))

    def error_of(self, error: BaseException) -> dict[str, str]:
        """What a call of the database has failed with, as attributes."""
        told = {ERROR_TYPE: self.type_of(error)}
        if (state := state_of(error)) is not None:
            told[DB_STATUS] = self._one_of(self._states, state)
        return told

    def _one_of(self, known: set[str], name: str) -> str:
        """Those that come when there are many already are all of one."""
        with self._lock:
            if len(known) < MOST_TYPES:
                known.add(name)
            return name if name in known else OTHER_ERROR

    def count(self, metric: Metric, value: int, attributes: Attributes) -> None:
        """Here, since an SDK takes a hundred times as long for it; it looks at the totals when it collects."""
        with self._lock:
            self._totals[metric][frozenset(attributes.items())] += value

    def _count_of(self, metric: Metric, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            totals = [*self._totals[metric].items()]
        return [Observation(total, dict(attributes)) for attributes, total in totals]

    def join(self, one: Seen) -> None:
        with self._lock:
            self._seen = (*self._seen, one)

    def leave(self, one: Seen) -> None:
        with self._lock:
            self._seen = tuple(other for other in self._seen if other is not one)

    def _look(self, metric: Metric, _: CallbackOptions) -> Iterable[Observation]:
        """Sessions of one name in a process are told together: attributes do not tell them apart."""
        found: dict[frozenset[tuple[str, str | int]], list[float]] = defaultdict(list)
        for one in self._seen:
            figures: Mapping[Metric, float] = one.figures() if one.figures is not None else {}
            if metric in figures:
                found[frozenset(one.common.items())].append(figures[metric])
        return [Observation(metric.merge(values), dict(attributes)) for attributes, values in found.items()]


_meters: WeakKeyDictionary[MeterProvider, Meter] = WeakKeyDictionary()
_lock = threading.Lock()


def meter_of(provider: MeterProvider) -> Meter:
    """The one of this provider."""
    with _lock:
        if (meter := _meters.get(provider)) is None:
            meter = _meters[provider] = Meter(provider)
        return meter
