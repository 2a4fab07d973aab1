"""The list of threats is complete, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import tests.security

HERE = Path(__file__).parent


def test_each_threat_has_its_row_and_each_row_its_tests() -> None:
    text = tests.security.__doc__
    assert re.findall(r"(?m)^T(\d+) ", text) == [str(number) for number in range(1, 17)]
    for row in re.split(r"(?m)^(?=T\d+ )", text)[1:]:
        files = re.findall(r"tests/[\w/]+(?:\.py)?|test_\w+\.py", row)
        places = [HERE.parents[1] / file if file.startswith("tests/") else HERE / file for file in files]
        assert places, row
        assert all(place.exists() for place in places), row
        there = "".join(place.read_text() for place in places if place.is_file())
        for name in re.findall(r"`(test_\w+)`", row):
            assert f"def {name}" in there, name
