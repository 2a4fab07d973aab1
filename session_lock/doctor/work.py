"""Who does the work: sessions, claims that nobody will take over, and what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator

from session_lock.catalog import read_shape
from session_lock.doctor.case import Case, hurried
from session_lock.doctor.way import SKEW
from session_lock.findings import Finding
from session_lock.migrations import pending_summary
from session_lock.migrations.pruning import FAILURES_KEPT, SESSIONS_KEPT
from session_lock.migrations.reading import COUNTED
from session_lock.names import one_line_safe, quote_inside_literal, quote_name
from session_lock.objects import function_set
from session_lock.wording import span

MANY = 100
"""Failures in an hour that are few."""

WAITS = 90.0
"""Seconds for which a task is due and free, and not taken by who has room: three polls."""

LONG = 900.0
"""Seconds for which it waits for a slot."""

SEEN = ("session", "label", "held", "running", "idle", "free", "unfit")

GROWTH = 10
"""Times as many failures in the last hour as in an hour of the day before."""


@hurried
async def sessions(case: Case) -> AsyncIterator[Finding]:
    schema = case.wanted.schema
    row = await case.connection.fetchrow(
        f"""
        SELECT count(*) AS live, count(*) FILTER (WHERE s.draining) AS draining,
               coalesce(array_agg(DISTINCT s.functions), '{{}}') AS functions,
               extract(epoch FROM max(coalesce(s.beat_at, s.started_at)) - max(c.now))::float8 AS in_future,
               (SELECT extract(epoch FROM {schema}.clock() - p.at)::float8 FROM {schema}.pause AS p WHERE p.name = $1) AS paused
          FROM {schema}.session AS s, (SELECT {schema}.clock() AS now) AS c
         WHERE s.name = $1 AND s.swept_at IS NULL AND s.ended_at IS NULL AND s.expires_at > c.now
        """,
        case.wanted.name,
    )
    assert row is not None
    if row["paused"] is not None:
        yield Finding(
            severity="warning",
            text=f"the mapping is paused, for {span(row['paused'])} now: no task is claimed",
            remedy=f"SELECT {schema}.resume_mapping('{quote_inside_literal(case.wanted.name)}')",
            evidence={"seconds": row["paused"]},
        )
    if row["live"] and row["live"] == row["draining"]:
        yield Finding(
            severity="warning",
            text="all sessions that live are draining: no task is claimed",
            remedy="start an instance of the service",
            evidence={"live": row["live"]},
        )
    if (row["in_future"] or 0) > SKEW:
        yield Finding(
            severity="warning",
            text=f"a keepalive was {span(row['in_future'])} from now: the server's clock was put back, and a session that has died since then is "
            "taken for alive until it gets there",
            remedy="session-lock sessions MODULE:ATTRIBUTE shows who there is; let the server follow a time server (timedatectl set-ntp true)",
            evidence={"seconds": row["in_future"]},
        )
    if (table := case.table) is None:
        return
    if not row["live"] and (due := await pending_summary(case.connection, table)).oldest is not None:
        yield Finding(
            severity="error",
            text=f"no session is live: no Runner of this mapping runs, and {due}",
            remedy="start an instance of the service",
            evidence={"pending": due.count, "oldest": due.oldest.total_seconds()},
        )
    current = function_set(table, await read_shape(case.connection, table))
    if others := sorted({*row["functions"]} - {current, ""}):
        these = f"({', '.join(others)}) than this one, {current}"
        waiting = None
        if not {current, ""} & {*row["functions"]}:
            waiting = await pending_summary(case.connection, table)
        if waiting is not None and waiting.oldest is not None:
            yield Finding(
                severity="warning",
                text=f"all live sessions use another version of the mapping {these}, by which {waiting}: a task that is not pending by theirs is not done",
                remedy="start an instance of the service that has this version, or ask about the one that runs",
                evidence={
                    "functions": others,
                    "pending": waiting.count,
                    "oldest": waiting.oldest.total_seconds(),
                },
            )
        else:
            yield Finding(
                severity="note",
                text=f"live sessions use another version of the mapping {these}",
                remedy="session-lock prune MODULE:ATTRIBUTE, once they have ended",
                evidence={"functions": others},
            )


@hurried
async def backlog(case: Case) -> AsyncIterator[Finding]:
    """Tasks that are due and free for long, though sessions live. The service's role may ask this too: by functions that it executes."""
    if (table := case.table) is None:
        return
    schema, functions = case.wanted.schema, function_set(table, await read_shape(case.connection, table))
    shares = f"{schema}.{quote_name(f'shares_{functions}')}"
    if not await case.connection.fetchval("SELECT to_regproc($1) IS NOT NULL", shares):
        return  # the look at what is installed says so
    rows = await case.connection.fetch(f"SELECT * FROM {shares}()")
    live = [row for row in rows if row["state"] in {"live", "draining"}]
    takers = [row for row in live if row["state"] == "live" and not row["paused"] and not row["limited"]]
    if not takers:
        return
    tell = f"SELECT b.tasks, b.oldest FROM {schema}.{quote_name(f'backlog_{functions}')}($1) AS b"
    waiting = await case.connection.fetchrow(tell, live[0]["session"])
    if waiting is None or waiting["oldest"] < WAITS:
        return
    text = f"tasks are free, the oldest due for {span(waiting['oldest'])}, and"
    free = [row for row in takers if row["free"]]
    idle = [
        row for row in free
        if row["held"] < row["target"] and row["age"] >= WAITS and (row["idle"] or not row["running"])
    ]  # fmt: skip
    evidence = {
        "oldest": waiting["oldest"],
        "sessions": [{name: row[name] for name in SEEN} for row in takers],
    }
    if idle:
        names = ", ".join(f"{row['session']} ({row['label']})" for row in idle[:5])
        yield Finding(
            severity="error",
            text=f"{text} sessions with room take none: {names}{' ..' if len(idle) > 5 else ''}",
            remedy="ask their health() and their log (session_lock.fetch, session_lock.breaker) why: their looks fail, or nearly all of their calls did; "
            "or the rows are locked, which session-lock why MODULE:ATTRIBUTE KEY says of one",
            evidence=evidence,
        )
    elif all(row["unfit"] for row in takers):
        yield Finding(
            severity="warning",
            text=f"{text} no session that takes work may be given them (accepts)",
            remedy="start an instance of the version that they need; session-lock why MODULE:ATTRIBUTE KEY names it",
            evidence=evidence,
        )
    elif free and waiting["oldest"] >= LONG and all(row["running"] and not row["idle"] for row in free):
        yield Finding(
            severity="warning",
            text=f"{text} all sessions are busy, with {sum(row['running'] for row in free):,}",
            remedy="start more instances, or give them more slots (Settings.concurrency); if calls hang, set a task_timeout",
            evidence=evidence,
        )


