"""The state machine: whatever sessions, people and time can do, one step after the other, to both databases of a `Pair`.

What Hypothesis prints of a falsifying example runs again as it stands, with `state = Machine(pair)` of the fixture `pair`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from session_lock.database import Claim, Handback, Outcome, Settled
from session_lock.session import Lease
from tests.database.conftest import FORBIDDEN, GOOD, KEPT, UNREADABLE
from tests.property.pair import Pair, Side

MOST_TASKS, MOST_LIVE = 9, 4

RUNNERS = st.sampled_from(["A", "B", "C"])

KEYS = st.sampled_from(
    ["mine", "all", *range(1, MOST_TASKS + 1), (1, 2), (2, 3), (1, 4), (3, 5, 6), (2, 7, 99)]
)
"""Of which tasks: all that the session knows it holds, all there are, or these."""

ADDRESSES = [GOOD, GOOD, FORBIDDEN, KEPT, UNREADABLE, "needs 1", "needs 2"]

HANDBACKS: dict[str, dict[str, Any]] = {
    "at once": {},
    "without the attempt": {"give_back_attempt": True},
    "later": {"after": 4.0, "error": "it failed"},
    "later without the attempt": {"after": 1.0, "give_back_attempt": True, "error": "it failed"},
    "discarded": {"discard": True, "error": "it is given up"},
    "parked": {"after": math.inf},
}

SECONDS = [1.0, 0.125, 0.25, 4.0, 16.0, 31.0]
"""Exact in binary, so that sums are the same on both sides; 0.2 s and 1 s matter to who is asked for tasks."""

NOBODY = UUID(int=0)

CALLS: dict[str, dict[str, Any]] = {
    "bump": {"ttl": 30.0, "draining": True},
    "get_work": {
        "limit": 5,
        "at_once": 5,
        "over_share": True,
        "stretch": "whole",
        "finish": "mine",
        "reply_lost": True,
    },
    "finish": {"keys": "all", "stale": False},
    "release": {"keys": "all", "how": "discarded", "stale": False},
    "end": {"keys": "all"},
    "finish_in": {"keys": "mine", "transaction": "of its own"},
}
"""Of one that is forged, or comes too late."""


class Machine(RuleBasedStateMachine):
    transactions = st.sampled_from(["a", "b"])

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        self.current: dict[str, int] = {}
        """By Runner: its session, live or not."""
        self.held: defaultdict[int, set[int]] = defaultdict(set)
        """By session: what it knows that it holds."""
        self.notes = 0
        self.told: dict[tuple[int, int], int] = {}
        """By session and key: the token that it was told last."""
        self.deadlines: dict[str, float] = {}
        """By transaction that is open: when the server ends it."""
        self.forbidden: set[int] = set()
        """The tasks that the table does not let anybody close."""
        self.locked: int | None = None
        """The task that a stranger's transaction has locked."""
        pair.begin()

    def teardown(self) -> None:
        self.pair.end()

    # Sessions ------------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for _ in range(4):
            self.add(GOOD, after=None)
        for runner in ("A", "B", "C"):
            self.start(runner, capacity=2, ttl=30.0, version="1")

    @precondition(lambda self: self._live() < MOST_LIVE)
    @rule(
        runner=RUNNERS,
        capacity=st.sampled_from([1, 2, 5]),
        ttl=st.sampled_from([30.0, 10.0]),
        version=st.sampled_from(["1", "2"]),
    )
    def start(self, runner: str, capacity: int, ttl: float, version: str) -> None:
        """Anew, if it had a session: that one is left to itself."""

        async def call(side: Side) -> tuple[int, float]:
            lease = await side.database.start_session(
                capacity=capacity, ttl=ttl, label="s", app_version=version
            )
            side.leases[lease.id] = lease
            return lease.id, lease.left

        self.current[runner], _ = self.pair.ask(call)

    @rule(runner=RUNNERS, ttl=st.sampled_from([30.0, 10.0]), draining=st.sampled_from([False] * 9 + [True]))
    def bump(self, runner: str, ttl: float, draining: bool) -> None:
        running = len(self.held[self.current[runner]])
        self.pair.ask(
            lambda side: side.database.bump_session(
                self._lease(side, runner), ttl=ttl, draining=draining, running=running
            )
        )

    @rule(
        runner=RUNNERS,
        limit=st.sampled_from([5, 1, 2, 0]),
        at_once=st.sampled_from([None, 0, 1, 5]),
        over_share=st.booleans(),
        stretch=st.sampled_from(["whole", "onward", "piece", "first piece"]),
        finish=st.none() | KEYS,
        reply_lost=st.sampled_from([False, False, False, True]),
    )
    def get_work(
        self,
        runner: str,
        limit: int,
        at_once: int | None,
        over_share: bool,
        stretch: str,
        finish: Any,
        reply_lost: bool,
    ) -> None:
        claims = [] if finish is None else self._claims(runner, finish)
        held = sorted(self.held[self.current[runner]] - {claim.key for claim in claims})

        async def call(side: Side) -> Any:
            kept = side.positions.setdefault(self.current[runner], [])
            position = {"onward": kept[-1:], "piece": kept[-2:-1]}.get(stretch, [])
            until = kept[-1:] if "piece" in stretch else []
            work = await side.database.get_work(
                self._lease(side, runner), limit=limit, held=held, position=next(iter(position), None), until=next(iter(until), None),
                over_share=over_share, at_once=at_once, finished=claims,
            )  # fmt: skip
            if work.position is not None and not reply_lost:
                kept.append(work.position)
            return work

        work = self.pair.ask(call)
        if work is not None and not reply_lost:
            self._settle(runner, work.settled)
            for task in work.tasks:
                self.held[self.current[runner]].add(task.claim.key)
                self.told[self.current[runner], task.claim.key] = task.claim.token

    @rule(runner=RUNNERS, reply_lost=st.sampled_from([False, False, True]))
    def look(self, runner: str, reply_lost: bool) -> None:
        """As a Runner does, for all that there is: with a new session if its own is lost."""
        if not self.pair.state.live(self.current[runner]):
            self.start(runner, capacity=2, ttl=30.0, version="1")
        self.get_work(
            runner,
            limit=5,
            at_once=None,
            over_share=True,
            stretch="whole",
            finish=None,
            reply_lost=reply_lost,
        )

    @rule(runner=RUNNERS, keys=KEYS, stale=st.sampled_from([False, False, True]))
    def finish(self, runner: str, keys: Any, stale: bool) -> None:
        if claims := self._claims(runner, keys, stale=stale):
            self._settle(
                runner,
                self.pair.ask(lambda side: side.database.finish_tasks(self._lease(side, runner), claims)),
            )

    @rule(
        runner=RUNNERS,
        keys=KEYS,
        how=st.sampled_from(list(HANDBACKS)),
        stale=st.sampled_from([False, False, True]),
    )
    def release(self, runner: str, keys: Any, how: str, stale: bool) -> None:
        handbacks = [Handback(claim, **HANDBACKS[how]) for claim in self._claims(runner, keys, stale=stale)]
        if handbacks:
            self._settle(
                runner,
                self.pair.ask(lambda side: side.database.release_tasks(self._lease(side, runner), handbacks)),
            )

    @rule(runner=RUNNERS, keys=KEYS)
    def end(self, runner: str, keys: Any) -> None:
        claims = self._claims(runner, keys)
        self.pair.ask(lambda side: side.database.end_session(self._lease(side, runner), claims))

    @rule(runner=RUNNERS, verb=st.sampled_from(list(CALLS)))
    def forge(self, runner: str, verb: str) -> None:
        """The same with all that is known of a session but its nonce."""
        session = self.current[runner]
        real = [side.leases[session] for side in self.pair.sides]
        for side in self.pair.sides:
            side.leases[session] = replace(side.leases[session], nonce=NOBODY)
        before = self.pair.state
        getattr(self, verb)(runner, **CALLS[verb])
        if verb == "finish_in":
            self.commit("of its own")
        assert self.pair.state == before, "a forged call has done something"
        for side, lease in zip(self.pair.sides, real, strict=True):
            side.leases[session] = lease

    # Finishing transactions ----------------------------------------------------------------------------------------

    @rule(runner=RUNNERS, keys=KEYS, transaction=transactions)
    def finish_in(self, runner: str, keys: Any, transaction: str) -> None:
        """In a transaction that is open from here on, or was."""
        claims = self._claims(runner, keys)
        self.notes += 1
        note = f"{transaction} {claims} {self.notes}"

        async def call(side: Side) -> str:
            connection = await side.transaction(transaction)
            await side.database.finish_in(connection, self._lease(side, runner), claims)
            await side.harness.write(connection, note)
            return note

        deadline = math.inf
        if self.pair.ask(call):
            deadline = self.pair.state.sessions[self.current[runner]].expires_at
        self.deadlines[transaction] = min(self.deadlines.get(transaction, math.inf), deadline)

    @precondition(lambda self: self.deadlines)
    @rule(transaction=transactions)
    def commit(self, transaction: str) -> None:
        if self.deadlines.pop(transaction, None) is not None:
            self.pair.ask(lambda side: side.commit(transaction))

    @precondition(lambda self: self.deadlines)
    @rule(transaction=transactions)
    def roll_back(self, transaction: str) -> None:
        if self.deadlines.pop(transaction, None) is not None:
            self.pair.ask(lambda side: side.roll_back(transaction))

    # Time ----------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from(SECONDS))
    def advance(self, seconds: float) -> None:
        """A transaction that its session's lease does not outlast is ended by the server."""
        then = self.pair.state.now + seconds
        over = [name for name, deadline in self.deadlines.items() if deadline <= then]

        async def call(side: Side) -> None:
            await side.harness.advance(seconds)
            for name in over:
                await side.lose(name)

        self.pair.ask(call)
        for name in over:
            del self.deadlines[name]

    @rule(runner=RUNNERS, verb=st.sampled_from(["bump", "finish", "release", "end"]))
    def freeze(self, runner: str, verb: str) -> None:
        """Past its lease, and go on as if nothing had been."""
        self.advance(31.0)
        getattr(self, verb)(runner, **CALLS[verb])

    # People --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: max(self.pair.state.tasks, default=0) < MOST_TASKS)
    @rule(address=st.sampled_from(ADDRESSES), after=st.sampled_from([None, 4.0, 16.0]))
    def add(self, address: str, after: float | None) -> None:
        (key,) = self.pair.ask(lambda side: side.harness.add(address=address, after=after))
        if address == FORBIDDEN:
            self.forbidden.add(key)

    @rule(key=st.integers(1, MOST_TASKS))
    def close(self, key: int) -> None:
        if self._can_be_locked(key) and self.pair.state.tasks[key].pending and key not in self.forbidden:
            self.pair.ask(lambda side: side.harness.close(key))

    @rule(key=st.integers(1, MOST_TASKS))
    def reopen(self, key: int) -> None:
        if self._can_be_locked(key):
            self.pair.ask(lambda side: side.harness.reopen(key))

    @precondition(lambda self: len(self.pair.state.tasks) > 4)
    @rule(key=st.integers(1, MOST_TASKS))
    def remove(self, key: int) -> None:
        if self._can_be_locked(key):
            self.pair.ask(lambda side: side.harness.remove(key))

    @rule(key=st.integers(1, MOST_TASKS))
    def cancel(self, key: int) -> None:
        self.pair.ask(lambda side: side.database.cancel(key))

    @rule(key=st.none() | st.integers(1, MOST_TASKS))
    def retry(self, key: int | None) -> None:
        keys = [] if key is None else [key]
        self.pair.ask(lambda side: side.database.retry(*keys, all_parked=not keys))

    @rule(runner=RUNNERS, count=st.sampled_from([None, 1, 2]))
    def request(self, runner: str, count: int | None) -> None:
        """To drain, or to give so many tasks back."""
        lease = self._lease(self.pair.sides[0], runner)
        self.pair.ask(
            lambda side: (
                side.harness.ask_to_drain(lease)
                if count is None
                else side.harness.ask_to_give_back(lease, count)
            )
        )

    @rule(paused=st.sampled_from([False] * 4 + [True]))
    def pause(self, paused: bool) -> None:
        if paused != self.pair.state.paused:
            self.pair.ask(lambda side: side.harness.pause() if paused else side.harness.resume())

    @rule()
    def shares(self) -> None:
        self.pair.ask(lambda side: side.database.shares())

    @rule(key=st.integers(1, MOST_TASKS))
    def lock_or_unlock(self, key: int) -> None:
        """A stranger's transaction has the row, until it is asked for the next."""
        if self.locked is not None:
            self.locked = None
            self.pair.ask(lambda side: side.unlock())
        elif self._can_be_locked(key):
            self.locked = key
            self.pair.ask(lambda side: side.lock(key))

    # What they are made of -----------------------------------------------------------------------------------------

    def _claims(self, runner: str, keys: Any, *, stale: bool = False) -> list[Claim]:
        """Under the tokens that the session was told, or else under those that the tasks have now."""
        tasks = self.pair.state.tasks
        match keys:
            case "mine":
                keys = sorted(self.held[self.current[runner]])
            case "all":
                keys = sorted(tasks)
            case int():
                keys = [keys]
        return [
            Claim(
                key,
                max(
                    1,
                    self.told.get((self.current[runner], key), tasks[key].token if key in tasks else 1)
                    - stale,
                ),
            )
            for key in keys
        ]

    def _live(self) -> int:
        return sum(map(self.pair.state.live, self.pair.state.sessions))

    def _lease(self, side: Side, runner: str) -> Lease:
        return side.leases[self.current[runner]]

    def _settle(self, runner: str, settled: Sequence[Settled] | None) -> None:
        over = {each.key for each in settled or () if each.outcome not in {Outcome.LOCKED, Outcome.REFUSED}}
        self.held[self.current[runner]] -= over

    def _can_be_locked(self, key: int) -> bool:
        """Whether a person's statement would not wait for the row."""
        row = self.pair.sides[1].database._tasks.get(key)
        return row is not None and not row.locked
