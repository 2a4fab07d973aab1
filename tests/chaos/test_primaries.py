"""A standby, and what becomes of sessions when it is promoted beside its primary, without the last commits."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from session_lock import DatabaseError, PostgresDatabase, SessionLost
from session_lock.embedded import Server, temp_postgres
from tests.chaos.scene import Scene, scene_in
from tests.chaos.standby import standby_of
from tests.conftest import prepare_template
from tests.proxy import proxy
from tests.support import EMAILS


@pytest.mark.fault("D3", "D4", "D5")
async def test_an_address_that_leads_to_a_standby_which_becomes_a_second_primary() -> None:
    with temp_postgres(wal_retrieve_retry_interval="100ms") as server:
        await prepare_template(server.dsn)
        async with scene_in(server.dsn, server.dsn) as scene:
            await scene.add(20)
        with standby_of(server) as standby_dsn:
            await with_two(server, standby_dsn)


async def with_two(server: Server, standby_dsn: str) -> None:
    admin, beside = await asyncpg.connect(server.dsn), await asyncpg.connect(standby_dsn)
    here, there = Scene(server.dsn, admin), Scene(standby_dsn, beside)
    here.seconds = there.seconds = 0.05
    async with (
        proxy(standby_dsn) as network,
        PostgresDatabase(server.dsn, EMAILS, listen=False) as old,
        PostgresDatabase(standby_dsn, EMAILS, listen=False) as new,
    ):
        # To a standby: refused, and tried again.
        async with here.running(network.dsn, here.write) as runner:
            await asyncio.sleep(0.7)
            assert not runner.ready
            assert not here.runs
            with pytest.raises(DatabaseError, match="is a standby") as refused:
                await new.start_session(capacity=1, ttl=30)
            assert refused.value.retryable
            network.lead_to(server.dsn)
            await here.until("count(*) > 4 FROM email WHERE sent_at IS NOT NULL")
        await here.until("count(*) = 0 FROM email WHERE session_id IS NOT NULL")
        known = await old.start_session(capacity=5, ttl=30)
        await there.until(f"EXISTS (SELECT FROM session_lock.session WHERE id = {known.id})")

        # The standby hears no more: what is committed from here on is lost with the primary.
        access = server.data / "pg_hba.conf"
        access.write_text("host replication all all reject\n" + access.read_text())
        await admin.execute("SELECT pg_reload_conf()")
        await here.until("count(pg_terminate_backend(pid)) = 0 FROM pg_stat_replication")
        done = await there.ask("count(*) FROM email WHERE sent_at IS NOT NULL")
        lost = await old.start_session(capacity=5, ttl=30)
        claims = [task.claim for task in (await old.get_work(lost, limit=3)).tasks]
        await old.finish_tasks(lost, claims)
        await beside.execute("SELECT pg_promote()")
        assert await there.ask("count(*) FROM email WHERE sent_at IS NOT NULL") == done

        # Two primaries: the session of before is one of both, the later ones are each of one.
        await new.bump_session(known, ttl=30, draining=False)
        await there.admin.execute("SELECT setval('session_lock.session_id_seq', $1, false)", lost.id)
        later = await new.start_session(capacity=5, ttl=30)
        assert later.id == lost.id
        assert later.nonce != lost.nonce
        for database, stranger in ((new, lost), (old, later)):
            for call in (
                database.bump_session(stranger, ttl=30, draining=False),
                database.get_work(stranger, limit=1),
                database.finish_tasks(stranger, claims),
            ):
                with pytest.raises(SessionLost):
                    await call

        # The history that is left is gone on with.
        await new.end_session(later)
        network.lead_to(standby_dsn)
        async with there.running(network.dsn, there.write):
            await there.until_written()
    await admin.close()
    await beside.close()
