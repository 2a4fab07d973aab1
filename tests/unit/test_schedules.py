"""When duties are due: intervals, cron expressions, and the two nights on which the clock changes."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from session_lock import SettingsError, cron, every

BERLIN = ZoneInfo("Europe/Berlin")


def due(schedule, start: datetime, end: datetime) -> list[datetime]:
    times = []
    for each in schedule.due_times(start):
        if each > end:
            return times
        times.append(each)
    return times


def on(day: datetime, schedule, zone=BERLIN) -> list[str]:
    """The due times of one day of the zone, by its clock, with the offset to UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=zone)
    end = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=zone)
    return [
        f"{each.astimezone(zone):%H:%M%z}" for each in due(schedule, start - timedelta(microseconds=1), end)
    ]


# Intervals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [
        ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1d2h3m4s", 93784), (5, 5), (1.5, 1.5),
        (timedelta(minutes=2), 120), ("366d", 31622400),
    ],
)  # fmt: skip
def test_an_interval_is_a_multiple_since_1970(interval, seconds):
    moment = datetime(2026, 3, 28, 12, 34, 56, 789, tzinfo=UTC)
    first, second = islice(every(interval).due_times(moment), 2)
    assert moment < first <= moment + timedelta(seconds=seconds)
    assert (first - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(seconds=seconds) == timedelta(0)
    assert second - first == timedelta(seconds=seconds)
    assert every(interval).after(first) == second, "after, and not at"


@pytest.mark.parametrize(
    "interval",
    [
        "", "5", "5x", "m", "-5m", "5 m", "1m1h", "0s", 0, -1, 0.5, float("nan"), float("inf"), 1e30, True, None, "367d",
        timedelta(0), timedelta(milliseconds=999), "٥m", "99999999999999d",
    ],
)  # fmt: skip
def test_a_malformed_interval(interval):
    with pytest.raises(SettingsError, match=r"^every\("):
        every(interval)


def test_a_schedule_is_its_text():
    assert every("5m") == every(300) != every(301)
    assert every(1.5).text == "every 1.5s"
    assert every("1d").text == "every 86400s"
    assert cron("30  3 * * mon", tz="Europe/Berlin") == cron("30 3 * * MON", tz="Europe/Berlin")
    assert cron("30 3 * * *", tz="Europe/Berlin") != cron("30 3 * * *")
    assert cron("30 3 * * *", tz="Europe/Berlin").text == "cron 30 3 * * * Europe/Berlin"
    assert len({every("5m"), every(300)}) == 1
    assert repr(every("5m")) == "<every 300s>"
    assert str(every("5m")) == "every 300s"


# Cron ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("", "five fields"), ("* * * *", "five fields"), ("* * * * * *", "five fields"), ("@daily", "five fields"), (None, "five fields"),
        ("60 * * * *", "bad minute"), ("* 24 * * *", "bad hour"), ("a * * * *", "bad minute"), ("*/0 * * * *", "bad minute"),
        ("0 0 31 2 *", "bad day-of-month"), ("* * */20 * 1L", "not due once"),
    ],
)  # fmt: skip
def test_a_malformed_expression(expression, complaint):
    with pytest.raises(SettingsError, match=r"^cron\(") as raised:
        cron(expression)
    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    "tz", ["Europe/Berlim", "", "../etc/passwd", "/etc/localtime", None, 1, "Europe", "\0"]
)
def test_a_zone_that_is_none(tz):
    with pytest.raises(SettingsError, match="there is no time zone"):
        cron("30 3 * * *", tz=tz)


def test_without_the_parser_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(SettingsError, match=r"session-lock\[cron\]"):
        cron("30 3 * * *")
    every("5m")


def test_by_the_clock_of_its_zone():
    assert cron("30 3 * * *", tz="Europe/Berlin").after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(
        2026, 1, 1, 2, 30, tzinfo=UTC
    )
    assert cron("30 3 * * *").after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(
        2026, 1, 1, 3, 30, tzinfo=UTC
    )


SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)


def test_a_daily_time_is_due_once_on_both_nights():
    daily = cron("30 2 * * *", tz="Europe/Berlin")
    assert on(SPRING, daily) == ["03:00+0200"], "2:30 does not exist: the first minute after the gap"
    assert on(AUTUMN, daily) == ["02:30+0200"], "2:30 exists twice: the first"
    for day in (SPRING, AUTUMN):
        assert len(on(day - timedelta(days=1), daily)) == len(on(day + timedelta(days=1), daily)) == 1
    year = due(daily, datetime(2026, 1, 1, tzinfo=BERLIN), datetime(2027, 1, 1, tzinfo=BERLIN))
    assert [f"{each.astimezone(BERLIN):%j}" for each in year] == [f"{day:03}" for day in range(1, 366)]


def test_two_times_within_the_gap_are_one():
    assert on(SPRING, cron("15,45 2 * * *", tz="Europe/Berlin")) == ["03:00+0200"]
    assert on(SPRING, cron("0 2,3 * * *", tz="Europe/Berlin")) == ["03:00+0200"]


def test_what_begins_with_a_star_follows_the_clock():
    for expression, usual in (("*/15 * * * *", 96), ("0 * * * *", 24)):
        schedule = cron(expression, tz="Europe/Berlin")
        assert len(on(SPRING, schedule)) == usual * 23 // 24
        assert len(on(AUTUMN, schedule)) == usual * 25 // 24
    half_past = cron("*/30 2 * * *", tz="Europe/Berlin")
    assert on(SPRING, half_past) == []
    assert on(AUTUMN, half_past) == ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"]


EXPRESSIONS = [
    "30 2 * * *",
    "*/15 * * * *",
    "0 * * * *",
    "30,45 2 * * *",
    "0 2,3 * * *",
    "*/30 2 * * *",
    "30 */2 * * *",
    "59 1 * * 0",
]


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"]
)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_instance_finds_the_same_times_from_wherever_it_begins(expression, zone):
    """Also within an hour that comes twice, and one that is left out."""
    schedule, chance = cron(expression, tz=zone), random.Random(expression + zone)
    for day in (
        datetime(2026, 3, 28, tzinfo=UTC),
        SPRING,
        datetime(2026, 4, 4, tzinfo=UTC),
        datetime(2026, 10, 3, tzinfo=UTC),
        datetime(2026, 10, 24, tzinfo=UTC),
        datetime(2026, 11, 1, tzinfo=UTC),
    ):
        times = due(schedule, day, day + timedelta(days=8 if expression.endswith("* 0") else 2))
        assert all(one < other for one, other in pairwise(times))
        for _ in range(5):
            moment = day + timedelta(seconds=chance.random() * 86_400)
            later = [each for each in times if each > moment]
            assert schedule.after(moment) == later[0]
            earlier = [each for each in times if each <= moment]
            assert schedule.latest(day, moment, 3) == earlier[-3:]


def test_the_latest_of_many_years_are_found_at_once():
    now = datetime(2026, 11, 1, tzinfo=UTC)
    assert every(1).latest(datetime(1970, 1, 1, tzinfo=UTC), now, 2) == [now - timedelta(seconds=1), now]
    assert cron("0 0 29 2 *").latest(datetime(2001, 1, 1, tzinfo=UTC), now, 2) == [
        datetime(2020, 2, 29, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC),
    ]  # fmt: skip
    assert every("1d").latest(now, now, 5) == []
    assert every("1d").latest(now + timedelta(days=1), now, 5) == []
