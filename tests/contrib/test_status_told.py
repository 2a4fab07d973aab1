"""What a browser is sent of a look: of many sessions some, encoded once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from session_lock.contrib.status import told as told_module
from session_lock.contrib.status.told import MOST_SESSIONS, told
from session_lock.contrib.status.watching import Look
from session_lock.overview import LiveSession, Overview


def session(number: int, state: str = "live") -> LiveSession:
    return LiveSession(
        session=number, label="", app_version="", state=state, capacity=1, target=1, held=1, running=1, idle=False, why="", beat_age=None, lease_left=None,
    )  # fmt: skip


def look_of(*sessions: LiveSession) -> Look:
    seen = Overview(
        at=datetime(2026, 11, 29, tzinfo=UTC), name="email", table="public.email", paused=False, paused_since=None, sessions=sessions,
        backlog=None, failures=None, connections=None, state=None, holders=None, left_out=(),
    )  # fmt: skip
    return Look(number=1, seen=seen)


MANY = look_of(
    *(session(number) for number in range(1, 300)),
    session(300, "expired"),
    session(301, "draining"),
    session(302),
)


def seen_of(look: Look, session: int | None = None) -> Any:
    return json.loads(told("mails", look, (), session=session))["seen"]


def test_of_many_sessions_those_that_do_not_merely_live_are_shown_first() -> None:
    seen = seen_of(MANY)
    numbers = [each["session"] for each in seen["sessions"]]
    assert numbers == [*range(1, MOST_SESSIONS - 1), 300, 301]
    assert (seen["more_sessions"], seen["totals"]["live"]) == (102, 301)


def test_the_page_of_one_session_is_told_of_that_one_alone() -> None:
    for number in (1, 250, 302):
        assert [each["session"] for each in seen_of(MANY, number)["sessions"]] == [number]
    assert seen_of(MANY, 999)["sessions"] == []


def test_a_look_is_encoded_once_for_all_who_look_on(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[LiveSession] = []
    plain = told_module._session

    def counted(one: LiveSession) -> str:
        encoded.append(one)
        return plain(one)

    monkeypatch.setattr(told_module, "_session", counted)
    look = look_of(*(session(number) for number in range(1, 300)))
    first = seen_of(look)
    assert len(encoded) == MOST_SESSIONS, "none is copied that is not shown"
    assert [seen_of(look) for _ in range(3)] == [first] * 3
    assert len(encoded) == MOST_SESSIONS
    assert seen_of(look, 5)["sessions"] == [first["sessions"][4]]
    assert {name: first[name] for name in first if name != "sessions"} == {
        name: value for name, value in seen_of(look, 5).items() if name != "sessions"
    }
    assert len(encoded) == MOST_SESSIONS + 2, "the one, for each page of it"
