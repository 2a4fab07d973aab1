"""What `MemoryDatabase` has beyond the contract: its view for tests, and that a call may be cancelled at any moment."""

from __future__ import annotations

import asyncio
import math

import pytest

from session_lock.database import Handback, Outcome
from session_lock.errors import DatabaseError, RowRefusedError, SettingsError, TaskLost
from session_lock.testing import MemoryDatabase, MemoryTransaction, run_virtual

SESSION = {"capacity": 10, "ttl": 30.0, "label": "test", "app_version": "1"}


def test_the_view_of_the_table():
    database = MemoryDatabase({1: "done", 2: "bad", 3: "parked", 4: "waits", 5: "closed", 6: "opened"})

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        claims = {task.claim.key: task.claim for task in (await database.get_work(lease, limit=10)).tasks}
        await database.finish_tasks(lease, [claims[6], claims[1]])
        handbacks = [
            Handback(claims[2], discard=True, error="no such address"),
            Handback(claims[3], after=math.inf),
            Handback(claims[4], after=60),
        ]
        await database.release_tasks(lease, handbacks)
        database.close_row(5)
        database.reopen_row(6)
        database.add(7, "due in a minute", after=30)
        database.add(8, "due since ever", available_at=-math.inf)

    run_virtual(main())
    assert database.finished == [6, 1]
    assert database.discarded == [2]
    assert database.parked == [3]
    assert database.pending == [6, 8, 7, 4]
    assert {key: [each.error for each in failures] for key, failures in database.failures.items()} == {
        2: ["no such address"]
    }
    assert [(session.id, session.label, session.ended) for session in database.sessions] == [
        (1, "test", False)
    ]
    assert database[1].session_id is None


def test_rows_may_be_pairs():
    assert MemoryDatabase([(2, "b"), (1, "a")]).pending == [1, 2]


@pytest.mark.parametrize("rows", [[1, 2], "ab", ["ab"], [(1, "a", "b")], 7, None, ["ab", (1, "a")]])
def test_rows_that_are_no_pairs(rows):
    with pytest.raises(
        SettingsError, match=r"keys and data: {1: data, 2: data}, or \[\(1, data\), \(2, data\)\]"
    ):
        MemoryDatabase(rows)


def test_a_key_is_there_once():
    database = MemoryDatabase({1: "a"})
    with pytest.raises(ValueError, match="task 1 already"):
        database.add(1, "b")


def test_a_due_time_needs_a_clock():
    with pytest.raises(RuntimeError):
        MemoryDatabase().add(1, "a", after=5)


def test_leases_run_out_in_virtual_time():
    database = MemoryDatabase({1: "a"})

    async def main() -> None:
        dead = await database.start_session(**SESSION)
        await database.get_work(dead, limit=1)
        live = await database.start_session(**(SESSION | {"ttl": 600.0}))
        await asyncio.sleep(29)
        assert not (await database.get_work(live, limit=1, over_share=True)).tasks
        await asyncio.sleep(2)
        (task,) = (await database.get_work(live, limit=1, over_share=True)).tasks
        assert (task.attempt, task.data) == (2, "a")

    run_virtual(main())


def test_a_row_locked_for_ever_keeps_a_transaction_no_longer_than_its_lease():
    database = MemoryDatabase({1: "a"})

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        (task,) = (await database.get_work(lease, limit=1)).tasks
        with database.lock(1), pytest.raises(Exception, match="not live"):
            async with database.transaction(lease, [task.claim]):
                pytest.fail("it was entered")

    run_virtual(main())


def test_a_session_in_an_open_transaction_is_not_waited_for_for_ever():
    database = MemoryDatabase({1: "a"})

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        (task,) = (await database.get_work(lease, limit=1)).tasks
        async with database.transaction(lease, [task.claim]):
            with pytest.raises(DatabaseError, match="open transaction"):
                await database.end_session(lease, [])

    run_virtual(main())
    assert database.finished == [1]


