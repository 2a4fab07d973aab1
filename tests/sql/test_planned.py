"""What the functions that plan duties answer and change: to the word, as `planned.txt` has it."""

from __future__ import annotations

from session_lock.duties import DUTIES
from session_lock.migrations import install
from tests.sql.planned import PLAYS, open_plan, right
from tests.sql.schedule import open_lab


async def test_each_play_comes_to_what_is_written_of_it(database):
    written = right()
    assert list(written) == PLAYS
    async with open_lab(database) as lab:
        await install(lab.admin, DUTIES)
        await lab.own_clock()
        plan = await open_plan(lab, database.admin_dsn)
        for name in written:
            assert await plan.play(name) == written[name], name
