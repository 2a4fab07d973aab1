"""Many at once, much of it, and long-open snapshots: no deadlock, and no call that grows with what is there."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from session_lock import DatabaseError, PostgresDatabase, Runner, SessionLost, TaskLost, each
from session_lock.connections import DRIVER_ERRORS
from session_lock.database import Claim, Handback
from session_lock.embedded import temp_postgres
from session_lock.session import Lease
from tests.chaos.recording import Injected
from tests.chaos.scene import AT_NIGHT, QUICK, Scene, scene_in
from tests.conftest import TestDatabase, prepare_template
from tests.support import EMAILS


def emails_of(scene: Scene) -> PostgresDatabase[Any]:
    return PostgresDatabase(scene.dsn, EMAILS, listen=False)


async def blocks(scene: Scene, lease: Lease, position: str | None) -> int:
    """That a claim of ten looks at; it is undone."""
    functions = await scene.ask("proname FROM pg_proc WHERE proname LIKE 'get_work_email%'")
    at = "NULL" if position is None else f"'{position}'"
    plan = (
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM session_lock.{functions}"
        f"({lease.id}, '{lease.nonce}', 10, '{{}}', {at}, NULL, true, NULL, '{{}}', '{{}}')"
    )
    for _ in range(2):  # the first one reads the catalog as well
        transaction = scene.admin.transaction()
        await transaction.start()
        try:
            (found,) = json.loads(await scene.admin.fetchval(plan))
        finally:
            await transaction.rollback()
    assert found["Plan"]["Actual Rows"] == 11
    return found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]


# Deadlocks ----------------------------------------------------------------------------------------------


@pytest.mark.fault("D12")
async def test_all_statements_in_any_order_of_rows_do_not_lock_each_other_out(
    scene: Scene, seed: int, injected: Injected
) -> None:
    """Sessions that do everything with tasks in orders of their own, and let each other's leases run out."""
    dice = random.Random(seed)
    await scene.set_for_role("deadlock_timeout", "10ms")  # before a lease's end can break it up
    calls = 2_000 if AT_NIGHT else 60
    await scene.add(20_000 if AT_NIGHT else 2_000)
    await scene.admin.execute(
        "ALTER TABLE email ADD touched integer; GRANT SELECT, UPDATE (touched) ON email TO app"
    )

    def shuffled(claims: Iterable[Claim]) -> list[Claim]:
        return sorted(claims, key=lambda _: dice.random())

    async def write(emails: PostgresDatabase[Any], lease: Lease, claims: list[Claim]) -> None:
        async with emails.transaction(lease, claims) as connection:
            for claim in shuffled(claims):
                await connection.execute("UPDATE email SET touched = 1 WHERE id = $1", claim.key)

    async def one(emails: PostgresDatabase[Any]) -> None:
        held: list[Claim] = []
        lease = None
        for _ in range(calls):
            some = shuffled(held)[: dice.randrange(1, 150)]
            try:
                if lease is None:
                    lease, held = await emails.start_session(capacity=300, ttl=dice.choice([0.3, 30])), []
                match dice.randrange(6):
                    case 0:
                        await emails.bump_session(lease, ttl=0.3, draining=False)
                    case 1:
                        await emails.finish_tasks(lease, some)
                    case 2:
                        await emails.release_tasks(lease, [Handback(claim) for claim in some])
                    case 3:
                        both = (write(emails, lease, shuffled(some)) for _ in range(2))
                        await asyncio.gather(*both, return_exceptions=True)
                    case 4 if dice.random() < 0.2:
                        await emails.end_session(lease, shuffled(held))
                        lease = None
                    case _:
                        known = [claim.key for claim in held]
                        work = await emails.get_work(
                            lease, limit=100, held=known, finished=some, over_share=True
                        )
                        held += [task.claim for task in work.tasks]
            except TaskLost:
                pass
            except (SessionLost, DatabaseError, *DRIVER_ERRORS):  # the lease's end ended a transaction
                lease = None
            gone = {claim.key for claim in some}
            held = [claim for claim in held if claim.key not in gone]

    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(emails_of(scene)) for _ in range(8)]
        async with asyncio.TaskGroup() as group:
            for database in databases:
                group.create_task(one(database))
    assert await scene.ask("deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    injected("D12", 8 * calls)


# What is left behind ------------------------------------------------------------------------------------


@pytest.mark.fault("D17")
async def test_claims_do_not_slow_down_while_an_old_snapshot_is_open(
    scene: Scene, database: TestDatabase
) -> None:
    """Each task leaves versions of its row that nobody may take away; at night of 10,000 tasks."""
    old = await asyncpg.connect(database.admin_dsn)
    await scene.add(10_100 if AT_NIGHT else 3_100)
    async with old.transaction(isolation="repeatable_read"), emails_of(scene) as emails:
        await old.fetch("SELECT count(*) FROM email")
        lease = await emails.start_session(capacity=100, ttl=3600)
        position, finished, costs = None, [], []
        for _ in range(100 if AT_NIGHT else 30):
            costs.append(await blocks(scene, lease, position))
            work = await emails.get_work(
                lease, limit=100, position=position, finished=finished, over_share=True
            )
            position, finished = work.position, [task.claim for task in work.tasks]
        await emails.finish_tasks(lease, finished)
        assert await old.fetchval("SELECT count(*) FROM email WHERE sent_at IS NULL") > len(costs) * 100
        await scene.admin.execute("VACUUM email")
        costs.append(await blocks(scene, lease, position))
    await old.close()
    # Each hundred leave a few pages of the index of held tasks behind, which a claim reads.
    assert max(costs) < 2 * max(costs[:3]) + 5 * len(costs), costs


class Watched:
    """The looks of one Runner: how many from the start, and how long those took on the server."""

    def __init__(self, emails: PostgresDatabase[Any]) -> None:
        self._look = emails.get_work
        emails.get_work = self.get_work  # type: ignore[method-assign]
        self.onward = self.from_start = 0
        self.walked = 0.0
        self.found: list[
            tuple[bool, float]
        ] = []  # by a look that ends at a position, and the seconds it took
        self.pieces: list[float] = []

    async def get_work(self, lease: Lease, **arguments: Any) -> Any:
        began = time.perf_counter()
        work = await self._look(lease, **arguments)
        took, piece = time.perf_counter() - began, arguments["until"] is not None
        self.pieces += [took] if piece else []
        self.found += [(piece, took)] if work.tasks else []
        if work.walked is None:
            self.onward += 1
        else:
            self.from_start += 1
            self.walked += work.walked
        return work


@pytest.mark.timeout(1800 if AT_NIGHT else 120)
@pytest.mark.fault("D17")
async def test_a_runner_with_little_to_do_does_not_walk_over_what_an_old_snapshot_keeps_and_finds_what_comes_before_it(
    scene: Scene, database: TestDatabase
) -> None:
    """Three million dead entries in front of its position (a twentieth by day); a look from the start walks over all of them."""
    dead = 3_000_000 if AT_NIGHT else 150_000
    await scene.admin.execute("ALTER TABLE email DISABLE TRIGGER note_finish")
    await scene.admin.execute("INSERT INTO email (address) SELECT 'a' FROM generate_series(1, $1::int)", dead)
    await scene.admin.execute("VACUUM ANALYZE email")
    old = await asyncpg.connect(database.admin_dsn)
    async with old.transaction(isolation="repeatable_read"), emails_of(scene) as emails:
        await old.fetch("SELECT count(*) FROM email")
        await scene.admin.execute("UPDATE email SET sent_at = now()", timeout=600)
        looks = Watched(emails)
        async with Runner(
            emails, each(scene.send), replace(QUICK, call_timeout=30, lease_ttl=100, concurrency=8)
        ):
            last = 0
            for _ in range(30):
                (last,) = await scene.add(1)
                await scene.until(f"sent_at IS NOT NULL FROM email WHERE id = {last}")
            began, onward, from_start, walked = (
                asyncio.get_running_loop().time(),
                looks.onward,
                looks.from_start,
                looks.walked,
            )
            for _ in range(80):
                (last,) = await scene.add(1)
                await scene.until(f"sent_at IS NOT NULL FROM email WHERE id = {last}")
            await scene.admin.execute("UPDATE email SET sent_at = NULL WHERE id = 1")  # before all positions
            await scene.until("sent_at IS NOT NULL FROM email WHERE id = 1")
            took = asyncio.get_running_loop().time() - began
            print(f"{looks.onward - onward} from a position, {looks.from_start - from_start} from the start")
            print(
                f"{looks.walked - walked:.2f} of {took:.2f} s walked, {looks.walked / looks.from_start:.3f} s a walk"
            )
            assert looks.onward - onward > looks.from_start - from_start
            assert looks.walked - walked < 0.2 * took  # 0.05, and what the last walk takes
            took = await find_all_that_comes_late(scene, emails, database)
            print(f"{took:.2f} s until what had come late was found")
            assert took < 60 + 20 * looks.walked / looks.from_start, "as docs/adr/0015 states it"
    await old.close()


async def find_all_that_comes_late(
    scene: Scene, emails: PostgresDatabase[Any], database: TestDatabase
) -> float:
    """Far before the position, and a task that is committed late: how long until all of it is done."""
    mortal, giver = [await emails.start_session(capacity=1, ttl=ttl) for ttl in (1, 100)]
    late = await asyncpg.connect(database.admin_dsn)
    async with late.transaction():
        committed_late = await late.fetchval("INSERT INTO email (address) VALUES ('a') RETURNING id")
        (last,) = await scene.add(1)
        await scene.until(f"sent_at IS NOT NULL FROM email WHERE id = {last}")
    for key, columns in {
        2: "session_id = NULL",  # opened again
        3: f"session_id = {mortal.id}, claim_token = 1",  # of a session that dies
        4: f"session_id = {giver.id}, claim_token = 1",  # of one that gives it back
        5: "session_id = NULL, available_at = clock_timestamp() + interval '1 second'",  # a retry
    }.items():
        await scene.admin.execute(f"UPDATE email SET sent_at = NULL, {columns} WHERE id = {key}")
    (settled,) = await emails.release_tasks(giver, [Handback(Claim(4, 1))])
    assert settled.outcome == "released"
    began = asyncio.get_running_loop().time()
    await scene.until(f"bool_and(sent_at IS NOT NULL) FROM email WHERE id IN (2, 3, 4, 5, {committed_late})")
    await late.close()
    return asyncio.get_running_loop().time() - began


@pytest.mark.timeout(120)
@pytest.mark.fault("D17")
async def test_what_comes_to_stand_far_before_the_position_is_found_by_looks_through_pieces_of_what_an_old_snapshot_keeps(
    scene: Scene, database: TestDatabase
) -> None:
    """Where a look from the start takes long, and so is seldom."""
    await scene.admin.execute("ALTER TABLE email DISABLE TRIGGER note_finish")
    old = await asyncpg.connect(database.admin_dsn)
    async with old.transaction(isolation="repeatable_read"), emails_of(scene) as emails:
        await old.fetch("SELECT count(*) FROM email")
        looks = Watched(emails)
        async with Runner(emails, each(scene.send), replace(QUICK, call_timeout=30, lease_ttl=100)):
            for _ in range(12):  # so many positions, a second from each other
                await scene.admin.execute(
                    "INSERT INTO email (address) SELECT 'a' FROM generate_series(1, $1::int)", 15_000
                )
                await scene.admin.execute("UPDATE email SET sent_at = now() WHERE sent_at IS NULL")
                (last,) = await scene.add(1)
                await scene.until(f"sent_at IS NOT NULL FROM email WHERE id = {last}")
                await asyncio.sleep(1.1)
            await asyncio.sleep(10)  # a short look back sees no farther than these
            looks.found.clear()
            for number in range(10_000, 100_000, 18_000):
                await scene.admin.execute("UPDATE email SET sent_at = NULL WHERE id = $1", number)
                await scene.until(f"sent_at IS NOT NULL FROM email WHERE id = {number}")
            print(
                f"{looks.found}, {sorted(looks.pieces)[len(looks.pieces) // 2]:.4f} s a piece, {looks.walked / looks.from_start:.3f} s a walk"
            )
            assert len(looks.found) == 5
            assert sum(piece for piece, _ in looks.found) >= 3
    await old.close()


@pytest.mark.timeout(1800 if AT_NIGHT else 60)
@pytest.mark.fault("D27")
async def test_claims_do_not_slow_down_with_what_is_finished_and_what_is_pending(scene: Scene) -> None:
    """Ten million finished, and a million pending; by day a hundredth of both."""
    async with emails_of(scene) as emails:
        await scene.add(20)
        lease = await emails.start_session(capacity=100, ttl=3600)
        before = await blocks(scene, lease, None)
        finished, pending = (10_000_000, 1_000_000) if AT_NIGHT else (100_000, 10_000)
        await scene.admin.execute(
            "INSERT INTO email (address, sent_at) SELECT 'a', now() FROM generate_series(1, $1::int)",
            finished,
            timeout=1200,
        )
        await scene.admin.execute(
            "INSERT INTO email (address) SELECT 'a' FROM generate_series(1, $1::int)", pending, timeout=1200
        )
        await scene.admin.execute("VACUUM ANALYZE email", timeout=1200)
        assert await blocks(scene, lease, None) < 3 * before


@pytest.mark.fault("D18", "D19")
async def test_few_transactions_and_hardly_a_shared_lock_are_used_up() -> None:
    """Of the server's own counters, which it must not run out of: by ten sessions at once."""
    with temp_postgres() as server:
        await prepare_template(server.dsn)
        async with scene_in(server.dsn, server.dsn) as scene, AsyncExitStack() as stack:
            used = "SELECT next_xid, next_multixact_id::text, next_multi_offset::text::bigint FROM pg_control_checkpoint()"
            tasks = 20_000 if AT_NIGHT else 1_500

            async def tasker(batch: Any) -> Any:
                return batch

            for _ in range(10):
                # Few keepalives: how many there are says how long it takes, not what the tasks use.
                await stack.enter_async_context(
                    scene.running(batches=tasker, batch_size=50, lease_ttl=40, keepalive_interval=10)
                )
            await scene.until("count(*) = 10 FROM session_lock.session")
            await scene.admin.execute("CHECKPOINT")
            before = await scene.admin.fetchrow(used)
            await scene.add(tasks)
            await scene.until_finished()
            await scene.admin.execute("CHECKPOINT")
            after = await scene.admin.fetchrow(used)
            transactions, shared = (
                int(after[name].rpartition(":")[2]) - int(before[name].rpartition(":")[2])
                for name in ("next_xid", "next_multixact_id")
            )
            members = after["next_multi_offset"] - before["next_multi_offset"]
            print(f"{tasks} tasks: {transactions} transactions, {shared} shared locks of {members}")
            assert 10 * transactions < tasks
            assert 25 * shared < tasks
            assert members <= 4 * shared


# Thousands at once --------------------------------------------------------------------------------------


@pytest.mark.timeout(1800 if AT_NIGHT else 60)
@pytest.mark.fault("D28")
async def test_hundreds_of_sessions_begin_and_expire_at_once_over_fifty_connections(
    scene: Scene, injected: Injected
) -> None:
    """10,000 at night. Whoever comes after them has their tasks after a few looks, each of which ends some hundreds."""
    sessions, ttl = (10_000, 600) if AT_NIGHT else (500, 60)
    await scene.add(sessions)
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(emails_of(scene)) for _ in range(25)]

        async def begin(number: int) -> Lease:
            return await databases[number % 25].start_session(capacity=2, ttl=ttl)

        async def claim(number: int, lease: Lease) -> int:
            return len((await databases[number % 25].get_work(lease, limit=2)).tasks)

        leases = await asyncio.gather(*map(begin, range(sessions)))
        assert await scene.sessions() == (sessions, sessions)
        claimed = await asyncio.gather(*map(claim, range(sessions), leases))
        assert {*claimed} == {1}, "each has its share"
        assert (
            await scene.ask(
                "count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()"
            )
            <= 50
        )

        await scene.set_clock(f"clock_timestamp() + interval '{ttl + 1} seconds'")
        heir, found, looks = await databases[0].start_session(capacity=sessions, ttl=ttl), set[Any](), 0
        while len(found) < sessions:
            work = await databases[0].get_work(heir, limit=1000, held=found, over_share=True)
            found |= {task.claim.key for task in work.tasks}
            looks += 1
        assert sessions / 1000 <= looks <= sessions / 20
        assert await scene.sessions() == (sessions + 1, 1)
        injected("D28", sessions)
