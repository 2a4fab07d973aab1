"""finish_in and transaction: what is written and the finish take place together, or not at all."""

from __future__ import annotations

import asyncio

import pytest

from session_lock import PostgresDatabase
from session_lock.database import Outcome
from session_lock.errors import DatabaseError, RowRefusedError, SessionLost, TaskLost
from tests.support import EMAILS

from .conftest import FORBIDDEN, Suite, is_waiting, keys


class OwnError(Exception):
    pass


@pytest.fixture(params=["transaction", "finish_in"])
def open_(request: pytest.FixtureRequest, suite: Suite):
    """Both ways to a finishing transaction: the database's own connection, or the caller's."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def own(lease, claims):
        async with suite.begin() as connection:
            await suite.database.finish_in(connection, lease, claims)
            yield connection

    return suite.database.transaction if request.param == "transaction" else own


async def test_a_commit_finishes_and_writes(suite: Suite, open_):
    added = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    async with open_(lease, claims) as connection:
        await suite.write(connection, "sent")
        assert [await suite.status(key) for key in added] == ["pending", "pending"]
        assert await suite.written() == []
    assert [await suite.status(key) for key in added] == ["finished", "finished"]
    assert await suite.written() == ["sent"]
    assert (await suite.row(added[0])).session_id is None
    assert await suite.finish(lease, *claims) == [Outcome.ALREADY_YOURS] * 2


async def test_a_rollback_takes_both_back(suite: Suite, open_):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    with pytest.raises(OwnError):
        async with open_(lease, [claim]) as connection:
            await suite.write(connection, "sent")
            raise OwnError
    row = await suite.row(key)
    assert (row.status, row.session_id) == ("pending", lease.id)
    assert await suite.written() == []
    assert await suite.finish(lease, claim) is Outcome.FINISHED


async def test_all_or_none_if_one_is_lost(suite: Suite, open_):
    mine, closed = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.close(closed)
    with pytest.raises(TaskLost):
        async with open_(lease, claims) as connection:
            await suite.write(connection, "never")
    assert await suite.status(mine) == "pending"
    assert await suite.written() == []


@pytest.mark.parametrize("loss", ["stale", "finished", "gone", "another's"])
async def test_a_task_that_is_not_held_is_lost(suite: Suite, open_, loss: str):
    (key,) = await suite.add()
    lease, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(lease)
    match loss:
        case "stale":
            await suite.claim(lease)
        case "finished":
            await suite.finish(lease, claim)
        case "gone":
            await suite.remove(key)
        case _:
            lease = other
    with pytest.raises(TaskLost):
        async with open_(lease, [claim]):
            pytest.fail("it was entered")


async def test_an_error_that_the_caller_swallows_commits_nothing(suite: Suite):
    mine, closed = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.close(closed)
    async with suite.begin() as connection:
        await suite.write(connection, "never")
        with pytest.raises(TaskLost):
            await suite.database.finish_in(connection, lease, claims)
    assert await suite.written() == []
    assert await suite.status(mine) == "pending"


async def test_and_is_told_so_at_the_end_of_the_block(suite: Suite):
    mine, closed = await suite.add(2)
    lease = await suite.start()
    first, second = await suite.claim(lease)
    await suite.close(closed)
    with pytest.raises(DatabaseError, match="was not committed"):
        async with suite.database.transaction(lease, [first]) as connection:
            with pytest.raises(TaskLost):
                await suite.database.finish_in(connection, lease, [second])
    row = await suite.row(mine)
    assert (row.status, row.session_id) == ("pending", lease.id)


async def test_a_task_is_finished_once_in_a_transaction(suite: Suite, open_):
    await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    with pytest.raises(TaskLost):
        async with open_(lease, [claim]) as connection:
            await suite.database.finish_in(connection, lease, [claim])


async def test_several_finishes_in_one_transaction(suite: Suite):
    added = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    async with suite.begin() as connection:
        for claim in claims:
            await suite.database.finish_in(connection, lease, [claim])
    assert [await suite.status(key) for key in added] == ["finished", "finished"]


async def test_a_row_that_refuses_undoes_the_transaction(suite: Suite, open_):
    (key,) = await suite.add(address=FORBIDDEN)
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    with pytest.raises(RowRefusedError):
        async with open_(lease, [claim]):
            pytest.fail("it was entered")
    row = await suite.row(key)
    assert (row.status, row.session_id) == ("pending", lease.id)


async def test_its_rows_are_locked_for_others(suite: Suite, open_):
    mine, other = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    async with open_(lease, claims[:1]):
        assert await suite.finish(lease, *claims) == [Outcome.LOCKED, Outcome.FINISHED]
        assert keys(await suite.work(lease)) == []  # not even for the session that does not know it
    assert await suite.status(mine) == "finished"


async def test_its_session_is_not_ended_beneath_it(suite: Suite, open_):
    (key,) = await suite.add()
    lease, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(lease)
    async with open_(lease, [claim]):
        await suite.expire(lease)
        assert keys(await suite.work(other)) == []
        assert not (await suite.session(lease)).ended
    assert await suite.status(key) == "finished"


async def test_to_end_a_session_is_to_wait_for_its_transactions(suite: Suite, open_):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    async with open_(lease, claims):
        end = asyncio.create_task(suite.end(lease, *claims))
        assert await is_waiting(end)
    await end
    assert (await suite.session(lease)).ended
    assert await suite.status(key) == "finished"


async def test_it_waits_for_a_row_that_somebody_has_locked(suite: Suite, open_):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)

    async def finish() -> None:
        async with open_(lease, claims):
            pass

    async with suite.lock(key):
        task = asyncio.create_task(finish())
        assert await is_waiting(task)
    await task
    assert await suite.status(key) == "finished"


async def test_a_transaction_open_for_longer_than_the_lease_keeps_nothing(suite: Suite):
    (key,) = await suite.add()
    lease, other = await suite.start(), await suite.start()
    claims = await suite.claim(lease)
    async with suite.database.transaction(lease, []):
        pass  # its connection is open now
    await suite.expire(lease, after=0.15)
    with pytest.raises(DatabaseError):
        async with suite.database.transaction(lease, claims) as connection:
            await suite.write(connection, "never")
            async with asyncio.timeout(5):
                while not (taken := keys(await suite.work(other))):
                    await asyncio.sleep(0.05)
    assert taken == [key]
    assert await suite.written() == []
    assert (await suite.row(key)).session_id == other.id


async def test_a_keepalive_goes_through_beside_an_open_transaction(suite: Suite, open_):
    await suite.add()
    lease = await suite.start(ttl=30)
    claims = await suite.claim(lease)
    async with open_(lease, claims):
        assert (await asyncio.wait_for(suite.bump(lease, ttl=60), 1)).left == pytest.approx(60, abs=1)


async def test_a_lost_session_is_told_as_such_and_not_as_a_lost_task(suite: Suite, open_):
    await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.expire(lease)
    with pytest.raises(SessionLost):
        async with open_(lease, claims):
            pytest.fail("it was entered")


async def test_a_connect_of_the_users_that_fails_is_a_database_that_is_away() -> None:
    async def connect() -> None:
        raise RuntimeError("the service for credentials is down")

    async with PostgresDatabase(connect, EMAILS) as database:
        with pytest.raises(DatabaseError, match="connect\\(\\) failed: RuntimeError") as caught:
            await database.identity()
    assert caught.value.retryable
