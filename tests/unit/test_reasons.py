"""From facts to sentences: each reason, which of several comes first, and what is said besides."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from session_lock.duties import DUTIES
from session_lock.explaining import SessionShare
from session_lock.facts import Locker
from session_lock.limits import Limit
from session_lock.reasons import explain
from session_lock.wording import span
from tests.support import EMAILS

FREE: dict[str, Any] = {
    "pending": True, "parts": [True, True], "holder": None, "token": 3, "attempts": 2, "parked": False, "due_in": -7.5, "needed": None,
    "free": True, "fitting": [1], "limits": [], "behind": None, "in_front": 0, "locked": False, "xmax": "0",
    "copy_of": None, "paused_for": None, "session": None, "live": 1, "draining": 0, "failures": [],
}  # fmt: skip
HOLDER = {
    "id": 17, "label": "web-1:7", "app_version": "2.3", "state": "live", "beat_ago": 2.2, "left": 27.9, "asked_to_cancel": False,
}  # fmt: skip
NOW = "it is claimable now: the next look takes it"
BUSY = "the sessions that may take it are busy (with 3), and look again when a call ends"
SQUARE = replace(EMAILS, limits=(Limit(1, by="address", ordered=True),), order_by=("id",))
FAIR = replace(EMAILS, fair_by="address")
ASKING = replace(EMAILS, accepts="body")
DBA = Locker(pid=99, sure=True, application_name="psql", role="dba", since=300)


def share(
    session: int = 1, *, held: int = 0, target: int = 10, capacity: int = 10, **options: Any
) -> SessionShare:
    given = {
        "label": "",
        "app_version": "1",
        "state": "live",
        "running": 0,
        "idle": True,
        "why": "",
    } | options
    return SessionShare(session=session, held=held, target=target, capacity=capacity, **given)


def holder(**changes: Any) -> dict[str, Any]:
    return {"holder": 17, "session": {**HOLDER, **changes}}


@pytest.mark.parametrize(
    ("facts", "options", "state", "why"),
    [
        ({}, {}, "claimable", [NOW]),
        ({"in_front": 1}, {}, "claimable", ["it is claimable now, behind 1 other"]),
        ({}, {"shares": [share(held=3, running=3, idle=False)]}, "claimable", [f"it is claimable now; {BUSY}"]),
        ({}, {"shares": [share(held=0, running=0, idle=False)]}, "claimable", [NOW]),
        ({"fitting": [1, 2]}, {"shares": [share(held=3, running=3, idle=False), share(2)]}, "claimable", [NOW]),
        ({"in_front": 1}, {"shares": [share(held=3, running=3, idle=False)]}, "claimable", [f"it is claimable now, behind 1 other; {BUSY}"]),
        ({"in_front": None}, {"table": FAIR, "shares": [share(held=3, running=3, idle=False)]}, "claimable", [f"it is claimable now; {BUSY}"]),
        ({"in_front": 1234}, {}, "claimable", ["it is claimable now, behind 1,234 others"]),
        ({"in_front": None}, {}, "claimable", ["it is claimable now, behind more than 10,000 others"]),
        ({"in_front": None}, {"table": FAIR}, "claimable", [f"{NOW}, when its address has its turn (fair_by)"]),
        ({"in_front": None}, {"table": replace(EMAILS, accepts="'2'")}, "claimable", ["it is claimable now, in its turn among those that are for the same sessions (accepts)"]),
        ({"in_front": None}, {"table": DUTIES}, "claimable", ["it is claimable now, in its turn among those that are for the same sessions (accepts)"]),
        (
            {"versions": ["email_1", "email_2"]}, {}, "claimable",
            ["it is claimable now by this version of the mapping, which no session that takes work runs: they run email_1, email_2, and take it if it is pending by that"],
        ),
        ({"versions": []}, {}, "claimable", [NOW]),
        ({"pending": None}, {}, "unknown", ["there is no such task in public.email"]),
        (
            {"pending": False, "parts": [False, None]}, {}, "closed",
            ["it is not pending: sent_at IS NULL is false, failed_at IS NULL is NULL"],
        ),
        (
            {"pending": False, "parts": [None]}, {}, "closed",
            ["it is not pending: sent_at IS NULL AND failed_at IS NULL is NULL"],
        ),
        (  # of functions that another library has written
            {"pending": False, "parts": [False, None, True]}, {}, "closed",
            ["it is not pending: sent_at IS NULL AND failed_at IS NULL is false"],
        ),
        (
            {"pending": False, "parts": [False, True], **holder()}, {}, "closed",
            ["it is not pending: sent_at IS NULL is false", "it still names session 17 (web-1:7), which had it when it was closed"],
        ),
        (
            holder(), {}, "held",
            ["session 17 (web-1:7) has it, in attempt 2: its last keepalive was 2 seconds ago, its lease runs for 28 seconds more"],
        ),
        (
            {**holder(label="", beat_ago=0.9, state="draining", asked_to_cancel=True), "locked": True}, {"lockers": [DBA]}, "held",
            [
                ("session 17 has it, in attempt 2: its last keepalive was 1 second ago, its lease runs for 28 seconds more; it is asked "
                "to cancel the task; it is draining"),
                "its row is locked, by pid 99 (psql, role dba), in a transaction for 5 minutes",
            ],
        ),
        (
            holder(state="foreign"), {}, "waiting",
            ["it names session 17 (web-1:7), which is of another mapping, so no session of this one can take it: clear that column of the row"],
        ),
        (holder(state="expired", left=-4), {}, "claimable", [NOW, "it still names session 17 (web-1:7), whose lease ran out 4 seconds ago"]),
        (holder(state="ended"), {}, "claimable", [NOW, "it still names session 17 (web-1:7), which has ended"]),
        ({"holder": 17}, {}, "claimable", [NOW, "it still names session 17, of which there is no record"]),
        ({"parked": True, "due_in": None}, {}, "parked", ["it is parked: nobody takes it before session-lock retry"]),
        ({"due_in": 40.4}, {}, "scheduled", ["it is not due yet: it is available in 40 seconds"]),
        (
            {"due_in": 7200, "paused_for": 60, "limits": [{"of_value": False, "most": 1, "used": 1}]}, {}, "scheduled",
            ["it is not due yet: it is available in 2 hours", "the mapping is paused, for 60 seconds now"],
        ),
        (
            {"copy_of": "database shop of server 7", "live": 0}, {"shares": []}, "waiting",
            [
                "this database is a copy of database shop of server 7, in which no session starts before session-lock adopt",
                "no session is live: no Runner of this mapping runs",
            ],
        ),
        ({"live": 2, "draining": 2, "fitting": []}, {"shares": []}, "waiting", ["all sessions that live are draining"]),
        ({"live": 2, "draining": 1}, {}, "claimable", [NOW]),
        (
            {"needed": "2.4", "fitting": []},
            {"table": ASKING, "shares": [share(app_version="2.3"), share(2, app_version="2.2"), share(3, app_version="9", state="draining")]},
            "waiting",
            ["it needs app_version '2.4' (accepts), which no session that takes work has: there is '2.2', '2.3'"],
        ),
        (
            {"needed": "9" * 200, "fitting": []},
            {"table": ASKING, "shares": [share(each, app_version=str(each)) for each in range(1, 8)]},
            "waiting",
            [f"it needs app_version '{'9' * 100}' (accepts), which no session that takes work has: there is '1', '2', '3', '4', '5' .."],
        ),
        (
            {"needed": "nightly", "fitting": [], "parts": [True, True]}, {"table": DUTIES}, "waiting",
            ["no session that takes work has declared its duty"],
        ),
        (
            {"locked": True}, {"lockers": [Locker(pid=5, sure=True, application_name="", role=None, since=None), DBA]}, "waiting",
            ["its row is locked, by pid 5 or pid 99 (psql, role dba), in a transaction for 5 minutes"],
        ),
        (
            {"locked": True}, {"lockers": [replace(DBA, sure=False)]}, "waiting",
            ["its row is locked, perhaps by pid 99 (psql, role dba), in a transaction for 5 minutes"],
        ),
        ({"locked": True}, {}, "waiting", ["its row is locked, by somebody's transaction that could not be found any more"]),
        ({"locked": None}, {}, "claimable", [NOW]),
        *(
            (
                {"behind": {"key": "8", "state": state}}, {"table": SQUARE}, "waiting",
                [f"task 8 of the same address comes before it in order, and {text}"],
            )
            for state, text in {
                "held": "a session has that", "parked": "that is parked", "scheduled": "that is not due yet", "due": "that is not done yet",
            }.items()
        ),
        (
            {"limits": [{"of_value": False, "most": 3, "used": 2}, {"of_value": True, "most": 1, "used": 1}]}, {"table": SQUARE}, "waiting",
            ["a limit holds it back: as many tasks of its address are held as may be (1)"],
        ),
        (
            {"limits": [{"of_value": False, "most": 1000, "used": 1000}, {"of_value": False, "most": 5, "used": 6, "per": 60, "frees_in": 12.0}]}, {}, "waiting",
            [
                "a limit holds it back: as many tasks of the mapping are held as may be (1,000)",
                "a rate holds it back: as many tasks of the mapping were started within 60 s as may be (5), the next one may start in 12 seconds",
            ],
        ),
        ({}, {"shares": [share(held=10)]}, "waiting", ["the sessions that may take it hold as many tasks as they can (10)"]),
        (
            {"fitting": [1, 2]}, {"shares": [share(held=2, target=2), share(2, held=1, target=1), share(3)]}, "waiting",
            [
                ("the sessions that may take it hold their shares of the tasks that are due (3): one with nothing to do goes beyond its "
                "share after its patience"),
            ],
        ),
        ({"fitting": [1, 2]}, {"shares": [share(held=2, target=2), share(2, held=1, target=2)]}, "claimable", [NOW]),
    ],
)  # fmt: skip
def test_the_story(facts, options, state, why):
    given = {"table": EMAILS, "shares": [share()], **options}
    found = explain("7", {**FREE, **facts}, **given)
    assert (found.state, [found.why, *found.also]) == (state, why)


def test_of_several_reasons_the_first_is_what_is_in_the_way_of_most():
    facts = {
        "paused_for": 5.0, "locked": True, "needed": "2", "fitting": [], "behind": {"key": "8", "state": "held"},
        "limits": [{"of_value": False, "most": 1, "used": 1}], **holder(state="ended"),
    }  # fmt: skip
    table = replace(SQUARE, accepts="body")
    found = explain("7", {**FREE, **facts}, table, [share()], [DBA])
    assert [text.split()[0:3] for text in [found.why, *found.also]] == [
        ["the", "mapping", "is"],
        ["it", "needs", "app_version"],
        ["its", "row", "is"],
        ["task", "8", "of"],
        ["a", "limit", "holds"],
        ["it", "still", "names"],
    ]


def test_what_went_wrong_with_a_task_that_is_gone():
    failure = {"attempt": 1, "ago": 3.0, "session": 17, "error": "ValueError: no"}
    found = explain("7", {**FREE, "pending": None, "failures": [failure]}, EMAILS)
    assert (found.state, found.also) == ("unknown", ["it was there: what went wrong with it is still kept"])
    assert found.failures[0].error == "ValueError: no"


def test_where_functions_are_written_by_hand():
    around = {
        name: FREE[name] for name in ("copy_of", "paused_for", "session", "live", "draining", "failures")
    }
    by_hand = "its functions are written by hand: what its row says is not known here"
    found = explain("7", around)
    assert (found.state, found.why, found.also) == ("unseen", by_hand, [])
    found = explain("7", {**around, "live": 0})
    assert (found.why, found.also) == ("no session is live: no Runner of this mapping runs", [by_hand])


def test_for_machines_the_keys_are_the_same_whatever_is_told():
    for facts in ({}, {"pending": None}, holder()):
        found = explain("7", {**FREE, **facts}, EMAILS, [share()]).as_json()
        assert list(json.loads(json.dumps(found))) == [
            "key", "state", "why", "also", "conditions", "session", "token", "attempts", "due_in", "needs", "in_front", "limits", "locked",
            "lockers", "failures",
        ]  # fmt: skip
    assert list(found["session"]) == [
        "id", "label", "app_version", "state", "beat_ago", "left", "asked_to_cancel",
    ]  # fmt: skip
    assert found["conditions"][0] == {"text": "sent_at IS NULL", "holds": True}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 seconds"), (0.4, "0 seconds"), (0.6, "1 second"), (119, "119 seconds"), (120, "2 minutes"), (7199, "119 minutes"),
        (7200, "2 hours"), (172_799, "47 hours"), (172_800, "2 days"), (10**8, "1157 days"),
    ],
)  # fmt: skip
def test_a_length_of_time(seconds, text):
    assert span(seconds) == text
