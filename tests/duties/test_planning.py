"""Duties: each due time once in the whole group, whoever plans it, dies, or says something else. In memory and in PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from session_lock.database import Handback, Outcome
from session_lock.duties import PostgresDuties, cron, every
from session_lock.errors import SessionLost
from session_lock.planning import Plan, plan
from session_lock.session import Lease
from tests.duties.conftest import DAY, FOR_EVER, HOUR, START, Instance, PostgresGroup, duty

# Once per due time ----------------------------------------------------------------------------------------


async def test_each_due_time_once_whoever_looks_at_once(group):
    daily, hourly = duty(cron("30 3 * * *", tz="Europe/Berlin")), duty(every("1h"), "ping", "all")
    instances = [await Instance(group, daily, hourly).start() for _ in range(3)]
    done: list[datetime] = []
    for step in range(1, 57):
        await group.at(START + step * HOUR / 2)
        for found in await asyncio.gather(*[instance.look() for instance in instances]):
            done += found
    runs = await group.runs()
    hours = [START + each * HOUR for each in range(1, 29)]
    days = [START + HOUR * 1.5, START + DAY + HOUR * 1.5]
    assert sorted(done) == sorted(hours + days)
    assert runs["ping"] == [*hours, START + 29 * HOUR], "and the next one of each stands ready"
    assert runs["report"] == [*days, START + 2 * DAY + HOUR * 1.5]


async def test_a_task_says_when_it_was_due_and_how_late_it_is(group):
    instance = await Instance(group, duty(every("1h"))).start()
    await instance.look()
    await group.at(START + HOUR + timedelta(seconds=20))
    instance.database._to_ask_at = 0.0
    (task,) = await instance.claim()
    assert (task.data.name, task.data.due_at) == ("report", START + HOUR)
    assert task.data.due_at.utcoffset() == timedelta(0)
    assert 20 <= task.data.late < 30


async def test_what_one_died_of_is_done_by_another_and_nothing_twice(group):
    first, second = [await Instance(group, duty(every("1h"))).start() for _ in range(2)]
    await first.look()
    await second.look()
    await group.at(START + HOUR)
    (task,) = await first.claim()
    assert await second.look() == []
    await group.expire(first.lease)
    second.database._to_ask_at = 0.0
    (again,) = await second.claim()
    assert (again.data.due_at, again.attempt, again.claim.key) == (START + HOUR, 2, task.claim.key)
    await second.finish([again])
    with pytest.raises(SessionLost):
        await group.database.finish_tasks(first.lease, [task.claim])
    await group.at(START + 2 * HOUR)
    assert await second.look() == [START + 2 * HOUR]


async def test_a_run_may_be_planned_by_one_that_dies_right_then(group):
    """Whoever plans is no leader: the next one goes on from what is planned."""
    await (await Instance(group, duty(every("1h"))).start()).look()
    second = await Instance(group, duty(every("1h"))).start()
    await second.look()
    assert (await group.runs())["report"] == [START + HOUR]


# Missed ---------------------------------------------------------------------------------------------------

OUTAGE = [START + each * DAY + 3 * HOUR for each in range(4)]
"""3:00 of each day: the first is planned when all die, the others pass while nobody is there."""


@pytest.mark.parametrize(
    ("missed", "expected", "killed"),
    [("once", OUTAGE[-1:], True), ("all", OUTAGE, False), ("skip", [], True), ("skip", [], False)],
)
async def test_after_an_outage(group, missed, expected, killed):
    daily = duty(cron("0 3 * * *"), missed=missed)
    before = [await Instance(group, daily).start() for _ in range(2)]
    for instance in before:
        assert await instance.look() == []
        await (group.expire(instance.lease) if killed else instance.end())
    await group.at(START + 3 * DAY + 5 * HOUR)
    after = [await Instance(group, daily).start() for _ in range(3)]
    done = await asyncio.gather(*[instance.look() for instance in after])
    assert sorted(sum(done, [])) == expected
    assert max(done, key=len) == expected, "oldest first"
    await group.at(START + 4 * DAY + 3 * HOUR)
    assert sum([await instance.look() for instance in after], []) == [START + 4 * DAY + 3 * HOUR]


async def test_what_is_due_within_the_last_minute_is_late_and_not_missed(group):
    daily = duty(cron("0 3 * * *"), missed="skip")
    await (first := await Instance(group, daily).start()).look()
    await first.end()
    await group.at(START + DAY + 3 * HOUR + timedelta(seconds=30))
    assert await (await Instance(group, daily).start()).look() == [START + DAY + 3 * HOUR]


async def test_as_long_as_one_is_there_nothing_is_missed(group):
    often = duty(every("1h"), missed="skip")
    one, other = [await Instance(group, often).start() for _ in range(2)]
    await one.look()
    await other.look()
    await group.expire(one.lease)
    await group.at(START + 5 * HOUR + HOUR / 2)  # the other was there, but had no time to look
    fresh = await Instance(group, often).start()
    assert await fresh.look() == [START + each * HOUR for each in range(1, 6)]
    assert await other.look() == []


async def test_all_are_the_latest_hundred(group):
    often = duty(every("1m"), missed="all")
    await (first := await Instance(group, often).start()).look()
    await group.expire(first.lease)
    end = START + 3 * HOUR
    await group.at(end + timedelta(seconds=1))
    done = await (await Instance(group, often).start()).look()
    assert done == [end - timedelta(minutes=each) for each in reversed(range(100))]


async def test_no_more_than_a_hundred_wait_and_none_is_left_out(group):
    often = duty(every("1m"))
    instance = await Instance(group, often).start()
    await instance.look()
    await group.at(START + 4 * HOUR + timedelta(seconds=1))
    instance.database._to_ask_at = 0.0
    assert len(await instance.claim()) == 100
    again = await Instance(group, often).start()
    done = await again.look()
    assert done == [START + timedelta(minutes=each) for each in range(101, 241)]


async def test_a_run_that_had_begun_is_never_missed(group):
    """The stop of the last instance cut it short: its attempt does not count, but it goes on after the outage."""
    daily = duty(cron("0 3 * * *"), missed="skip")
    first = await Instance(group, daily).start()
    await first.look()
    await group.at(START + 3 * HOUR)
    (task,) = await first.claim()
    assert [
        each.outcome
        for each in await group.database.release_tasks(
            first.lease, [Handback(task.claim, give_back_attempt=True)]
        )
    ] == [Outcome.RELEASED]
    await first.end()
    await group.at(START + 2 * DAY)
    second = await Instance(group, daily).start()
    assert await second.look() == [START + 3 * HOUR]


async def test_the_first_one_after_an_outage_may_die_before_it_has_planned(group):
    """That it was there, for a moment, does not make a miss into something that is merely late."""
    daily = duty(cron("0 3 * * *"), missed="once")
    await (first := await Instance(group, daily).start()).look()
    await first.end()
    await group.at(START + 3 * DAY + 5 * HOUR)
    dying = await Instance(group, daily).start()
    await group.database.plan_duties(dying.lease, dying.lease.id, [Plan("report", daily.schedule.text)])
    second = await Instance(group, daily).start()
    assert await second.look() == OUTAGE[-1:]


async def test_a_plan_for_what_no_longer_holds_is_not_carried_out(group):
    """Two come back at once, one before the full hour and one behind it: the first to plan has decided."""
    hourly = duty(every("1h"))
    await (first := await Instance(group, hourly).start()).look()
    await first.end()
    slow, quick = await Instance(group, hourly).start(), await Instance(group, hourly).start()
    await group.at(START + 5 * HOUR - timedelta(minutes=1))
    (standing,) = await group.database.plan_duties(
        slow.lease, slow.lease.id, [Plan("report", hourly.schedule.text)]
    )
    stale = plan(standing, hourly.schedule, "once")
    await group.at(START + 5 * HOUR)
    assert await quick.look() == [START + 5 * HOUR]
    (standing,) = await group.database.plan_duties(slow.lease, slow.lease.id, [stale])
    assert (standing.lapsed, standing.last_due) == (False, START + 6 * HOUR)
    assert (await group.runs())["report"] == [START + 5 * HOUR, START + 6 * HOUR]


async def test_a_plan_of_before_another_schedule_counted_is_not_carried_out(group):
    old = await Instance(group, OLD).start()
    await old.look()
    await group.at(START + 3 * HOUR)
    (standing,) = await group.database.plan_duties(
        old.lease, old.lease.id, [Plan("report", OLD.schedule.text)]
    )
    stale = plan(standing, OLD.schedule, "once")
    await (new := await Instance(group, NEW).start()).look()
    await new.end()
    (standing,) = await group.database.plan_duties(old.lease, old.lease.id, [stale])
    assert (standing.in_force, standing.last_due) == (True, None)


async def test_a_new_lease_plans_before_it_takes_work(group):
    """Whatever its process had planned to ask, and when: the lease was lost, so it may have been long ago."""
    instance = await Instance(group, duty(cron("0 3 * * *"), missed="skip")).start()
    await instance.look()
    await group.expire(instance.lease)
    await group.at(START + 2 * DAY)
    await instance.start()
    assert await instance.claim() == []


async def test_a_new_duty_starts_with_its_next_due_time(group):
    instance = await Instance(group, duty(every("1h"), missed="all")).start()
    await group.at(START + 5 * HOUR + HOUR / 2)
    assert await instance.look() == []
    assert (await group.runs())["report"] == [START + 6 * HOUR]


# Late, and not missed --------------------------------------------------------------------------------------

LATE = [START + each * HOUR for each in (1, 2, 3)]
"""They fell due while somebody was there, who began none of them. That of 4:00 stood ready when nobody was there any more."""


async def late_when_all_were_gone(group, often, *, planned=True, killed=False):
    first = await Instance(group, often).start()
    await first.look()
    await group.at(START + 3 * HOUR + HOUR / 2)
    if planned:
        await first.database._plan(first.lease)
    await (group.expire(first.lease) if killed else first.end())


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(("missed", "and_of_these"), [("once", [5]), ("all", [4, 5]), ("skip", [])])
async def test_what_was_late_when_the_last_one_went_is_run_whatever_missed_says(
    group, missed, and_of_these, planned, killed
):
    often = duty(every("1h"), missed=missed)
    await late_when_all_were_gone(group, often, planned=planned, killed=killed)
    await group.at(START + 5 * HOUR + HOUR / 2)
    after = await Instance(group, often).start()
    assert await after.look() == [*LATE, *(START + each * HOUR for each in and_of_these)]
    assert (await group.runs())["report"][-1] == START + 6 * HOUR


async def test_what_was_late_is_run_after_days_too(group):
    """When the declarations of those who were there are forgotten."""
    often = duty(every("1h"), missed="skip")
    await late_when_all_were_gone(group, often)
    await group.at(START + 3 * DAY + HOUR / 2)
    dying = await Instance(group, often).start()
    await group.database.plan_duties(dying.lease, dying.lease.id, [Plan("report", often.schedule.text)])
    await dying.end()
    assert await (await Instance(group, often).start()).look() == LATE


async def test_what_was_late_is_run_under_another_schedule_too(group):
    await late_when_all_were_gone(group, duty(every("1h"), missed="skip"))
    await group.at(START + 4 * HOUR + HOUR / 2)
    other = await Instance(group, duty(every("2h"), missed="skip")).start()
    assert await other.look() == LATE
    assert (await group.runs())["report"] == [*LATE, START + 6 * HOUR]


async def test_no_more_than_a_hundred_wait_of_what_is_late_and_what_was_missed(group):
    """What there was no room for, and what was missed, is up to `missed`."""
    often = duty(every("1m"), missed="all")
    first = await Instance(group, often).start()
    await first.look()
    await group.at(START + HOUR + timedelta(seconds=1))
    await first.end()
    await group.at(START + 3 * HOUR + timedelta(seconds=1))
    late, missed = [START + timedelta(minutes=each) for each in range(1, 61)], range(141, 181)
    done = await (await Instance(group, often).start()).look()
    assert done == [*late, *(START + timedelta(minutes=each) for each in missed)]


# Two versions ---------------------------------------------------------------------------------------------

OLD, NEW = duty(cron("0 3 * * *")), duty(cron("0 5 * * *"))


async def test_of_two_schedules_the_newer_wins_and_the_older_returns(group):
    old, new = await Instance(group, OLD).start(), await Instance(group, NEW).start()
    await old.look()
    assert (await group.runs())["report"] == [START + 3 * HOUR]
    await new.look()
    assert (await group.runs())["report"] == [START + 5 * HOUR], "the old one's is withdrawn"
    for moment in (2, 3, 4):
        await group.at(START + moment * HOUR)
        assert await old.look() == await new.look() == []
    await group.at(START + 5 * HOUR)
    assert await old.look() + await new.look() == [START + 5 * HOUR], "by whoever comes first"
    await new.look()

    await group.at(START + DAY + 4 * HOUR)
    await group.expire(new.lease)
    assert await old.look() == [], "3:00 belonged to the schedule that counted then"
    assert (await group.runs())["report"] == [START + 5 * HOUR, START + 2 * DAY + 3 * HOUR]
    await group.at(START + 2 * DAY + 3 * HOUR)
    assert await old.look() == [START + 2 * DAY + 3 * HOUR]


async def test_what_falls_due_between_the_end_of_the_newer_and_the_next_look_is_not_lost(group):
    old, new = await Instance(group, OLD).start(), await Instance(group, NEW).start()
    await old.look()
    await new.look()
    await group.at(START + 3 * HOUR - timedelta(seconds=1))
    await new.end()
    await group.at(START + 3 * HOUR + timedelta(seconds=5))
    assert await old.look() == [START + 3 * HOUR]


async def test_an_old_process_does_not_become_the_newest_by_losing_its_lease(group):
    old, new = await Instance(group, OLD).start(), await Instance(group, NEW).start()
    await old.look()
    await new.look()
    await group.expire(old.lease)
    await old.start()
    await old.look()
    await new.look()
    assert (await group.runs())["report"] == [START + 5 * HOUR]


async def test_one_that_drains_has_no_say(group):
    old, new = await Instance(group, OLD).start(), await Instance(group, NEW).start()
    await old.look()
    await new.look()
    await group.database.bump_session(new.lease, ttl=FOR_EVER, draining=True)
    await old.look()
    assert (await group.runs())["report"] == [START + 3 * HOUR]


async def test_two_versions_that_look_at_the_same_time(group):
    instances = [await Instance(group, each).start() for each in (OLD, NEW) * 4]
    await asyncio.gather(*[instance.look() for instance in instances])
    await asyncio.gather(*[instance.look() for instance in instances])
    assert (await group.runs())["report"] == [START + 5 * HOUR]
    await group.at(START + 5 * HOUR)
    done = await asyncio.gather(*[instance.look() for instance in instances])
    assert sum(done, []) == [START + 5 * HOUR]


async def test_after_an_outage_with_a_new_schedule_only_what_was_planned_is_known_to_be_missed(group):
    await (first := await Instance(group, OLD).start()).look()
    await first.end()
    await group.at(START + 3 * DAY + 6 * HOUR)
    second = await Instance(group, NEW).start()
    assert await second.look() == [START + 3 * HOUR]
    assert (await group.runs())["report"] == [START + 3 * HOUR, START + 4 * DAY + 5 * HOUR]


# Duties that others do not know ---------------------------------------------------------------------------------

YEARLY = duty(cron("0 0 1 1 *"), "yearly")


async def test_a_run_is_given_to_nobody_who_does_not_know_the_duty(group):
    stranger = await Instance(group, YEARLY).start()
    await stranger.look()
    owner = await Instance(group, OLD).start()
    await owner.look()
    await group.at(START + 3 * HOUR)
    assert await stranger.look() == []
    work = await stranger.database.get_work(stranger.lease, limit=1)
    assert (work.tasks, work.share) == ([], None)
    work = await owner.database.get_work(
        owner.lease, limit=1
    )  # a stranger has no part of it, also before any patience
    assert [task.data.due_at for task in work.tasks] == [START + 3 * HOUR]


async def test_one_that_a_stranger_walked_by_was_not_begun(group):
    daily = duty(cron("0 3 * * *"), missed="skip")
    stranger = await Instance(group, YEARLY).start()
    owner = await Instance(group, daily).start()
    await owner.look()
    await owner.end()
    await group.at(START + 4 * HOUR)
    assert await stranger.look() == []
    assert await (await Instance(group, daily).start()).look() == [], "missed, and skipped"


async def test_one_that_was_given_back_unbegun_had_begun(group):
    owner = await Instance(group, OLD).start()
    await owner.look()
    await group.at(START + 3 * HOUR)
    (task,) = await owner.claim()
    await group.database.release_tasks(owner.lease, [Handback(task.claim, give_back_attempt=True)])
    await owner.end()
    await group.at(START + 3 * DAY)
    assert START + 3 * HOUR in await (await Instance(group, OLD).start()).look(), "it had begun"


async def test_one_that_died_with_the_last_who_knew_its_duty_is_given_up_a_day_later(group):
    stranger = await Instance(group, YEARLY).start()
    owner = await Instance(group, OLD).start()
    await owner.look()
    await group.at(START + 3 * HOUR)
    (task,) = await owner.claim()
    await group.expire(owner.lease)
    await group.at(START + 5 * HOUR)
    assert await stranger.look() == []
    assert task.claim.key in await group.pending()
    await group.at(START + 3 * DAY)
    await stranger.look()
    await stranger.look()
    assert task.claim.key not in await group.pending()


async def test_a_duty_that_nobody_has_declared_for_a_day_is_forgotten(group):
    both = [duty(cron("0 3 * * *"), "gone"), duty(cron("0 4 * * *"), "stays")]
    first = await Instance(group, *both).start()
    await first.look()
    await first.end()
    second = await Instance(group, both[1]).start()
    await group.at(START + HOUR)
    await second.look()
    assert (await group.runs())["gone"] == [START + 3 * HOUR], "it stands, in case its duty comes back"
    await group.at(START + DAY + timedelta(minutes=1))
    await second.look()
    assert "gone" not in await group.runs()
    third = await Instance(group, *both).start()
    await third.look()
    assert (await group.runs())["gone"] == [START + DAY + 3 * HOUR], "as a new one"


# What only PostgreSQL has -------------------------------------------------------------------------------------


async def test_runs_that_have_ended_are_kept_for_a_month(admin, database):
    group = PostgresGroup(admin, database.app_dsn)
    await group.at(START)
    async with group.database:
        instance = await Instance(group, duty(every("1d"))).start()
        await instance.look()
        for day in range(1, 36):
            await group.at(START + day * DAY)
            await instance.look()
    assert min((await group.runs())["report"]) >= START + 4 * DAY
    assert await admin.fetchval("SELECT count(*) FROM session_lock.duty_run") >= 30


async def test_only_a_session_of_the_duties_plans(admin, database):
    async with PostgresDuties(database.app_dsn) as duties:
        session = await admin.fetchrow(
            "SELECT * FROM session_lock.start_session('email', '', 1, 30, '', '', '')"
        )
        with pytest.raises(SessionLost):
            await duties.plan_duties(Lease(session["id"], session["nonce"]), 1, [Plan("report", "every 1s")])
    app = await asyncpg.connect(database.app_dsn)
    try:
        for table in ("duty", "duty_run", "duty_declaration"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute(f"SELECT * FROM session_lock.{table}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("SELECT session_lock.forget_duties(now())")
    finally:
        await app.close()
