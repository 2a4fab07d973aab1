"""The mutants of our SQL are all in the table, dead or proven equal; and a sample of them is killed again. See `hunt.py`."""

from __future__ import annotations

from itertools import islice

from tests.sql.equal import EQUAL
from tests.sql.hunt import field_on, table
from tests.sql.mutants import mutants


def test_the_table_is_of_the_mutants_that_there_are_and_none_of_them_lives():
    """Where this fails the SQL has changed since `nox -s mutants` wrote the table: run it again."""
    said = table()
    assert list(said) == list(mutants())
    assert [name for name in said if not said[name]] == []
    assert {name: f"equal: {why}" for name, why in EQUAL.items()} == {
        name: killer for name, killer in said.items() if killer.startswith("equal")
    }


async def test_each_mutant_can_be_installed(database):
    """A mutant that the server refuses to create would be killed by anything."""
    async with field_on(database) as field:
        for mutant in mutants().values():
            await field.put(mutant.mutated_function)


async def test_a_sample_is_killed_again(database):
    # Which of several rows an UPDATE takes that match depends on the plan: one of these may be seen by luck alone.
    said = {
        name: killer
        for name, killer in table().items()
        if killer.startswith(("alone", "crossing")) and "clock:" not in name and "= r.key" not in name
    }
    async with field_on(database) as field:
        for name, killer in islice(said.items(), 0, None, 5):
            mutant = mutants()[name]
            await field.put(mutant.mutated_function)
            assert await field.sees(killer), name
            await field.put(mutant.shipped_function)
            assert not await field.sees(killer), name
