"""What is measured, handed to OpenTelemetry: one set of instruments for each provider, whoever measures."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, MeterProvider, Observation

from session_lock.telemetry.words import METRICS, SECONDS, Metric
from session_lock.versions import LIBRARY_VERSION

Attributes: TypeAlias = Mapping[str, str | int]
Figures: TypeAlias = Mapping[Metric, float]


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
        self._adders: dict[Metric, Callable[[float, Any], None]] = {}
        meter = provider.get_meter("session_lock", LIBRARY_VERSION)
        for metric in METRICS:
            name, unit, text = metric.name, metric.unit, metric.description
            match metric.kind:
                case "counter":
                    counter: Counter = meter.create_counter(name, unit, text)
                    self._adders[metric] = counter.add
                case "histogram":
                    histogram: Histogram = meter.create_histogram(
                        name, unit, text, explicit_bucket_boundaries_advisory=SECONDS
                    )
                    self._adders[metric] = histogram.record
                case "sum":
                    meter.create_observable_up_down_counter(name, [partial(self._look, metric)], unit, text)
                case "gauge":
                    meter.create_observable_gauge(name, [partial(self._look, metric)], unit, text)

    def add(self, metric: Metric, value: float, attributes: Attributes) -> None:
        self._adders[metric](value, attributes)

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
            figures = one.figures() if one.figures is not None else {}
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
