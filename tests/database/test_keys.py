"""Keys of every type go through every verb."""

from __future__ import annotations

import pytest

from session_lock.database import Claim, Handback, Outcome

from .conftest import Suite, keys


@pytest.mark.fault("D25")
async def test_a_key_of_any_type_goes_through_every_verb(suite_of_key_type: Suite):
    suite = suite_of_key_type
    added = await suite.add(6)
    lease, other = await suite.start(), await suite.start()
    first = await suite.work(lease, 4)
    assert {type(key) for key in keys(first)} == {type(added[0])}
    claims = [task.claim for task in first.tasks]
    assert await suite.finish(lease, claims[0]) is Outcome.FINISHED

    rest = await suite.work(
        lease, 10, position=first.position, held=[claim.key for claim in claims[2:]], finished=claims[1:2]
    )
    assert [each.outcome for each in rest.settled] == [Outcome.FINISHED]
    assert set(keys(rest)) | set(keys(first)) == set(added)

    released, in_transaction = claims[2:]
    (settled,) = await suite.database.release_tasks(lease, [Handback(released, error="no")])
    assert (settled.key, settled.outcome) == (released.key, Outcome.RELEASED)
    assert len(await suite.failures(released.key)) == 1
    await suite.database.cancel(in_transaction.key)
    assert (await suite.bump(lease)).cancel == (str(in_transaction.key),)
    async with suite.database.transaction(lease, [in_transaction]):
        pass
    assert await suite.status(in_transaction.key) == "finished"

    await suite.end(lease, *(task.claim for task in rest.tasks))
    claimed = await suite.claim(other)
    assert set(keys(claimed)) == {released.key, *keys(rest)}
    assert {claim.token for claim in claimed} == {2}
    assert await suite.finish(other, Claim(claimed[0].key, 1)) is Outcome.LOST
