"""What each statement answers and changes by itself, and after others: to the word, as `alone.txt` has it."""

from __future__ import annotations

from tests.sql.alone import alone, plays, right
from tests.sql.scene import open_scene
from tests.sql.schedule import open_lab


async def test_each_statement_does_what_is_written_of_it_and_no_more(database):
    written = right()
    assert list(written) == plays()
    async with open_lab(database) as lab, open_scene(lab, database.admin_dsn) as scene:
        for names in written:
            assert await alone(scene, names) == written[names], names
