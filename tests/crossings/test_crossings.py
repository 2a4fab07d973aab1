"""Statements cross at a lock point, by twos and threes: nothing is lost, robbed or finished twice. See `crossing.py`."""

from __future__ import annotations

import itertools

import pytest

from tests.sql.crossing import PICKED, each_pair_once, play, points_of, triples
from tests.sql.scene import open_scene
from tests.sql.schedule import open_lab


@pytest.mark.timeout(240)
async def test_most_twos_of_statements_and_some_threes_cross(database):
    """Four of five twos, each at one point; `nox -s crossings` plays all at every point, and 2000 threes."""
    crossings = 0
    async with open_lab(database) as lab, open_scene(lab, database.admin_dsn) as scene:
        points = await points_of(scene)
        assert sum(map(len, points.values())) > 200
        twos = list(each_pair_once(points))
        del twos[len(PICKED) :: 5]
        for name in [*twos, *itertools.islice(triples(points, seed=6), 20)]:
            played = await play(scene, name)
            assert not played.wrongs, str(played)
            crossings += played.is_crossing
    assert crossings >= 500
