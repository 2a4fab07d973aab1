"""Faults of the database, one by one: parameters of the role, locks, a full disk, tables and rows that others change."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, SchemaError, each
from session_lock.embedded import Server, temp_postgres
from tests.chaos.recording import Injected
from tests.chaos.scene import AT_NIGHT, QUICK, WITHIN, Scene, scene_in
from tests.conftest import TestDatabase, prepare_template
from tests.support import EMAILS, add_emails

# Parameters of the role ---------------------------------------------------------------------------------


@pytest.mark.fault("D10")
@pytest.mark.parametrize(("name", "value"), [("statement_timeout", "1ms"), ("statement_timeout", "50ms"), ("lock_timeout", "1ms")])  # fmt: skip
async def test_timeouts_of_the_role_are_errors_that_pass(scene: Scene, name: str, value: str) -> None:
    locked, *_ = await scene.add(20)
    await scene.set_for_role(name, value)
    async with scene.running() as runner:
        async with scene.admin.transaction():
            await scene.admin.execute("SELECT FROM email WHERE id = $1 FOR UPDATE", locked)
            await asyncio.sleep(1)
        await scene.set_for_role(name, None)
        await scene.end_backends()
        await scene.until_finished()
        assert runner.ready


@pytest.mark.fault("D16")
@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_another_default_isolation_level(scene: Scene, isolation: str) -> None:
    await scene.set_for_role("default_transaction_isolation", isolation)
    await scene.add(40)
    async with scene.running(tasker=scene.write), scene.running(tasker=scene.write):
        await scene.until_written()
    assert {*scene.runs.values()} == {1}


# Locks --------------------------------------------------------------------------------------------------


@pytest.mark.fault("D13")
async def test_a_table_that_is_locked_for_longer_than_a_lease(scene: Scene) -> None:
    scene.seconds = 0.05
    async with scene.running():
        await scene.add(20)
        await scene.until("EXISTS (SELECT FROM email WHERE sent_at IS NOT NULL)")
        async with scene.admin.transaction():
            await scene.admin.execute("LOCK TABLE email")
            await asyncio.sleep(QUICK.lease_ttl + 0.5)
        await scene.until_finished()
        assert await scene.sessions() == (1, 1)
    assert {*scene.runs.values()} == {1}


# A full disk --------------------------------------------------------------------------------------------


@contextmanager
def small_disk(server: Server, megabytes: int) -> Iterator[Path]:
    """A file system in a namespace of its own, as the server sees it (which needs no rights, and leaves nothing)."""
    options = server._postmaster.options
    script = f"mount -t tmpfs -o size={megabytes}m,mode=700 none /mnt && echo mounted && exec sleep 600"
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        **{**options, "stdout": subprocess.PIPE},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n", "no file system of our own can be mounted here"
        yield Path("/proc", str(holder.pid), "root", "mnt")
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.fault("D20")
async def test_a_full_disk_is_waited_for() -> None:
    with temp_postgres(autovacuum="off") as server, small_disk(server, 4) as disk:
        await prepare_template(server.dsn)
        as_server = server._postmaster.options
        async with scene_in(server.dsn, server.dsn) as scene:
            await scene.admin.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            await scene.admin.execute("ALTER TABLE email SET TABLESPACE small, ALTER body SET STORAGE plain")
            async with scene.running(tasker=scene.write):
                await scene.until("EXISTS (SELECT FROM session_lock.session)")
                await scene.admin.execute("INSERT INTO session_lock.pause (name) VALUES ('email')")
                # Two rows fill a page, so that no new version of one finds a place.
                await scene.add(20)
                await scene.admin.execute("UPDATE email SET body = repeat('x', 3500)")
                await scene.admin.execute("VACUUM FULL email")
                fill = subprocess.run(["cp", "/dev/zero", disk / "ballast"], capture_output=True, **as_server)
                assert b"No space left" in fill.stderr
                await scene.admin.execute("DELETE FROM session_lock.pause")
                await asyncio.sleep(QUICK.lease_ttl)
                assert not scene.runs
                assert await scene.sessions() == (1, 1)
                refused = server.log.read_text().count("get_work_email")
                assert 2 <= refused < 30, "tried again, with pauses"
                subprocess.run(["rm", disk / "ballast"], check=True, **as_server)
                await scene.until_written()
        server.stop("immediate")  # before its disk is gone


# What others change -------------------------------------------------------------------------------------


@pytest.mark.fault("D21")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ALTER TABLE email DROP COLUMN body", "install"),
        ("ALTER TABLE email RENAME TO letter", "install"),
        ("REVOKE USAGE ON SCHEMA session_lock FROM app", "--grant-to"),
        ("DROP SCHEMA session_lock CASCADE", "install"),
    ],
)
async def test_a_runner_beneath_which_the_schema_changes_ends_and_says_what_to_do(
    scene: Scene, change: str, says: str
) -> None:
    await scene.add(50)
    scene.seconds = 0.02
    async with PostgresDatabase(scene.dsn, EMAILS, listen=False) as emails:
        running = asyncio.create_task(Runner(emails, each(scene.send), QUICK).run())
        await scene.until("EXISTS (SELECT FROM email WHERE sent_at IS NOT NULL)")
        await scene.admin.execute(change)
        async with asyncio.timeout(WITHIN):
            with pytest.raises(SchemaError, match=says):
                await running
    assert not scene.cancelled, "what was begun could end"


@pytest.mark.fault("D22", "D23")
async def test_rows_of_tasks_and_sessions_that_are_edited_by_hand(scene: Scene, injected: Injected) -> None:
    """While they are worked on: freed, given to nobody, deleted, begun and done by hand; and the sessions' rows deleted."""
    scene.seconds = 0.1
    edits = {
        "UPDATE email SET session_id = NULL": "D22",
        "UPDATE email SET session_id = 1000000": "D22",
        "UPDATE email SET claim_token = claim_token + 7": "D22",
        "UPDATE email SET session_id = NULL, claim_token = NULL, attempts = 0": "D22",
        "DELETE FROM email": "D22",
        "DELETE FROM session_lock.session": "D23",
    }
    async with scene.running(tasker=scene.write), scene.running(tasker=scene.write):
        for _ in range(20 if AT_NIGHT else 1):
            for edit, fault in edits.items():
                await scene.add(12)
                await scene.until("count(*) >= 6 FROM email WHERE session_id IS NOT NULL AND sent_at IS NULL")
                which = (
                    ""
                    if fault == "D23"
                    else " WHERE session_id IS NOT NULL AND sent_at IS NULL AND id % 2 = 0"
                )
                injected(fault, int((await scene.admin.execute(edit + which)).split()[-1]))
                await scene.until_written()
        await scene.add(20)
        await scene.admin.execute("TRUNCATE email")
        await scene.add(5)
        await scene.until("count(*) = 5 FROM email WHERE sent_at IS NOT NULL")


@pytest.mark.fault("D24")
async def test_a_lower_key_that_is_committed_after_a_higher_one(scene: Scene, database: TestDatabase) -> None:
    late = await asyncpg.connect(database.admin_dsn)
    async with scene.running():
        transaction = late.transaction()
        await transaction.start()
        (lower,) = await add_emails(late, 1)
        (higher, *_) = await scene.add(30)
        await scene.until_finished()
        assert lower < higher
        await transaction.commit()
        await scene.until_finished()
    assert scene.runs[lower] == 1
    await late.close()


@pytest.mark.fault("D26")
async def test_a_payload_of_many_megabytes(scene: Scene) -> None:
    megabytes = 100 if AT_NIGHT else 4
    keys = await scene.add(20)
    await scene.admin.execute(
        "UPDATE email SET body = repeat('x', $1) WHERE id = $2", megabytes << 20, keys[7]
    )
    async with scene.running(lease_ttl=30, call_timeout=10):
        await scene.until_finished()
    assert scene.runs == dict.fromkeys(keys, 1)
