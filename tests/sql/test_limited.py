"""What claims under limits, rates and turns come to: to the word, as `limited.txt` has it."""

from __future__ import annotations

from tests.sql.limited import play, right
from tests.sql.limited_plays import PLAYS
from tests.sql.schedule import open_lab
from tests.sql.stage import open_stage


async def test_each_play_comes_to_what_is_written_of_it(database):
    written = right()
    assert list(written) == PLAYS
    async with open_lab(database) as lab:
        await lab.own_clock()
        stage = await open_stage(lab, database.admin_dsn)
        for name in written:
            assert await play(stage, name) == written[name], name
