"""What must hold after any crossing of calls, by the audit of all rows and by what the calls were told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.sql.scene import Change, Scene
from tests.sql.schedule import Work
from tests.sql.statements import Statement

REFUSALS = {
    "SL001",  # not live
    "SL002",  # finish_in: not held
    "55P03",  # the server was slow, and a wait came to its end: nothing has changed
}
LEFT = "SELECT id, claim_token FROM public.email WHERE sent_at IS NULL AND failed_at IS NULL AND available_at < 'infinity' ORDER BY id"
KEEPALIVES = {"keepalive", "drain", "late keepalive"}
FINISHES = {"finish", "finish another's", "finish in", "late finish", "late finish in"}
"""These two are not in each other's way."""


@dataclass
class Seen:
    """What is known of a call when it is over."""

    statement: Statement
    pid: int = 0
    over: bool = False
    """Its session was over before it looked last."""

    waited_for: list[int] = field(default_factory=list)
    answer: Any = None
    error: str | None = None
    committed: bool = False

    def told(self) -> str:
        end = self.error or ("committed" if self.committed else "rolled back")
        waited = f", waited for {self.waited_for}" if self.waited_for else ""
        return f"[{self.pid}] {self.statement.name} -> {self.answer!r} {end}{waited}{', its session was over' * self.over}"


async def judge(scene: Scene, calls: Sequence[Seen]) -> list[str]:
    """What is wrong, in sentences. Ends all sessions but one, which must find all that is left."""
    found = [*_calls(calls)]
    lab, admin = scene.lab, scene.lab.admin
    by_hand = [call for call in calls if call.statement.name == "drop the session"]
    asked = {
        call.statement.cancels for call in calls if call.committed and call.answer == "asked" and not by_hand
    }
    last = await lab.start_session(scene.apps[0], ttl=10000)
    given = (await last.get_work()).claims
    await lab.advance(1000)
    await admin.execute("DELETE FROM session_lock.pause")
    for _ in range(3):
        given |= (await last.get_work(held=list(given))).claims
        left = {row["id"]: row["claim_token"] for row in await admin.fetch(LEFT)}
        if given == left:
            break
    changes = await scene.audit()
    if given != left:
        found.append(f"in the end {left} are pending, and the only session that lives was given {given}")
    found += _tasks(changes, calls, {scene.apps[0].get_server_pid(): last.id})
    found += _sessions(changes)
    found += _effects(await admin.fetch("SELECT * FROM public.effect"), changes)
    known = {int(key) for key in (await lab.session(last))["cancel_keys"]}
    found += [
        f"task {key} was to be cancelled, and nobody knows it any more"
        for key in (asked & left.keys()) - known
    ]
    return found


# Answers ---------------------------------------------------------------------------------------------------


def _calls(calls: Sequence[Seen]) -> Iterator[str]:
    by_pid = {call.pid: call.statement for call in calls}
    for call in calls:
        what, waited = call.statement, [by_pid[pid] for pid in call.waited_for if pid in by_pid]
        # Two of other people's may take rows in unlike orders, as one of them moves: that is theirs.
        is_theirs = call.error == "40P01" and what.by_people and waited and all(o.by_people for o in waited)
        if call.error and call.error not in REFUSALS and not is_theirs:
            yield f"{what.name} failed with {call.error}"
        if call.over and what.needs_lease and call.error not in REFUSALS and not waited:
            yield f"{what.name} was not refused, although its session was over"
        for other in waited:
            if {what.name, other.name} & KEEPALIVES and {what.name, other.name} & FINISHES:
                yield f"{what.name} waited for {other.name}"
        if isinstance(call.answer, Work) or what.name == "retry":
            for other in waited:
                if other.name != "drop the session" and (
                    other.session is None or other.session != what.session
                ):
                    yield f"{what.name} waited for {other.name}"


# Tasks -----------------------------------------------------------------------------------------------------


