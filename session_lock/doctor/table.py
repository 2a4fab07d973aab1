"""The task table and the schema: what is installed, who has locked it, and whether it is vacuumed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from session_lock.asking import lockers_of_table
from session_lock.doctor.case import Case, hurried
from session_lock.doctor.rights import ending, rolling_back
from session_lock.findings import Finding, Severity
from session_lock.migrations import check
from session_lock.migrations.partitions import OF_THE_TABLE

FEW = 10_000
"""Rows that are nothing to speak of."""

DEAD = 0.4
"""Dead rows, as a part of those that live: twice of what autovacuum allows by default."""

IN_THE_WAY = ["ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"]
"""Under which no row can be claimed."""


async def installation(case: Case) -> AsyncIterator[Finding]:
    """What `check` finds."""
    if case.table is None:
        yield Finding(
            severity="unseen",
            text="the functions are written by hand, so what is installed cannot be compared, nor the table looked at",
        )
        return
    about = {"mapping": case.table.name, "table": case.table.table}
    for each in await check(case.connection, case.table, role=case.role):
        severity: Severity = "note" if each.note else "error"
        yield Finding(severity=severity, text=each.text, remedy=each.remedy, evidence=about)


@hurried
async def locks(case: Case) -> AsyncIterator[Finding]:
    if case.table is None:
        return
    for who in await lockers_of_table(case.connection, case.table, IN_THE_WAY, sure=True):
        yield Finding(
            severity="error",
            text=f"the whole table {case.table.table} is locked by {who}: no task can be claimed or finished",
            remedy=await ending(case.connection, who.pid)
            if who.prepared is None
            else await rolling_back(case.connection, who.prepared),
            evidence={
                "pid": who.pid,
                "prepared": who.prepared,
                "application_name": who.application_name,
                "role": who.role,
                "since": who.since,
            },
        )


@hurried
async def vacuum(case: Case) -> AsyncIterator[Finding]:
    """Of the task table, its partitions, and the tables of the schema."""
    rows = await case.connection.fetch(
        f"""
        SELECT format('%I.%I', n.nspname, c.relname) AS name, s.n_dead_tup AS dead, s.n_live_tup AS live, c.reltuples >= 0 AS is_analyzed,
               EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o
                        WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean) AS is_off
          FROM pg_catalog.pg_stat_all_tables AS s
          JOIN pg_catalog.pg_class AS c ON c.oid = s.relid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND ({OF_THE_TABLE} OR c.relnamespace = to_regnamespace($3))
         ORDER BY 1
        """,
        *case.qualified,
        case.wanted.schema,
    )
    for row in rows:
        evidence = {name: row[name] for name in ("name", "dead", "live")}
        if row["is_off"]:
            yield Finding(
                severity="warning",
                text=f"autovacuum is off for {row['name']}: nothing takes its dead rows away",
                remedy=f"ALTER TABLE {row['name']} RESET (autovacuum_enabled)",
                evidence=evidence,
            )
        if row["dead"] > FEW + DEAD * row["live"]:
            yield Finding(
                severity="warning",
                text=f"{row['name']} has {row['dead']:,} dead rows beside {row['live']:,} that live: autovacuum does not keep up, or something keeps "
                "them from going",
                remedy=f"VACUUM (ANALYZE) {row['name']}",
                evidence=evidence,
            )
        if row["live"] >= FEW and not row["is_analyzed"]:
            yield Finding(
                severity="warning",
                text=f"{row['name']} has {row['live']:,} rows and was never analyzed: its plans are guesses",
                remedy=f"ANALYZE {row['name']}",
                evidence=evidence,
            )
