"""Why a task does not run, or who has it: from the facts that a database tells to a sentence. Nothing here asks one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from session_lock.conjuncts import conjuncts
from session_lock.explaining import SessionShare
from session_lock.facts import Condition, FailedAttempt, Holder, LimitUse, Locker, State, Why
from session_lock.table import TaskTable
from session_lock.wording import span


def explain(
    key: str,
    told: Mapping[str, Any],
    table: TaskTable | None = None,
    shares: Sequence[SessionShare] = (),
    lockers: Sequence[Locker] | None = (),
) -> Why:
    """The facts of `why` in `sql/tasks.alwaysup.sql`; without a table, of `around_task` alone. `lockers` is None where they are not shown."""
    holder = _holder(told)
    failures = [FailedAttempt(**each) for each in told["failures"]]
    if table is None:
        reasons = [*_of_all(told), "its functions are written by hand: what its row says is not known here"]
        return Why(key=key, state="unseen", why=reasons[0], also=reasons[1:], failures=failures)
    if told["pending"] is None:
        kept = ["it was there: what went wrong with it is still kept"] if failures else []
        return Why(key=key, state="unknown", why=f"there is no such task in {table.table}", also=kept, failures=failures)  # fmt: skip
    limits = [
        LimitUse(by=table.rules.column if each.pop("of_value") else None, **each)
        for each in (dict(each) for each in told["limits"])
    ]
    state, reasons = _story(told, table, holder=holder, limits=limits, shares=shares, lockers=lockers)
    return Why(
        key=key,
        state=state,
        why=reasons[0],
        also=reasons[1:],
        conditions=_conditions(told, table),
        session=holder,
        token=told["token"],
        attempts=told["attempts"],
        due_in=told["due_in"],
        needs=told["needed"] if table.accepts is not None else None,
        in_front=told["in_front"],
        limits=limits,
        locked=told["locked"],
        lockers=lockers or (),
        failures=failures,
    )


def _holder(told: Mapping[str, Any]) -> Holder | None:
    if told["session"] is not None:
        return Holder(**told["session"])
    if (id_ := told.get("holder")) is None:
        return None
    return Holder(id=id_, label="", app_version="", state="gone", beat_ago=0, left=0, asked_to_cancel=False)


def _conditions(told: Mapping[str, Any], table: TaskTable) -> Sequence[Condition]:
    """One, where the parts could not be asked."""
    texts, parts = conjuncts(table.pending), told["parts"]
    if len(texts) != len(parts):
        # Several are those of another library, which has written the functions.
        texts, parts = (table.pending,), parts if len(parts) == 1 else (told["pending"],)
    return [
        Condition(text=" ".join(text.split()), holds=holds) for text, holds in zip(texts, parts, strict=True)
    ]


# The story: the first reason is the sentence ------------------------------------------------------------


def _story(
    told: Mapping[str, Any],
    table: TaskTable,
    *,
    holder: Holder | None,
    limits: Sequence[LimitUse],
    shares: Sequence[SessionShare],
    lockers: Sequence[Locker] | None,
) -> tuple[State, list[str]]:
    locked = [_locked(lockers)] if told["locked"] else []
    named = [_named(holder)] if holder else []
    if not told["pending"]:
        return "closed", [_closed(_conditions(told, table)), *named]
    if holder and holder.lives:
        return "held", [_held(holder, told), *locked]
    if holder and holder.state == "foreign":
        return "waiting", [*named, *locked]
    if told["parked"]:
        return "parked", ["it is parked: nobody takes it before session-lock retry", *locked, *named]
    obstacles = [*_of_all(told), *_of_kind(told, table, shares), *locked]
    if told["due_in"] > 0:
        return "scheduled", [
            f"it is not due yet: it is available in {span(told['due_in'])}",
            *obstacles,
            *named,
        ]
    obstacles += [*_behind(told, table), *(text for each in limits if (text := _used_up(each)))]
    if obstacles:
        return "waiting", [*obstacles, *named]
    fitting = [each for each in shares if each.session in told["fitting"]]
    if full := _full(fitting):
        return "waiting", [full, *named]
    return "claimable", [_claimable(told, table) + _when(told, table, fitting), *named]


def _closed(conditions: Sequence[Condition]) -> str:
    wrong = [
        f"{each.text} is {'NULL' if each.holds is None else 'false'}" for each in conditions if not each.holds
    ]
    return f"it is not pending: {', '.join(wrong)}"


def _held(holder: Holder, told: Mapping[str, Any]) -> str:
    text = (
        f"{holder.name} has it, in attempt {told['attempts']}: its last keepalive was {span(holder.beat_ago)} ago, "
        f"its lease runs for {span(holder.left)} more"
    )
    if holder.asked_to_cancel:
        text += "; it is asked to cancel the task"
    return text + ("; it is draining" if holder.state == "draining" else "")


def _named(holder: Holder) -> str:
    match holder.state:
        case "foreign":
            return f"it names {holder.name}, which is of another mapping, so no session of this one can take it: clear that column of the row"
        case "gone":
            return f"it still names session {holder.id}, of which there is no record"
        case "expired":
            return f"it still names {holder.name}, whose lease ran out {span(-holder.left)} ago"
        case "ended":
            return f"it still names {holder.name}, which has ended"
        case _:
            return f"it still names {holder.name}, which had it when it was closed"


def _of_all(told: Mapping[str, Any]) -> Iterator[str]:
    """What is in the way of all tasks of the mapping."""
    if told["copy_of"] is not None:
        yield f"this database is a copy of {told['copy_of']}, in which no session starts before session-lock adopt"
    if not told["live"]:
        yield "no session is live: no Runner of this mapping runs"
    elif told["live"] == told["draining"]:
        yield "all sessions that live are draining"
    if told["paused_for"] is not None:
        yield f"the mapping is paused, for {span(told['paused_for'])} now"


def _of_kind(told: Mapping[str, Any], table: TaskTable, shares: Sequence[SessionShare]) -> Iterator[str]:
    """What keeps it from all sessions that take work."""
    taking = [each for each in shares if each.state == "live"]
    if not taking or told["fitting"]:
        return
    if table.made_by == "duties":
        yield "no session that takes work has declared its duty"
    elif told["needed"] is not None:
        versions = sorted({each.app_version for each in taking})
        yield (
            f"it needs app_version {told['needed'][:100]!r} (accepts), which no session that takes work has: "
            f"there is {', '.join(map(repr, versions[:5]))}{' ..' if len(versions) > 5 else ''}"
        )


def _locked(lockers: Sequence[Locker] | None) -> str:
    if lockers is None:
        views = "pg_catalog.pg_locks, pg_catalog.pg_stat_activity, pg_catalog.pg_prepared_xacts"
        return f"its row is locked, and by whom is left out, this role may not see it: GRANT SELECT ON {views} TO it"
    if not lockers:
        return "its row is locked, by somebody's transaction that could not be found any more"
    by = "by" if all(each.sure for each in lockers) else "perhaps by"
    return f"its row is locked, {by} {' or '.join(map(str, lockers))}"


def _behind(told: Mapping[str, Any], table: TaskTable) -> Iterator[str]:
    if (head := told["behind"]) is not None:
        standing = {
            "held": "a session has that",
            "parked": "that is parked",
            "scheduled": "that is not due yet",
        }
        yield (
            f"task {head['key']} of the same {table.rules.column} comes before it in order, and "
            f"{standing.get(head['state'], 'that is not done yet')}"
        )


def _used_up(limit: LimitUse) -> str | None:
    if limit.used < limit.most:
        return None
    of = "the mapping" if limit.by is None else f"its {limit.by}"
    if limit.per is None:
        return f"a limit holds it back: as many tasks of {of} are held as may be ({limit.most:,})"
    after = "" if limit.frees_in is None else f", the next one may start in {span(limit.frees_in)}"
    return f"a rate holds it back: as many tasks of {of} were started within {limit.per:g} s as may be ({limit.most:,}){after}"


def _full(fitting: Sequence[SessionShare]) -> str | None:
    """Where all hold what they may."""
    if any(each.held < min(each.target, each.capacity) for each in fitting):
        return None
    held, capacity = sum(each.held for each in fitting), sum(each.capacity for each in fitting)
    if held >= capacity:
        return f"the sessions that may take it hold as many tasks as they can ({held:,})"
    return (
        f"the sessions that may take it hold their shares of the tasks that are due ({held:,}): one with nothing to do goes "
        "beyond its share after its patience"
    )


def _claimable(told: Mapping[str, Any], table: TaskTable) -> str:
    if versions := told.get("versions"):  # not told by functions of an earlier library
        return (
            "it is claimable now by this version of the mapping, which no session that takes work runs: they run "
            f"{', '.join(versions[:5])}{' ..' if len(versions) > 5 else ''}, and take it if it is pending by that"
        )
    if table.rules.fair:
        return "it is claimable now"
    if told["in_front"] is None and (table.accepts is not None or table.made_by == "duties"):
        return "it is claimable now, in its turn among those that are for the same sessions (accepts)"
    if told["in_front"] is None:
        return "it is claimable now, behind more than 10,000 others"
    if told["in_front"]:
        return f"it is claimable now, behind {told['in_front']:,} other{'' if told['in_front'] == 1 else 's'}"
    return "it is claimable now"


def _when(told: Mapping[str, Any], table: TaskTable, fitting: Sequence[SessionShare]) -> str:
    """Busy is who has no room, and runs something: one that has just started has not looked yet."""
    if fitting and all(each.running and not each.idle for each in fitting):
        return f"; the sessions that may take it are busy (with {sum(each.running for each in fitting):,}), and look again when a call ends"
    if told.get("versions"):
        return ""
    if table.rules.fair:
        return f": the next look takes it, when its {table.rules.column} has its turn (fair_by)"
    return ": the next look takes it" if told["in_front"] == 0 else ""