def _tasks(changes: Sequence[Change], calls: Sequence[Seen], sessions: dict[int, int]) -> Iterator[str]:
    """Finished once, by its holder with its token; tokens grow; nobody is robbed; attempts are counted."""
    by_pid = {call.pid: call for call in calls}
    finished: dict[int, int] = {}
    for change in changes:
        if change.about != "email" or not change.by_service:
            continue
        was, is_ = change.was, change.became
        key, call = is_["id"], by_pid.get(change.pid)
        mine = call.statement.session if call else sessions.get(change.pid)
        what = f"task {key} by {call.statement.name if call else 'the last session'}"
        if was["sent_at"] and not is_["sent_at"]:
            yield f"{what}: opened again"
        if (was["sent_at"] or was["failed_at"]) and (is_["session_id"] or is_["sent_at"] != was["sent_at"]):
            yield f"{what}: it was not pending"
        if is_["sent_at"] and not was["sent_at"]:
            finished[key] = finished.get(key, 0) + 1
            if was["session_id"] != mine or change.over:
                yield f"{what}: finished, but held by {was['session_id']}{', which had ended' * change.over}"
            if call is None or call.statement.claims.get(key) != was["claim_token"]:
                yield f"{what}: finished with another token than {was['claim_token']}"
        if is_["claim_token"] != was["claim_token"] or (
            is_["session_id"] and is_["session_id"] != was["session_id"]
        ):
            yield from _claim(what, was, is_)
        robbed = was["session_id"] is not None and is_["session_id"] != was["session_id"]
        if robbed and not change.over and not (mine == was["session_id"] and _is_holder(call, was)):
            yield f"{what}: session {was['session_id']} was robbed"
        if is_["attempts"] < 0:
            yield f"{what}: attempts are {is_['attempts']}"
    yield from (f"task {key} was finished {times} times" for key, times in finished.items() if times > 1)


def _claim(what: str, was: dict[str, Any], is_: dict[str, Any]) -> Iterator[str]:
    if (is_["claim_token"] or 0) != (was["claim_token"] or 0) + 1:
        yield f"{what}: claimed, and its token went from {was['claim_token']} to {is_['claim_token']}"
    if is_["attempts"] != was["attempts"] + (is_["session_id"] != was["session_id"]):
        yield f"{what}: claimed, and its attempts went from {was['attempts']} to {is_['attempts']}"
    if is_["available_at"] == "infinity":
        yield f"{what}: claimed, but it is parked"


def _is_holder(call: Seen | None, was: dict[str, Any]) -> bool:
    """Who gives up a claim, or has it settled, names its token."""
    return call is not None and call.statement.claims.get(was["id"]) == was["claim_token"]


# Sessions and effects --------------------------------------------------------------------------------------


def _sessions(changes: Sequence[Change]) -> Iterator[str]:
    for change in changes:
        was, is_ = change.was, change.became
        if change.about != "session" or not change.by_service or not was or not is_:
            continue
        what = f"session {is_['id']}"
        if was["ended_at"] and is_["ended_at"] != was["ended_at"]:
            yield f"{what}: ended, and not for good"
        if is_["expires_at"] < was["expires_at"]:
            yield f"{what}: its lease was shortened"
        if was["ended_at"] and is_["expires_at"] != was["expires_at"]:
            yield f"{what}: renewed after its end"


def _effects(effects: Sequence[Any], changes: Sequence[Change]) -> Iterator[str]:
    """What was written in a finishing transaction is there as often as the finish."""
    finished = sorted(
        (change.became["id"], change.pid)
        for change in changes
        if change.about == "email"
        and change.by_service
        and change.became["sent_at"]
        and not change.was["sent_at"]
    )
    for effect in effects:
        if (effect["key"], effect["pid"]) not in finished:
            yield f"task {effect['key']}: an effect without its finish"
    if len({(effect["key"], effect["pid"]) for effect in effects}) < len(effects):
        yield "an effect twice"
