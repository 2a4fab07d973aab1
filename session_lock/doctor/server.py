"""The server: its settings and room, and what keeps dead rows, or the log, from going."""

from __future__ import annotations

from collections.abc import AsyncIterator

from session_lock.doctor.case import Case, hurried
from session_lock.doctor.rights import dropping, ending, rolling_back
from session_lock.facts import Locker
from session_lock.findings import Finding
from session_lock.migrations.looks import NO_VACUUM, STANDBYS, walsender
from session_lock.migrations.partitions import OF_THE_TABLE
from session_lock.wording import span

OLD = 300.0
"""Seconds after which a transaction that is open is an old one."""

KEPT = 1 << 30
"""Bytes of the log that a replication slot may keep while nobody reads it."""

CROWDED = 0.9
"""Of the connections that there may be."""

WRONG = {
    ("fsync", "off"): "a crash of the machine may destroy the database",
    ("full_page_writes", "off"): "a crash of the machine may destroy pages that were being written",
    ("autovacuum", "off"): "nothing takes away the dead rows that each claim and finish leaves",
    ("track_counts", "off"): "autovacuum does not know where there are dead rows, and takes none away",
}


@hurried
async def settings(case: Case) -> AsyncIterator[Finding]:
    rows = await case.connection.fetch(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY ($1) ORDER BY name",
        [name for name, _ in WRONG],
    )
    for row in rows:
        if effect := WRONG.get((row["name"], row["setting"])):
            yield Finding(
                severity="warning",
                text=f"{row['name']} of the server is {row['setting']}: {effect}",
                remedy=f"ALTER SYSTEM SET {row['name']} = on; SELECT pg_reload_conf()",
                evidence=dict(row),
            )
    row = await case.connection.fetchrow(
        """
        SELECT (SELECT sum(d.numbackends) FROM pg_catalog.pg_stat_database AS d)::integer AS used,
               current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
                 - coalesce(current_setting('reserved_connections', true), '0')::integer AS most
        """
    )
    assert row is not None
    if row["used"] >= CROWDED * row["most"]:
        yield Finding(
            severity="warning",
            text=f"{row['used']} of {row['most']} connections are in use: an instance that finds none can keep no lease alive",
            remedy="SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC; then close some, or raise max_connections",
            evidence=dict(row),
        )


# What holds vacuum ---------------------------------------------------------------------------------------


@hurried
async def snapshots(case: Case) -> AsyncIterator[Finding]:
    """Transactions that are open for long: who, since when, and what they cost."""
    rows = await case.connection.fetch(
        f"""
        SELECT a.pid, a.application_name, a.usename::text AS role, a.state,
               extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS since,
               greatest(age(a.backend_xmin), age(a.backend_xid)) AS transactions,
               (SELECT count(*) FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
                 WHERE l.pid = a.pid AND l.granted AND l.mode IN ('RowShareLock', 'RowExclusiveLock') AND {OF_THE_TABLE}) AS locks
          FROM pg_catalog.pg_stat_activity AS a
         WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
           AND a.xact_start < clock_timestamp() - make_interval(secs => $3) AND {NO_VACUUM}
         ORDER BY a.xact_start
        """,
        *case.qualified,
        OLD,
    )
    dead = await _dead_rows(case)
    for row in rows:
        who = Locker(
            pid=row["pid"],
            application_name=row["application_name"],
            role=row["role"],
            since=row["since"],
            sure=True,
        )
        effects: list[str] = []
        if row["transactions"] is not None:
            effects.append(
                f"no row that has died in the last {row['transactions']:,} transactions can go ({dead:,} dead ones are in the tables of the mapping)"
            )
        if row["locks"]:
            effects.append("tasks whose rows it has locked are passed over")
        if effects:
            yield Finding(
                severity="warning",
                text=f"{who}: {', and '.join(effects)}",
                remedy=await ending(case.connection, row["pid"]),
                evidence={**row, "dead_rows": dead},
            )
    if not await case.connection.fetchval("SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"):
        role = await case.connection.fetchval("SELECT quote_ident(current_user)")
        yield Finding(
            severity="unseen",
            text=f"since when transactions of other roles are open is not shown to {role}",
            remedy=f"GRANT pg_read_all_stats TO {role}",
        )


