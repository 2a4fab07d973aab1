"""What can happen to an instance, seen to happen, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from session_lock import TaskLost
from session_lock.testing import AT_FINISH, assert_each_once

from .conftest import QUICK, Stage

KEYS = [1, 2, 3]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


# At the worst moment -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", AT_FINISH)
def test_an_effect_outside_takes_place_twice(act: Any, fault: str) -> None:
    """Which is the bug that the kit is there to find. A reply that is lost does not bring it about: it is asked again."""

    async def play(stage: Stage) -> None:
        async with stage.instance(stage.outside) as first:
            AT_FINISH[fault](first)
            await stage.faults.until_all_happened()
            async with stage.instance(stage.outside):
                await stage.faults.until_finished(KEYS)
        stage.faults.assert_each_finished_once(KEYS)
        if fault == "reply-lost":
            assert_each_once(KEYS, stage.sent)
        else:
            with pytest.raises(AssertionError, match=r"^not one effect for each task: \d: 2"):
                assert_each_once(KEYS, stage.sent)

    act(play)


@pytest.mark.parametrize("fault", AT_FINISH)
def test_an_effect_in_the_finishing_transaction_takes_place_once(act: Any, fault: str) -> None:
    async def play(stage: Stage) -> None:
        async with stage.instance(stage.inside) as first:
            AT_FINISH[fault](first)
            await stage.faults.until_all_happened()
            async with stage.instance(stage.inside) as second:
                await stage.faults.until_finished(KEYS)
        stage.faults.assert_each_finished_once(KEYS)
        assert_each_once(KEYS, await stage.written())
        if fault == "reply-lost":  # the commit's: nothing is done again
            assert first.count("transaction") + second.count("transaction") == 3

    act(play)


# At any other --------------------------------------------------------------------------------------------


class Slow:
    """A tasker that takes as long as the test wants, and notes what becomes of it."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.notes: list[Any] = []

    async def __call__(self, task: Any) -> None:
        self.notes.append(("begun", task.attempt))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        self.notes.append("done")


def test_an_expired_session_loses_its_tasks_at_once_and_its_tasker_is_cancelled(act: Any) -> None:
    async def play(stage: Stage) -> None:
        slow, loop = Slow(), asyncio.get_running_loop()
        async with stage.instance(slow) as first:
            await until(lambda: slow.notes)
            async with stage.instance(stage.outside):
                before, lease = loop.time(), first.lease
                await first.expire()
                await stage.faults.until_finished([1])
                assert loop.time() - before < 2  # the lease would have lasted longer
                await until(lambda: slow.notes == [("begun", 1), "cancelled"])
                await until(lambda: first.lease is not lease)

    act(play, 1)


def test_a_frozen_instance_stands_still_and_what_it_has_done_when_it_thaws_is_refused(act: Any) -> None:
    async def play(stage: Stage) -> None:
        slow = Slow()
        held: list[Any] = []

        async def tasker(task: Any) -> None:
            await slow(task)
            try:
                task.assert_held()
            except Exception as error:
                held.append(error)
                raise

        async with stage.instance(tasker) as first:
            await until(lambda: slow.notes)
            first.freeze()
            await asyncio.sleep(0)
            calls = len(first.calls)
            slow.go.set()
            async with stage.instance(stage.outside):
                await stage.faults.until_finished([1])
            await asyncio.sleep(0.5)
            assert len(first.calls) == calls
            assert slow.notes == [("begun", 1)]
            first.thaw()
            await until(lambda: slow.notes == [("begun", 1), "done"])
            await until(lambda: len(first.calls) > calls)
        assert not any(isinstance(error, TaskLost) for error in held)
        assert len(held) == 1  # it was too late, and could tell
        assert stage.sent == [1]
        stage.faults.assert_each_finished_once([1])

    act(play, 1)


def test_keepalives_in_a_thread_stand_still_with_their_instance(act: Any) -> None:
    async def play(stage: Stage) -> None:
        slow = Slow()
        async with stage.instance(slow, replace(QUICK, keepalive="thread")) as first:
            await until(lambda: slow.notes)
            first.freeze()
            async with stage.instance(stage.outside):
                await stage.faults.until_finished([1], within=20)
        assert stage.sent == [1]

    act(play, 1)