def test_a_refusal_has_the_words_of_its_hook():
    database = MemoryDatabase({1: "good", 2: "bad"}, refuse=lambda _, data: "no" if data == "bad" else None)

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        claims = [task.claim for task in (await database.get_work(lease, limit=2)).tasks]
        settled = await database.finish_tasks(lease, claims)
        assert [(each.outcome, each.error) for each in settled] == [
            (Outcome.FINISHED, None),
            (Outcome.REFUSED, "no"),
        ]
        with pytest.raises(RowRefusedError, match="no"):
            await database.finish_in(MemoryTransaction(), lease, claims[1:])

    run_virtual(main())


def test_an_abandoned_transaction_object_locks_nothing_that_it_did_not_get():
    database = MemoryDatabase({1: "a", 2: "b"})

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        claims = [task.claim for task in (await database.get_work(lease, limit=2)).tasks]
        database.close_row(2)
        with pytest.raises(TaskLost):
            await database.finish_in(MemoryTransaction(), lease, claims)
        assert [each.outcome for each in await database.finish_tasks(lease, claims)] == [
            Outcome.FINISHED,
            Outcome.LOST,
        ]

    run_virtual(main())


# Cancellation: before the effect, or after it (the answer is lost) -----------------------------------------


async def cancelled_after(turns: int, call) -> None:
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(("turns", "happened"), [(1, False), (2, True)])
@pytest.mark.parametrize(
    "verb", ["start_session", "bump_session", "get_work", "finish_tasks", "release_tasks", "end_session"]
)
def test_a_call_may_be_cancelled_before_and_after_it_took_effect(verb: str, turns: int, happened: bool):
    database = MemoryDatabase({1: "a", 2: "b"})

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        claims = [task.claim for task in (await database.get_work(lease, limit=1)).tasks]
        call, effect = {
            "start_session": (lambda: database.start_session(**SESSION), lambda: len(database.sessions) == 2),
            "bump_session": (
                lambda: database.bump_session(lease, ttl=60, draining=True),
                lambda: database.sessions[0].draining,
            ),
            "get_work": (
                lambda: database.get_work(lease, limit=1, held=[1]),
                lambda: database[2].session_id == lease.id,
            ),
            "finish_tasks": (lambda: database.finish_tasks(lease, claims), lambda: database.finished == [1]),
            "release_tasks": (
                lambda: database.release_tasks(lease, [Handback(claims[0])]),
                lambda: database[1].session_id is None,
            ),
            "end_session": (lambda: database.end_session(lease, claims), lambda: database.sessions[0].ended),
        }[verb]
        await cancelled_after(turns, call())
        assert effect() is happened

    run_virtual(main())


@pytest.mark.parametrize(("turns", "happened"), [(1, False), (4, True)])
def test_a_transaction_may_be_cancelled_before_and_after_its_commit(turns: int, happened: bool):
    database = MemoryDatabase({1: "a"})
    written: list[str] = []

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        claims = [task.claim for task in (await database.get_work(lease, limit=1)).tasks]

        async def send() -> None:
            async with database.transaction(lease, claims) as connection:
                connection.write(lambda: written.append("sent"))

        await cancelled_after(turns, send())
        assert (written == ["sent"]) is happened
        assert (database.finished == [1]) is happened
        assert not database[1].locked

    run_virtual(main())


def test_a_synchronous_tasker_has_a_transaction_too():
    """In a thread: on the loop's own it would wait for itself."""
    database = MemoryDatabase({1: "a", 2: "b"})
    written = []

    def write(lease, claims, error=None) -> None:
        with MemoryTransaction() as connection:
            database.finish_in_sync(connection, lease, claims)
            connection.write(lambda: written.append([claim.key for claim in claims]))
            if error:
                raise error

    async def main() -> None:
        lease = await database.start_session(**SESSION)
        first, second = [task.claim for task in (await database.get_work(lease, limit=10)).tasks]
        await asyncio.to_thread(write, lease, [first])
        with pytest.raises(KeyError):
            await asyncio.to_thread(write, lease, [second], KeyError())
        with pytest.raises(TaskLost):
            await asyncio.to_thread(write, lease, [first, second])
        with pytest.raises(SettingsError, match="await finish_in"):
            write(lease, [second])

    run_virtual(main())
    assert database.finished == [1]
    assert database.pending == [2]
    assert written == [[1]]