@hurried
async def prepared(case: Case) -> AsyncIterator[Finding]:
    rows = await case.connection.fetch(
        """
        SELECT p.gid, quote_literal(p.gid) AS literal, p.owner::text AS owner,
               extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS since, age(p.transaction) AS transactions
          FROM pg_catalog.pg_prepared_xacts AS p
         WHERE p.database = current_database() AND p.prepared < clock_timestamp() - make_interval(secs => $1)
         ORDER BY p.prepared
        """,
        OLD,
    )
    for row in rows:
        yield Finding(
            severity="warning",
            text=f"the transaction {row['literal']} of {row['owner']} is prepared for {span(row['since'])}: it keeps its locks, and no row that has "
            f"died in the last {row['transactions']:,} transactions can go",
            remedy=await rolling_back(case.connection, row["gid"]),
            evidence={name: row[name] for name in ("gid", "owner", "since", "transactions")},
        )


@hurried
async def slots(case: Case) -> AsyncIterator[Finding]:
    rows = await case.connection.fetch(
        """
        SELECT s.slot_name::text AS slot, quote_literal(s.slot_name) AS literal, age(s.xmin) AS transactions,
               pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::float8 AS kept
          FROM pg_catalog.pg_replication_slots AS s
         WHERE NOT s.active
         ORDER BY s.slot_name
        """
    )
    for row in rows:
        effects: list[str] = []
        if (row["kept"] or 0) >= KEPT:
            effects.append(
                f"the server keeps {row['kept'] / (1 << 20):,.0f} MB of its log, and more with each task, until its disk is full"
            )
        if row["transactions"] is not None:
            effects.append(f"no row that has died in the last {row['transactions']:,} transactions can go")
        if effects:
            yield Finding(
                severity="warning",
                text=f"nobody reads from the replication slot {row['literal']}: {', and '.join(effects)}",
                remedy=await dropping(case.connection, row["slot"]),
                evidence={"slot": row["slot"], "bytes": row["kept"], "transactions": row["transactions"]},
            )


ON_THE_STANDBY = "SELECT pid, application_name, xact_start FROM pg_stat_activity WHERE backend_xmin IS NOT NULL ORDER BY xact_start"


@hurried
async def standbys(case: Case) -> AsyncIterator[Finding]:
    """Connected ones, that have this server keep what they may still read."""
    rows = await case.connection.fetch(STANDBYS, OLD)
    dead = await _dead_rows(case) if rows else 0
    for row in rows:
        who = walsender(row["pid"], row["application"], row["address"], row["slot"])
        since = "" if row["since"] is None else f" for {span(row['since'])} at least"
        yield Finding(
            severity="warning",
            text=f"a standby, {who}, has something open{since}, or is behind, and has hot_standby_feedback: no row that has died in the last "
            f"{row['transactions']:,} transactions can go ({dead:,} dead ones are in the tables of the mapping)",
            remedy=f"on that standby end what is open ({ON_THE_STANDBY}), or let it catch up; or ALTER SYSTEM SET hot_standby_feedback = off; "
            "SELECT pg_reload_conf(), after which its queries may be cancelled",
            evidence={**row, "dead_rows": dead},
        )


async def _dead_rows(case: Case) -> int:
    return int(
        await case.connection.fetchval(
            f"""
            SELECT coalesce(sum(s.n_dead_tup), 0)::bigint
              FROM pg_catalog.pg_stat_all_tables AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.relid
             WHERE {OF_THE_TABLE} OR c.relnamespace = to_regnamespace($3)
            """,
            *case.qualified,
            case.wanted.schema,
        )
    )
