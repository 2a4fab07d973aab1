"""`Settings`: the relations between its numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from session_lock import Retry, Settings, SettingsError

DURATIONS = [
    "lease_ttl", "keepalive_interval", "call_timeout", "cancel_grace", "guard", "poll_interval", "patience", "drain_timeout",
    "shutdown_timeout", "start_jitter",
]  # fmt: skip
COUNTS = ["batch_size", "concurrency", "tasks_per_session"]


def test_the_defaults_satisfy_the_relations_and_are_those_of_the_documentation() -> None:
    settings = Settings()
    assert dataclasses.asdict(settings) == {
        "lease_ttl": 30, "keepalive_interval": 5, "call_timeout": 3, "cancel_grace": 5, "guard": 1, "poll_interval": 1,
        "idle_poll_interval": 30, "patience": 1, "drain_timeout": 15, "shutdown_timeout": 5, "batch_size": 100, "concurrency": 10,
        "prefetch": None, "prefetch_time": 1, "tasks_per_session": None, "start_jitter": None, "on_stuck": "abandon", "keepalive": "loop", "loop_stall": 10,
        "task_timeout": None, "breaker_failures": 10, "retry": dataclasses.asdict(Retry()),
    }  # fmt: skip
    assert (
        settings.drain_timeout + settings.cancel_grace + settings.shutdown_timeout <= 30
    )  # Kubernetes' patience


def test_a_lease_that_two_lost_keepalives_would_end_is_refused_with_both_values() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings(lease_ttl=29, keepalive_interval=7)
    for part in ("lease_ttl=29", "keepalive_interval=7", "= 30 seconds"):
        assert part in str(raised.value)
    Settings(lease_ttl=30, keepalive_interval=7)


@pytest.mark.parametrize("name", ["call_timeout", "cancel_grace", "guard"])
def test_each_term_of_the_relation_counts(name: str) -> None:
    exact = dataclasses.replace(Settings(), lease_ttl=24)
    with pytest.raises(SettingsError, match="lease_ttl=24"):
        dataclasses.replace(exact, **{name: getattr(exact, name) + 0.01})


@pytest.mark.parametrize("on_stuck", ["exit", "kill"])
def test_who_is_to_be_ended_before_others_begin_needs_the_time_for_it(on_stuck: Any) -> None:
    with pytest.raises(SettingsError, match=f"guard=0.1 is too short for on_stuck='{on_stuck}'"):
        Settings(guard=0.1, on_stuck=on_stuck)
    Settings(guard=0.5, on_stuck=on_stuck)
    Settings(guard=0)


def test_more_calls_than_tasks_is_refused_with_both_values() -> None:
    with pytest.raises(SettingsError, match=r"tasks_per_session=3.*concurrency=4"):
        Settings(tasks_per_session=3, concurrency=4)
    Settings(tasks_per_session=4, concurrency=4)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "5", True, 1j])
def test_a_duration_is_a_positive_number(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize("name", DURATIONS)
def test_only_some_durations_may_be_zero(name: str) -> None:
    if name in {"guard", "patience", "drain_timeout", "start_jitter"}:
        Settings(**{name: 0})
    else:
        with pytest.raises(SettingsError, match=name):
            Settings(**{name: 0})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2.5, "5", True])
def test_a_count_is_a_whole_number_from_1_on(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "known"), [("on_stuck", "'abandon' or 'exit' or 'kill'"), ("keepalive", "'loop' or 'thread'")]
)
def test_a_choice_that_is_not_known_is_refused_with_those_that_are(name: str, known: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='process' is not known; it must be {known}"):
        Settings(**{name: "process"})


def test_the_capacity_is_what_runs_and_what_is_prefetched() -> None:
    settings = Settings(batch_size=7, concurrency=3)
    assert settings.capacity(7) == 3 * 7 + 7
    assert settings.capacity(1) == 3 + 4 * 3
    assert Settings(batch_size=7, concurrency=3, tasks_per_session=5).capacity(7) == 5


def test_settings_cannot_be_changed_and_have_no_positions() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().lease_ttl = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings(30)  # type: ignore[misc]
