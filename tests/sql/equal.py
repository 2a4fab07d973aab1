"""Mutants that nobody can tell from the original, and why: by their names in `mutants.py`."""

from __future__ import annotations

INLINED = "PostgreSQL never inlines a query WITH a row lock (contain_dml in subselect.c), so MATERIALIZED is said for the reader"
SKIPPED = "nobody waits for a row here (SKIP LOCKED), so the order in which rows are locked cannot lead to a deadlock, and all are taken"
UNENDED = "a session that has not ended is never swept: only sweep_sessions sweeps, and is given ended ones"
HELD_NEXT = "hold_session comes next and refuses, unless id and nonce belong together and the session lives; what was read is not used before"
FORGETS = "forget_cancelled asks the same again, under the row's lock"
PAIRS = "session and key are compared in pairs, so that each of the two conditions implies the other"

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
    "finish_in: not so `AS MATERIALIZED`": INLINED,
    "release_tasks: without `s.id = p_id AND`": HELD_NEXT,
    "release_tasks: without `AND s.nonce = p_nonce`": HELD_NEXT,
    "release_tasks: without `AND s.ended_at IS NULL`": HELD_NEXT,
    "retry_tasks: no `ORDER BY t.__key__`": SKIPPED,
}