def test_one_that_thaws_in_time_goes_on_as_if_nothing_had_been(act: Any) -> None:
    async def play(stage: Stage) -> None:
        slow = Slow()
        async with stage.instance(slow) as first:
            await until(lambda: slow.notes)
            first.freeze()
            slow.go.set()
            await asyncio.sleep(0.3)
            assert slow.notes == [("begun", 1)]
            first.thaw()
            await stage.faults.until_finished([1])
            assert slow.notes == [("begun", 1), "done"]
            assert first.count("start_session") == 1

    act(play, 1)


@pytest.mark.fault("N6")
def test_who_is_partitioned_is_cancelled_before_others_begin_and_comes_back_when_it_heals(act: Any) -> None:
    async def play(stage: Stage) -> None:
        slow = Slow()

        async def other(task: Any) -> None:
            assert slow.notes[-1] == "cancelled"
            await stage.outside(task)

        async with stage.instance(slow) as first:
            await until(lambda: slow.notes)
            first.partition()
            first.partition()  # twice is once
            async with stage.instance(other):
                await stage.faults.until_finished([1])
            lease = first.lease
            first.heal()
            await until(lambda: first.lease is not lease)
        assert stage.sent == [1]

    act(play, 1)


def test_who_is_killed_is_gone_and_says_no_word_more(act: Any) -> None:
    async def play(stage: Stage) -> None:
        slow = Slow()
        async with stage.instance(slow) as first:
            await until(lambda: slow.notes)
            first.kill()
            first.kill()
            await until(lambda: all(task.done() for task in first._freezer.tasks))
            calls = len(first.calls)
            assert slow.notes == [("begun", 1), "cancelled"]
            async with stage.instance(stage.outside) as second:
                await asyncio.sleep(0.5)
                assert stage.sent == []  # the lease has to run out
                await stage.faults.until_finished([1])
                assert second.count("finish") == 1
            assert len(first.calls) == calls

    act(play, 1)


def test_a_claim_whose_reply_is_lost_is_had_at_the_next_look(act: Any) -> None:
    async def play(stage: Stage) -> None:
        attempts: list[int] = []

        async def tasker(task: Any) -> None:
            attempts.append(task.attempt)

        async with stage.instance(tasker) as first:
            first.lose_reply("get_work")
            await stage.faults.until_finished(KEYS)
        assert attempts == [1, 1, 1]
        stage.faults.assert_all_happened()

    act(play)


def test_a_commit_whose_reply_is_lost_has_taken_place(act: Any) -> None:
    async def play(stage: Stage) -> None:
        async with stage.instance(stage.inside) as first:
            first.lose_reply("commit", times=2)
            await stage.faults.until_finished(KEYS)
            await until(
                lambda: first.count("release_tasks")
            )  # the tasker has seen an error: it could not know
        assert_each_once(KEYS, await stage.written())
        stage.faults.assert_each_finished_once(KEYS)

    act(play)


def test_a_commit_that_fails_takes_all_of_it_back(act: Any) -> None:
    async def play(stage: Stage) -> None:
        async with stage.instance(stage.inside) as first:
            first.fail("commit", times=1)
            await until(lambda: first.count("commit"))
            await stage.faults.until_finished(KEYS)
            assert first.count("commit") == 4
        assert_each_once(KEYS, await stage.written())

    act(play)


@pytest.mark.fault("N2", "N4")
def test_a_call_that_is_delayed_takes_longer_and_one_that_hangs_is_given_up(act: Any) -> None:
    async def play(stage: Stage) -> None:
        async with stage.instance(stage.outside) as first:
            first.delay("finish", 0.5, times=1)
            hung = first.hang("finish", skip=1)
            await until(lambda: first.count("finish") >= 2)
            made = [
                call.at
                for call in first.calls
                if call.verb == "finish_tasks" or call.arguments.get("finished")
            ]
            assert made[1] - made[0] >= 0.5
            await until(lambda: first.count("finish") > len(made))
            hung.heal()
            await stage.faults.until_finished(KEYS)
        stage.faults.assert_each_finished_once(KEYS)

    act(play)