@hurried
async def claims(case: Case) -> AsyncIterator[Finding]:
    """Tasks that name a session of another mapping, or one of which there is no record."""
    if (table := case.table) is None:
        return
    holder = quote_name(table.claim_columns.session_id)
    pending = one_line_safe(table.pending)
    rows = await case.connection.fetch(
        f"""
        SELECT claim.holder AS session, s.name AS mapping, count(*) AS tasks
          FROM (SELECT t.{holder} AS holder FROM {table.quoted} AS t WHERE ({pending}) AND t.{holder} IS NOT NULL LIMIT {COUNTED}) AS claim
          LEFT JOIN {case.wanted.schema}.session AS s ON s.id = claim.holder
         WHERE s.name IS DISTINCT FROM $1
         GROUP BY claim.holder, s.name
         ORDER BY tasks DESC, session
         LIMIT 10
        """,
        case.wanted.name,
    )
    for row in rows:
        foreign = row["mapping"] is not None
        whose = (
            f"which is of the mapping {row['mapping']!r}: nobody takes them over"
            if foreign
            else "of which there is no record: a look from the start finds and frees them"
        )
        yield Finding(
            severity="error" if foreign else "warning",
            text=f"pending tasks ({row['tasks']:,}) name session {row['session']}, {whose}",
            remedy=f"UPDATE {table.quoted} AS t SET {holder} = NULL WHERE t.{holder} = {row['session']}",
            evidence=dict(row),
        )


@hurried
async def failures(case: Case) -> AsyncIterator[Finding]:
    schema, name = case.wanted.schema, case.wanted.name
    row = await case.connection.fetchrow(
        f"""
        WITH newest AS (
          SELECT {schema}.clock() - f.at AS ago, f.error FROM {schema}.failure AS f WHERE f.name = $1 ORDER BY f.id DESC LIMIT {COUNTED}
        )
        SELECT count(*) FILTER (WHERE n.ago < '1 hour') AS hour, count(*) FILTER (WHERE n.ago BETWEEN '1 hour' AND '25 hours') AS day,
               count(*) FILTER (WHERE n.ago > $2) AS old,
               mode() WITHIN GROUP (ORDER BY left(split_part(n.error, ':', 1), 100)) FILTER (WHERE n.ago < '1 hour') AS most,
               (SELECT count(*) FROM {schema}.session AS s WHERE s.name = $1 AND s.swept_at < {schema}.clock() - $3::interval) AS sessions
          FROM newest AS n
        """,
        name,
        FAILURES_KEPT,
        SESSIONS_KEPT,
    )
    assert row is not None
    if row["hour"] >= MANY and row["hour"] > GROWTH * row["day"] / 24:
        yield Finding(
            severity="warning",
            text=f"{row['hour']:,} attempts have failed in the last hour, and {row['day']:,} in the day before it: mostly of {row['most']!r}",
            remedy="session-lock why MODULE:ATTRIBUTE KEY tells of one task what went wrong; then mend that",
            evidence={name: row[name] for name in ("hour", "day", "most")},
        )
    if row["old"] or row["sessions"]:
        yield Finding(
            severity="note",
            text=f"failures older than {FAILURES_KEPT.days} days ({row['old']:,}) and sessions that ended more than {SESSIONS_KEPT.days} days ago "
            f"({row['sessions']:,}) are still kept",
            remedy="session-lock prune MODULE:ATTRIBUTE",
            evidence={"failures": row["old"], "sessions": row["sessions"]},
        )
