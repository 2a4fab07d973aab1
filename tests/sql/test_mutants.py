"""The mutants of our SQL are all in the table, dead or proven equal; and a sample of them is killed again. See `hunt.py`."""

from __future__ import annotations

import re
from itertools import islice

from session_lock.schema import source, sql_root
from tests.sql.equal import EQUAL
from tests.sql.hunt import field_on, table
from tests.sql.mutants import LIMITS, MUTATED, NOT_MUTATED, NOTHING, mutants, mutants_of


def test_the_table_is_of_the_mutants_that_there_are_and_none_of_them_lives():
    """Where this fails the SQL has changed since `nox -s mutants` wrote the table: run it again."""
    said = table()
    assert list(said) == list(mutants())
    assert [name for name in said if not said[name]] == []
    assert {name: f"equal: {why}" for name, why in EQUAL.items()} == {
        name: killer for name, killer in said.items() if killer.startswith("equal")
    }


def test_each_function_has_mutants_or_is_named_with_the_reason_why_it_has_none():
    for path in sql_root().iterdir():
        if not path.name.endswith(".alwaysup.sql"):
            continue
        there = re.findall(
            r"^CREATE OR REPLACE FUNCTION session_lock\.(\w+?)(?:__set__)?\(", source(path.name), re.MULTILINE
        )
        left_out = NOT_MUTATED.get(path.name, {})
        assert sorted(there) == sorted([*MUTATED.get(path.name, ()), *left_out]), path.name
        for function in there:
            made = [*mutants_of(path.name, function)]
            assert bool(made) == (left_out.get(function) != NOTHING), function


async def test_each_mutant_can_be_installed(database):
    """A mutant that the server refuses to create would be killed by anything."""
    async with field_on(database) as field:
        for mutant in mutants().values():
            if mutant.file == LIMITS:
                await field.stage.put(mutant.mutated_function, "each in parts")
            else:
                await field.put(mutant.file, mutant.mutated_function)


async def test_a_sample_is_killed_again(database):
    # Which of several rows an UPDATE takes that match depends on the plan: one of these may be seen by luck alone.
    said = {
        name: killer
        for name, killer in table().items()
        if killer.startswith(("alone", "crossing"))
        and not any(each in name for each in ("clock:", "= r.key", "= r.token"))
    }
    async with field_on(database) as field:
        for name, killer in islice(said.items(), 0, None, 5):
            mutant = mutants()[name]
            await field.put(mutant.file, mutant.mutated_function)
            assert await field.sees(killer), name
            await field.put(mutant.file, mutant.shipped_function)
            assert not await field.sees(killer), name
