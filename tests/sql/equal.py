"""Mutants that nobody can tell from the original, and why: by their names in `mutants.py`."""

from __future__ import annotations

INLINED = "PostgreSQL never inlines a query WITH a row lock (contain_dml in subselect.c), so MATERIALIZED is said for the reader"
SKIPPED = "nobody waits for a row here (SKIP LOCKED), so the order in which rows are locked cannot lead to a deadlock, and all are taken"
UNENDED = "a session that has not ended is never swept: only sweep_sessions sweeps, and is given ended ones"
HELD_NEXT = "hold_session comes next and refuses, unless id and nonce belong together and the session lives; what was read is not used before"
FORGETS = "forget_cancelled asks the same again, under the row's lock"
PAIRS = "session and key are compared in pairs, so that each of the two conditions implies the other"
NULLS = "a value is never null: what comes after the last one is null, has no row, and is visited as one more of a thousand"
LEAST = "without such a limit nothing is subtracted from it: what is taken from null is null, and least() passes over that"
JOINED = "joined by the value, so that what is counted of others is left out"
AGAIN = "what is offered twice, or was picked before, is claimed once: the look is done again, without that value, for what is missing"
BOUND = "the walk ends with the same values, and has visited some more or some less of a thousand"

EQUAL: dict[str, str] = {
    "get_work: no `LIMIT my.want`": "the LIMIT around it ends the walk as soon, and a row is locked only when it is asked for",
    "sessions_of: without `AND s.swept_at IS NULL` (2)": UNENDED,
    "sessions_of: not so `AS MATERIALIZED`": INLINED,
    "sweep_sessions: without `AND s.id <> ALL (p_named)`": "what is swept although a task names it comes back in the next statement of the same call",
    "sweep_sessions: without `AND s.swept_at IS NULL`": "it is asked only whether swept_at is null, so a later time there says the same",
    "sweep_sessions: no `ORDER BY s.id`": SKIPPED,
    "sweep_sessions: no `ORDER BY s.id` (2)": SKIPPED,
    "sweep_sessions: not so `AS MATERIALIZED`": INLINED,
    "sweep_sessions: not so `AS MATERIALIZED` (2)": INLINED,
    "forget_cancelled: without `AND NOT s.cancel_keys <@ p_held`": "the row is written again as it is",
    "forget_cancelled: not so `AS MATERIALIZED`": INLINED,
    "note_look: not so `AS MATERIALIZED`": INLINED,
    "tell_all: without `AND s.swept_at IS NULL`": UNENDED,
    "ask_for_tasks: no `ORDER BY s.id`": SKIPPED,
    "ask_for_tasks: not so `AS MATERIALIZED`": INLINED,
    "wake: without `AND s.swept_at IS NULL`": UNENDED,
    "limit_transaction: never `v_set_to IS NULL`": "what is null is neither zero nor more than the limit, so the branch below is not taken",
    "possible: without `ring.value IS NOT NULL AND`": NULLS,
    "possible: without `AND ring.number < my.enough`": "what is beyond enough is cut off at the end: least(my.number, my.enough)",
    "possible: no `ORDER BY __order_by__`": "whichever rows it counts first, the number is exact or as much as is enough, here or value by value",
    "pick: without `(__pending__) AND` (4)": "a value of closed rows alone has no task to offer, and is one more of the thousand that are visited",
    "pick: without `ring.value IS NOT NULL AND`": NULLS,
    "pick: without `AND (my.laps = 0 OR ring.value <= my.turn)`": "what lies beyond the turn is left out below, and ends the lap all the same",
    "pick: without `ring.value IS NOT NULL AND` (2)": NULLS,
    "pick: without `__most_each__ IS NOT NULL AND`": LEAST,
    "pick: without `AND __value__ = ANY (my.next)`": JOINED,
    "pick: without `__rate_each__ IS NOT NULL AND`": LEAST,
    "pick: without `AND s.value = ANY (my.next)`": JOINED,
    "pick: without `f.key <> ALL (my.offer) AND`": AGAIN,
    "pick: without `AND f.key <> ALL (my.keys)`": AGAIN,
    "pick: without `__most_each__ IS NOT NULL AND` (2)": LEAST,
    "pick: without `AND __value__ = ANY (my.offer_of)`": JOINED,
    "pick: without `__rate_each__ IS NOT NULL AND` (2)": LEAST,
    "pick: without `AND s.value = ANY (my.offer_of)`": JOINED,
    "pick: always `v.value <> ALL (my.locked)`": "a lock that the transaction has already is given to it again",
    "pick: no `ORDER BY __order_by__` (3)": "row_number() has put them into this order",
    "pick: no `LIMIT my.walk`": "the LIMIT around it ends the walk as soon",
    "pick: no `LIMIT my.walk` (2)": "the parts have the same LIMIT, and what is beyond what is wanted is cut off below",
    "pick: no `LIMIT quota.number`": "the LIMIT around it ends the walk as soon, and a row is locked only when it is asked for",
    "pick: its second alone, of `greatest(my.want,`": BOUND,
    "pick: its second alone, of `greatest(pick__set__.not_before,` (2)": "it is null here: where it was set before, nothing is picked",
    "pick: no `+ 1` (2)": BOUND,
    "plan_duties: without `AND NOT d.watches`": "the row is written again as it is",
    "plan_duties: without `AND d.since < my.duty.since`": "the row is written again as it is",
    "plan_duties: weaker `FOR UPDATE`": "who locks a duty's row waits for NO KEY UPDATE too, and nobody refers to it by a foreign key",
    "forget_duties: not so `AS MATERIALIZED`": INLINED,
    "enqueue_keys: not so `AS MATERIALIZED`": "PostgreSQL never inlines a query WITH a volatile function, so MATERIALIZED is said for the reader",
    "standing: no `ORDER BY t.__key__`": SKIPPED,
    "standing: not so `AS MATERIALIZED`": INLINED,
    "get_work: always `s.id = ANY (my.ended)`": PAIRS,
    "get_work: without `AND t.__session_id__ = ANY (my.ended)`": PAIRS,
    "get_work: always `count(*) > 0`": "note_expired is given no keys then, and notes nothing",
    "get_work: without `t.__key__ = ANY (my.keys) AND` (2)": "whether it was rescued is asked of those that are claimed, and of no other",
    "get_work: without `s.id = p_id AND`": FORGETS,
    "get_work: without `AND NOT s.cancel_keys <@ my.asked`": FORGETS,
    "get_work: the first alone, of `my.held || my.keys`": "what it has just claimed names it, and is added below",
    "get_work: no `ORDER BY t.__key__`": SKIPPED,
    "get_work: no `ORDER BY t.__key__` (2)": SKIPPED,
    "finish_in: not so `AS MATERIALIZED`": INLINED,
    "release_tasks: without `s.id = p_id AND`": HELD_NEXT,
    "release_tasks: without `AND s.nonce = p_nonce`": HELD_NEXT,
    "release_tasks: without `AND s.ended_at IS NULL`": HELD_NEXT,
    "retry_tasks: no `ORDER BY t.__key__`": SKIPPED,
}
