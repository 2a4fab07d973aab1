"""The lease: kept alive, lost, and what keepalives bring."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

from session_lock import DatabaseError, Retry, Runner, SessionLost, TaskLost, each, session
from session_lock.database import Outcome, Settled
from session_lock.testing import VirtualTimeLoop
from tests.unit.scenes import Sleeper, assert_free, do_all, running, settings, table
from tests.unit.virtual import now, until, virtual

# Defaults: lease_ttl 30, guard 1, cancel_grace 5: a lease that is never renewed is lost at 24, over at 29.


def loops() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


# Kept alive ----------------------------------------------------------------------------------------------


@virtual
async def test_keepalives_come_each_interval_with_a_tenth_of_jitter() -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings())):
        await asyncio.sleep(600)
    beats = database.times("bump_session")[:-1]
    gaps = [later - earlier for earlier, later in zip([0.0, *beats], beats, strict=False)]
    assert 4.5 <= min(gaps) < 4.7
    assert 5.3 < max(gaps) <= 5.51
    assert len(database.sessions) == 1


@virtual
async def test_a_task_can_ask_how_long_its_lease_lasts_and_what_becomes_of_it() -> None:
    database = table(2)
    seen: list[float] = []

    async def tasker(task: Any) -> None:
        seen.append(task.lease_left())
        task.assert_held()
        await asyncio.sleep(1)
        if task.key == 1:
            return
        database.expire(1)
        await asyncio.sleep(100)

    async def checked(task: Any) -> None:
        try:
            await tasker(task)
        except asyncio.CancelledError:
            with pytest.raises(SessionLost):
                task.assert_held()
            seen.append(task.lease_left())
            raise

    async with running(Runner(database, each(checked), settings(concurrency=2))):
        await until(lambda: len(seen) >= 5, within=20)
    assert seen[0] == seen[1] == pytest.approx(28.97, abs=0.05)
    assert seen[2] == 0  # the server said so: at once


@virtual
async def test_a_settled_task_is_no_longer_held() -> None:
    database = table(2)

    async def tasker(batch: Any) -> Any:
        batch.finish(batch[0])
        batch.assert_held()
        await asyncio.sleep(0.1)
        with pytest.raises(TaskLost):
            batch[0].assert_held()
        batch.assert_held()
        batch[1].assert_held()
        return batch

    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.finished == [1, 2])


@virtual
async def test_transactions_finish_their_tasks_when_they_commit_and_only_then() -> None:
    database = table(3)
    effects: list[str] = []

    async def tasker(batch: Any) -> Any:
        first, second, third = batch
        async with first.transaction() as connection:
            connection.write(lambda: effects.append("first"))
            assert database.finished == []
        assert database.finished == [1]
        with pytest.raises(ZeroDivisionError):
            async with batch.transaction() as connection:  # the two others
                connection.write(lambda: effects.append("others"))
                raise ZeroDivisionError
        assert database.finished == [1]
        async with batch.transaction(third) as connection:
            pass
        with pytest.raises(TaskLost):
            async with third.transaction():
                pass
        return [second]

    async with running(Runner(database, tasker, settings())):
        await until(lambda: len(database.finished) == 3)
        await asyncio.sleep(2)
    assert database.finished == [1, 3, 2]
    assert effects == ["first"]
    assert_free(database)


# Lost ----------------------------------------------------------------------------------------------------


@virtual
async def test_a_session_that_the_server_says_is_lost_is_followed_by_a_new_one() -> None:
    database, tasker = table(1), Sleeper(1000)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: tasker.begun)
        await asyncio.sleep(0.1)
        database.expire(1)
        expired = now()
        await until(lambda: len(tasker.begun) == 2)
        assert tasker.ended[0][1] == "cancelled"
        assert tasker.ended[0][0] - expired < 1.3  # the next look
        assert len(database.sessions) == 2
        assert database[1].session_id == 2
        tasker.seconds = 0


@virtual
async def test_it_may_also_hear_it_from_a_keepalive_or_a_finish() -> None:
    for verb in ("bump_session", "finish_tasks"):
        database, tasker = table(3), Sleeper(7)
        fault = database.fail(verb, SessionLost("gone"), times=1)
        async with running(Runner(database, tasker, settings(drain_timeout=1))):
            await until(lambda: len(database.sessions) == 2)  # noqa: B023
            assert fault.times == 0
            tasker.seconds = 0.1
            await until(lambda: len(database.finished) == 3, within=60)  # noqa: B023


@virtual
async def test_what_is_accomplished_when_the_lease_is_lost_is_tried_once_and_the_fence_decides(
    caplog: Any,
) -> None:
    database = table(2)
    lost = asyncio.Event()

    async def tasker(batch: Any) -> Any:
        try:
            await asyncio.sleep(1000 if batch[0].attempt == 1 else 0)
        except asyncio.CancelledError:
            lost.set()
        return batch

    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.count("get_work") > 1)
        database.expire(1)
        await lost.wait()
        await until(lambda: len(database.finished) == 2)
    assert [call["args"][0].id for call in database.arguments("finish_tasks")] == [1, 2]
    assert [database[key].attempts for key in (1, 2)] == [2, 2]


@pytest.mark.fault("N6")
@pytest.mark.parametrize("how", ["hang", "fail"])
@virtual
async def test_a_lease_that_is_not_renewed_ends_its_taskers_cancel_grace_before_the_local_deadline(
    how: str,
) -> None:
    database, tasker = table(1), Sleeper(1000)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: tasker.begun)
        last_good = database.times("get_work")[0]
        getattr(database, how)("*")
        await until(lambda: tasker.ended)
        assert tasker.ended == [(pytest.approx(last_good + 30 * 0.999 - 1 - 5, abs=0.05), "cancelled")]
        assert len(database.sessions) == 1
        tasker.seconds = 0
        database.heal()
        await until(lambda: len(database.sessions) == 2, within=40)
        await until(lambda: database.finished, within=60)
        assert database[1].attempts in (1, 2)


@virtual
async def test_the_deadline_counts_from_before_the_call_so_a_slow_answer_gains_nothing() -> None:
    database, tasker = table(1), Sleeper(1000)
    database.delay("bump_session", 2.9, committed=True)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.count("bump_session") == 3)
        await asyncio.sleep(2.95)
        sent = database.times("bump_session")[2]
        database.hang("*")
        await until(lambda: tasker.ended)
        assert tasker.ended[0][0] == pytest.approx(sent + 30 * 0.999 - 6, abs=0.05)
        database.heal()


@pytest.mark.fault("N4")
@virtual
async def test_an_answer_that_comes_after_its_timeout_moves_no_deadline() -> None:
    database, tasker = table(1), Sleeper(1000)
    database.delay("bump_session", 3.5, committed=True)  # the server renews, and nobody hears of it
    database.hang("get_work", skip=1)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: tasker.ended)
        assert tasker.ended[0][0] == pytest.approx(30 * 0.999 - 6, abs=0.05)
        assert database.sessions[0].expires_at > 40
        database.heal()


@virtual
async def test_a_failed_keepalive_is_followed_by_the_next_at_once_but_not_in_a_hot_loop() -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings())):
        database.fail("bump_session")
        await until(lambda: database.count("bump_session") > 1)
        first, second = database.times("bump_session")[:2]
        assert 0.1 < second - first < 0.3
        await asyncio.sleep(1)
        assert database.count("bump_session") < 9
        database.heal()
        await asyncio.sleep(20)
    assert len(database.sessions) == 1


@virtual
async def test_two_lost_keepalives_do_no_harm() -> None:
    database, tasker = table(1), Sleeper(100)
    database.hang("bump_session", times=2, skip=1)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.finished, within=120)
    assert len(database.sessions) == 1


@virtual
async def test_a_process_that_stood_still_past_its_lease_starts_nothing_under_it() -> None:
    database = table(40)
    begun: list[tuple[float, int]] = []

    async def tasker(task: Any) -> None:
        begun.append((now(), task.session_id))
        await asyncio.sleep(0.5)

    async with running(Runner(database, each(tasker), settings(concurrency=2))):
        await until(lambda: len(begun) == 4)
        woken = now() + 60
        loops().pause(60)
        await until(lambda: len(database.finished) > 6)
        assert [session for at, session in begun if at >= woken][0] == 2
        assert {session for at, session in begun if at >= woken} == {2}
        await until(lambda: len(database.finished) == 40)
    assert_free(database)


@virtual
async def test_a_pause_that_ate_into_the_grace_loses_the_session_and_does_not_leave_idle_slots_behind() -> (
    None
):
    """The local deadline is near, but the server would still renew: the slots that saw it must not be dead."""
    for slept in (22.0, 24.0, 26.0, 28.0):
        database = table(3)

        async def tasker(task: Any) -> None:
            await asyncio.sleep(0.5)

        async with running(Runner(database, each(tasker), settings(concurrency=1))):
            await until(lambda: len(database.finished) == 1)  # noqa: B023
            loops().pause(slept)
            await until(lambda: len(database.finished) == 3, within=20)  # noqa: B023
            database.add(4, "later")
            await until(lambda: len(database.finished) == 4, within=20)  # noqa: B023
        assert_free(database)


@pytest.mark.fault("P5")
@virtual
async def test_after_a_suspend_which_the_loops_clock_did_not_count_no_slot_is_left_behind(
    monkeypatch: Any,
) -> None:
    """The slot is the first to see that the lease is over; the next keepalive would find the server content."""
    for suspended in (15.0, 25.0, 29.0, 100.0):
        database = table(6)
        async with running(Runner(database, each(a_little), settings(concurrency=1))):
            await until(lambda: len(database.finished) == 2)  # noqa: B023
            monkeypatch.setattr(session, "lease_clock", lambda: now() + suspended)  # noqa: B023
            await until(lambda: len(database.finished) == 6, within=10)  # noqa: B023
            assert len(database.sessions) == (1 if suspended < 20 else 2)
        monkeypatch.undo()
        assert_free(database)


@virtual
async def test_nothing_is_claimed_when_there_is_hardly_time_left_to_begin_it() -> None:
    database = table(0)
    database.fail("bump_session")
    async with running(Runner(database, do_all, settings())):
        # Answers of looks tell what is left, too; these are of a server that has not heard of us since the start.
        await until(lambda: len(database.sessions) == 2, within=40)
        looks = [at for at in database.times("get_work") if at < database.times("start_session")[1]]
        assert 19 < max(looks) <= 30 - 1 - 5 - 3
        database.heal()


@virtual
async def test_many_lost_sessions_are_no_hot_loop() -> None:
    database = table(1)
    database.fail("get_work", SessionLost("again"))
    async with running(Runner(database, do_all, settings())):
        await asyncio.sleep(60)
    assert len(database.sessions) < 60 * 5


@virtual
async def test_a_lease_that_is_lost_during_the_drain_cancels_the_taskers() -> None:
    database, tasker = table(1), Sleeper(1000)
    async with running(Runner(database, tasker, settings(drain_timeout=500))):
        await until(lambda: tasker.begun)
        await asyncio.sleep(1)
        asyncio.get_running_loop().call_later(10, database.expire, 1)
    assert tasker.ended[0][1] == "cancelled"
    assert now() < 20
    assert len(database.sessions) == 1


@pytest.mark.fault("P8")
@virtual
async def test_a_stubborn_tasker_of_a_lost_lease_is_abandoned_and_the_new_session_goes_on(
    caplog: Any,
) -> None:
    database, tasker = table(2), Sleeper(1000, stubborn=True)

    async def first_is_stubborn(task: Any) -> None:
        if task.key == 1 and task.attempt == 1:
            await tasker([task])  # type: ignore[arg-type]

    async with running(Runner(database, each(first_is_stubborn), settings(cancel_grace=3))):
        await until(lambda: database.finished == [2])
        database.expire(1)
        await until(lambda: len(database.finished) == 2, within=30)
    assert "ignores its cancellation" in caplog.text
    assert database.sessions[1].ended
    tasker.thaw.set()
    await asyncio.sleep(0)


# What keepalives bring -----------------------------------------------------------------------------------------


@virtual
async def test_give_back_releases_the_latest_unstarted_tasks() -> None:
    database, tasker = table(20), Sleeper(1000)
    async with running(
        Runner(database, tasker, settings(batch_size=2, concurrency=2, tasks_per_session=10, drain_timeout=0))
    ):
        await until(lambda: len(tasker.begun) == 2)
        await asyncio.sleep(0.1)
        held = [row.key for row in database._tasks.values() if row.session_id]
        assert held == list(range(1, 11))
        database.fail("get_work")  # which would have them back
        database.ask_to_give_back(1, 4)
        await until(lambda: database.count("release_tasks"))
        await asyncio.sleep(0.1)
        assert [row.key for row in database._tasks.values() if row.session_id] == list(range(1, 7))
        database.ask_to_give_back(1, 400)
        await until(lambda: database.count("release_tasks") == 2)
        await asyncio.sleep(0.1)
        assert [row.key for row in database._tasks.values() if row.session_id] == [1, 2, 3, 4]
        assert database[9].attempts == 0


@virtual
async def test_a_paused_mapping_claims_nothing_until_it_goes_on() -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings())):
        await database.pause()
        await asyncio.sleep(6)
        looks = database.count("get_work")
        database.add(1, "x")
        await asyncio.sleep(60)
        assert database.count("get_work") == looks
        assert database.finished == []
        await database.resume()
        await until(lambda: database.finished, within=8)


@virtual
async def test_who_is_paused_gives_back_at_once_what_it_has_not_begun_and_ends_what_it_runs() -> None:
    database, tasker = table(20), Sleeper(30)
    config = settings(batch_size=2, concurrency=2, tasks_per_session=10)
    async with running(Runner(database, tasker, config)):
        await until(lambda: len(tasker.begun) == 2)
        await asyncio.sleep(0.1)
        assert len([row for row in database._tasks.values() if row.session_id]) == 10
        assert await database.pause()
        await asyncio.sleep(0.1)  # told, so it does not wait for its keepalive
        assert [row.key for row in database._tasks.values() if row.session_id] == [1, 2, 3, 4]
        assert {row.attempts for row in database._tasks.values() if row.session_id is None} == {0}
        await asyncio.sleep(100)
        assert sorted(database.finished) == [1, 2, 3, 4]
        assert len(tasker.begun) == 2
        assert not await database.pause()
        assert await database.resume()
        resumed = now()
        await until(lambda: len(tasker.begun) == 4)
        assert now() - resumed < 0.1
        assert not await database.resume()


@virtual
async def test_a_look_that_was_under_way_at_the_pause_begins_nothing() -> None:
    database, tasker = table(3), Sleeper(1)
    database.delay("get_work", 2, committed=True)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.count("get_work"))
        await asyncio.sleep(1)
        assert await database.pause()
        await asyncio.sleep(20)
        assert tasker.begun == []
        assert [row.session_id for row in database._tasks.values()] == [None] * 3
        await database.resume()
        await until(lambda: len(database.finished) == 3)


@virtual
async def test_a_request_to_drain_is_a_stop() -> None:
    database, tasker = table(1), Sleeper(12)
    run = asyncio.create_task(Runner(database, tasker, settings()).run())
    await until(lambda: tasker.begun)
    await database.drain(1)
    await run
    assert database.finished == [1]
    assert now() == pytest.approx(12, abs=0.2)
    assert_free(database)


@virtual
async def test_a_request_to_cancel_ends_that_run_alone_and_discards_the_task() -> None:
    database = table(4)
    how: dict[int, str] = {}

    async def tasker(task: Any) -> None:
        try:
            await asyncio.sleep(12)
            how[task.key] = "done"
        except asyncio.CancelledError:
            how[task.key] = "cancelled"
            raise

    async with running(Runner(database, each(tasker), settings(concurrency=2))):
        await until(lambda: database[4].attempts)
        await database.cancel(1)  # runs
        await database.cancel(3)  # is prefetched
        await until(lambda: len(database.finished) == 2)
    assert how == {1: "cancelled", 2: "done", 4: "done"}
    assert database.discarded == [1, 3]
    assert database.failures[1][0].error == "cancelled on request"


@virtual
async def test_what_the_dead_were_asked_to_cancel_is_discarded_by_their_heir_and_not_begun() -> None:
    database, tasker = table(3), Sleeper()
    dead = await database.start_session(capacity=3, ttl=5, label="", app_version="")
    await database.get_work(dead, limit=3)
    await database.cancel(2)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: not database.pending)
    assert (sorted(database.finished), database.discarded) == ([1, 3], [2])
    assert [sorted(keys) for _, keys in tasker.begun] == [[1, 3]]


@virtual
async def test_a_request_to_cancel_whose_answer_is_lost_is_heard_at_the_next_keepalive() -> None:
    database, tasker = table(1), Sleeper(1000)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: tasker.begun)
        await database.cancel(1)
        database.fail("bump_session", committed=True, times=1)
        await until(lambda: database.discarded)
    assert [how for _, how in tasker.ended] == ["cancelled"]


@virtual
async def test_a_request_that_comes_after_the_verdict_is_not_one_for_the_next_run() -> None:
    database = table(1, discards=False)
    runs = 0

    async def tasker(batch: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 2:
            raise ValueError("not cancelled")
        if runs > 2:
            return batch
        batch.release(batch[0])
        await database.cancel(1)
        await asyncio.sleep(60)  # the release is recorded, and so the task is parked
        return ()

    database.hang("release_tasks", times=3)  # a keepalive comes first
    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.parked)
        await until(lambda: now() > 70)
        await database.retry(1)
        await until(lambda: database.finished or database.parked)
    assert (database.finished, runs) == ([1], 3)


@virtual
async def test_the_others_of_a_cancelled_batch_are_given_back() -> None:
    database, tasker = table(3), Sleeper(1000)
    async with running(Runner(database, tasker, settings(concurrency=1))):
        await until(lambda: tasker.begun)
        tasker.seconds = 0.1
        await database.cancel(2)
        await until(lambda: len(database.finished) == 2)
    assert database.discarded == [2]
    assert [database[key].attempts for key in (1, 3)] == [1, 1]
    assert set(database.failures) == {2}


@virtual
async def test_a_key_to_cancel_that_nobody_runs_is_forgotten() -> None:
    database = table(2)
    runner = Runner(database, do_all, settings())
    async with running(runner):
        await until(lambda: len(database.finished) == 2)
        database.sessions[0].cancel_keys = ("1", "17")
        await asyncio.sleep(6)
        assert database.sessions[0].cancel_keys == ()
        assert runner._hold is not None and runner._hold.cancel_keys == set()
        database.reopen_row(1)
        await until(lambda: database.finished == [1, 2, 1])


# A database that is away ------------------------------------------------------------------------------------


@virtual
async def test_errors_at_the_start_are_waited_out_with_a_back_off() -> None:
    database = table(1)
    database.fail("start_session")
    async with running(Runner(database, do_all, settings())) as run:
        await asyncio.sleep(120)
        assert not run.done()
        assert 12 <= database.count("start_session") <= 60
        gaps = [
            b - a
            for a, b in zip(
                database.times("start_session"), database.times("start_session")[1:], strict=False
            )
        ]
        assert max(gaps) <= 10.1
        database.heal()
        await until(lambda: database.finished, within=11)


@virtual
async def test_a_start_that_hangs_is_given_up_and_tried_again() -> None:
    database = table(1)
    database.hang("start_session", times=2)
    async with running(Runner(database, do_all, settings())):
        await until(lambda: database.finished, within=20)
    assert database.count("start_session") == 3


@virtual
async def test_a_start_whose_answer_is_lost_leaves_a_session_that_holds_nothing() -> None:
    database = table(1)
    database.fail("start_session", times=1, committed=True)
    async with running(Runner(database, do_all, settings())):
        await until(lambda: database.finished, within=20)
        assert [session.ended for session in database.sessions] == [False, False]
        assert database.finished == [1]


@virtual
async def test_errors_of_looks_are_waited_out_with_a_back_off() -> None:
    database, tasker = table(5), Sleeper(0.2)
    database.fail("get_work", skip=1)
    async with running(
        Runner(database, tasker, settings(batch_size=1, concurrency=1, tasks_per_session=2))
    ) as run:
        await until(lambda: len(database.finished) == 2)
        await asyncio.sleep(60)
        assert not run.done()
        assert 6 <= database.count("get_work") <= 40
        database.heal()
        await until(lambda: len(database.finished) == 5, within=15)
    assert len(database.sessions) == 1  # keepalives went through


@virtual
async def test_room_that_comes_free_while_looks_fail_does_not_shorten_the_back_off() -> None:
    database = table(60)
    database.fail("get_work", skip=1)
    async with running(Runner(database, each(a_little), settings(concurrency=1, tasks_per_session=50))):
        await until(lambda: len(database.finished) == 50, within=60)
        assert database.count("get_work") <= 12


async def a_little(_: Any) -> None:
    await asyncio.sleep(0.1)


@virtual
async def test_a_claim_whose_answer_is_lost_is_claimed_again_by_the_same_session() -> None:
    database = table(3)
    database.fail("get_work", times=1, committed=True)
    async with running(Runner(database, do_all, settings())):
        await until(lambda: len(database.finished) == 3, within=15)
    assert [row.attempts for row in database._tasks.values()] == [1, 1, 1]
    assert [row.token for row in database._tasks.values()] == [2, 2, 2]
    assert len(database.sessions) == 1


@virtual
async def test_outcomes_are_recorded_again_and_again_until_the_database_is_back() -> None:
    database = table(3)
    fault = database.fail("finish_tasks")
    async with running(Runner(database, do_all, settings())) as run:
        await asyncio.sleep(20)
        assert not run.done()
        assert 8 <= database.count("finish_tasks") <= 30
        fault.heal()
        await until(lambda: len(database.finished) == 3, within=4)
    assert [row.attempts for row in database._tasks.values()] == [1, 1, 1]
    assert database.failures == {}


@virtual
async def test_outcomes_are_tried_until_the_local_deadline_and_not_longer() -> None:
    database = table(1)
    async with running(Runner(database, do_all, settings(shutdown_timeout=60))):
        for verb in ("finish_tasks", "bump_session"):
            database.fail(verb)
        await asyncio.sleep(0.5)  # the last good answer is that of the first looks
        database.fail("get_work")
        await until(lambda: database.count("start_session") == 2, within=60)
        tries = database.times("finish_tasks")
        assert 27 < tries[-1] < 30
        database.heal()
        await until(lambda: database.finished, within=60)


@virtual
async def test_a_finish_whose_answer_is_lost_is_asked_again_and_is_already_ours() -> None:
    database = table(3)
    database.fail("finish_tasks", times=1, committed=True)
    async with running(Runner(database, do_all, settings())):
        await until(lambda: database.count("finish_tasks") == 2)
        await asyncio.sleep(1)
    assert sorted(database.finished) == [1, 2, 3]
    assert database.count("finish_tasks") == 2


@virtual
async def test_a_release_that_fails_does_not_repeat_the_finish_beside_it() -> None:
    database = table(4)
    database.fail("release_tasks", times=3)

    async def tasker(batch: Any) -> Any:
        return [task for task in batch if task.key < 3 or task.attempt > 1]

    async with running(Runner(database, tasker, settings())):
        await until(lambda: len(database.finished) == 4)
    assert [len(call["args"][1]) for call in database.arguments("finish_tasks")][0] == 2
    finishes = [claim.key for call in database.arguments("finish_tasks") for claim in call["args"][1]]
    assert sorted(finishes) == [1, 2, 3, 4]


@virtual
async def test_a_locked_row_is_asked_for_again_and_holds_up_none_of_the_others() -> None:
    database = table(30)
    with database.lock(1):
        database.inner._tasks[1].locked_by = None  # claimable still
        async with running(Runner(database, each(a_little), settings(concurrency=2))):
            await until(lambda: database[1].attempts)
            with database.lock(1):
                done = await until(lambda: len(database.finished) == 29, within=20)
                assert done < 2.5
                assert database.count("finish_tasks") < 100
                await asyncio.sleep(3)
                assert database[1].session_id == 1
            await until(lambda: len(database.finished) == 30, within=1)
    assert database.failures == {}


@virtual
async def test_a_row_that_refuses_its_finish_has_failed_alone() -> None:
    database = table(100, refuse=lambda key, data: "violates a check" if key == 50 else None)
    async with running(Runner(database, do_all, settings())):
        await until(lambda: len(database.finished) == 99, within=1)
        await asyncio.sleep(0.3)
        assert [failure.error for failure in database.failures[50]] == [
            "finish was refused: violates a check"
        ]
        assert database[50].session_id is None
        assert set(database.failures) == {50}


@virtual
async def test_a_row_that_refuses_its_discard_is_parked() -> None:
    database = table(1, refuse_discard=lambda key, data: "kept")

    async def tasker(batch: Any) -> Any:
        batch.discard(batch[0], "useless")
        return ()

    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.parked == [1])
    assert database.failures[1][0].error == "discard was refused: kept; useless"


@pytest.mark.fault("D22")
@virtual
async def test_rows_closed_or_removed_by_the_application_are_let_go() -> None:
    database, tasker = table(3), Sleeper(1)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: tasker.begun)
        database.close_row(1)
        database.remove_row(2)
        await until(lambda: database.finished)
        await asyncio.sleep(1)
    assert database.finished == [3]
    assert_free(database)


# What only a person can mend -----------------------------------------------------------------------------------


PERSON = [
    pytest.param(lambda: __import__("session_lock").SchemaError("run this"), id="schema"),
    pytest.param(lambda: DatabaseError("no such database", retryable=False), id="database"),
    pytest.param(lambda: KeyError("a database that breaks its contract"), id="contract"),
]


@pytest.mark.parametrize(
    "verb", ["start_session", "get_work", "bump_session", "finish_tasks", "release_tasks"]
)
@pytest.mark.parametrize("make", PERSON)
@virtual
async def test_what_only_a_person_can_mend_ends_run_after_the_drain_with_that_one_error(
    verb: str, make: Any
) -> None:
    database, error = table(4), make()

    async def tasker(task: Any) -> Any:
        await asyncio.sleep(8 if task.key == 1 else 0.1)
        if task.key == 3:
            raise LookupError

    database.fail(verb, error, skip=1 if verb == "get_work" else 0)
    with pytest.raises(type(error)) as raised:
        await Runner(database, each(tasker), settings(concurrency=4)).run()
    assert raised.value is error
    if verb == "start_session":
        assert database.sessions == []
        return
    assert_free(database)
    if verb in {"get_work", "bump_session", "release_tasks"}:
        assert sorted(database.finished) == [1, 2, 4]  # the drain let the long one end, and it was recorded
        # what cannot be given back is tried on for as long as the shutdown may take: it may have been passing
        assert 7.9 < now() < 8.2 + (5 if verb == "release_tasks" else 0)


@virtual
async def test_such_an_error_while_stopping_is_raised_too() -> None:
    database, tasker = table(1), Sleeper(2)
    error = DatabaseError("no rights", retryable=False)
    database.fail("finish_tasks", error)
    runner = Runner(database, tasker, settings())
    run = asyncio.create_task(runner.run())
    await until(lambda: tasker.begun)
    runner.stop()
    with pytest.raises(DatabaseError, match="no rights"):
        await run
    assert_free(database)


@virtual
async def test_such_an_error_while_being_cancelled_is_logged(caplog: Any) -> None:
    database, tasker = table(1), Sleeper(2)
    database.fail("finish_tasks", DatabaseError("no rights", retryable=False))
    run = asyncio.create_task(Runner(database, tasker, settings()).run())
    await until(lambda: tasker.begun)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert "a Runner that was being cancelled failed: DatabaseError: no rights" in caplog.text


@virtual
async def test_an_error_that_cannot_be_stored_gives_its_task_back_without_it() -> None:
    database = table(1)
    inner = database.inner.release_tasks

    async def release_tasks(lease: Any, handbacks: Any, **wake: Any) -> Any:
        if any(each.error and "€" in each.error for each in handbacks):
            return [Settled(each.claim.key, Outcome.REFUSED, "no such character") for each in handbacks]
        return await inner(lease, handbacks)

    database.inner.release_tasks = release_tasks

    async def tasker(batch: Any) -> Any:
        if batch[0].attempt == 1:
            raise ValueError("price in €")
        return batch

    async with running(Runner(database, tasker, settings())):
        await until(lambda: database.finished == [1], within=20)


@virtual
async def test_a_transaction_that_never_gets_a_connection_is_given_up_with_the_lease() -> None:
    database = table(1)
    raised: list[BaseException] = []

    @asynccontextmanager
    async def never(*_: Any) -> Any:
        await asyncio.get_running_loop().create_future()
        yield

    async def tasker(batch: Any) -> Any:
        try:
            async with batch.transaction():
                pass
        except DatabaseError as error:
            raised.append(error)
        return ()

    database.inner.transaction = never
    async with running(Runner(database, tasker, settings())):
        await until(lambda: raised, within=40)
    assert "no finishing transaction could be opened" in str(raised[0])


@virtual
async def test_a_verdict_on_a_row_says_nothing_of_one_that_was_put_in_anew_under_its_key() -> None:
    database = table(1)
    tokens: list[int] = []

    async def replaced(task: Any) -> None:
        tokens.append(task.token)
        if len(tokens) > 1:
            raise LookupError
        database.remove_row(1)
        database.add(1, "again")
        await until(lambda: len(tokens) > 1)

    async with running(Runner(database, each(replaced), settings(concurrency=2, retry=Retry(delay=100)))):
        await until(lambda: 1 in database.failures)
        await asyncio.sleep(1)
    assert (database.finished, tokens) == ([], [1, 2])
