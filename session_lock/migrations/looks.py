"""What `overview` asks the server about itself, and about the table."""

from __future__ import annotations

from session_lock.migrations.partitions import OF_THE_TABLE

HELD_BY = 10
"""Transactions, prepared ones, slots and standbys that are told of, of what holds vacuum."""

MANY = 1_000_000
"""Transactions for which no standby that is well holds vacuum: of a busy server some minutes."""

ME = """
SELECT clock_timestamp() AS at, quote_ident(current_user) AS role, current_setting('track_counts')::boolean AS counted,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all
"""

CONNECTIONS = """
SELECT (SELECT sum(d.numbackends) FROM pg_catalog.pg_stat_database AS d)::integer AS used,
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
         - coalesce(current_setting('reserved_connections', true), '0')::integer AS most,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity AS a
         WHERE a.datname = current_database() AND a.application_name ~ '^session[-_]lock')::integer AS ours
"""

STATE = f"""
SELECT clock_timestamp() AS at, coalesce(sum(s.n_dead_tup), 0)::bigint AS dead, coalesce(sum(s.n_live_tup), 0)::bigint AS live,
       coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS size_bytes, max(s.last_autovacuum) AS last_autovacuum,
       coalesce(sum(s.n_tup_upd), 0)::bigint AS updated, coalesce(sum(s.n_tup_del), 0)::bigint AS deleted
  FROM pg_catalog.pg_stat_all_tables AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.relid
 WHERE {OF_THE_TABLE}
"""

NO_VACUUM = "NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)"
"""A VACUUM has a snapshot as well, and is told of with it; but no other one waits for it."""

STANDBYS = f"""
SELECT s.slot, a.application_name AS application, host(a.client_addr) AS address, s.pid,
       CASE WHEN c.since >= $1 THEN c.since END AS since, age(s.xmin) AS transactions
  FROM (SELECT s.slot_name::text AS slot, s.active_pid AS pid, s.xmin FROM pg_catalog.pg_replication_slots AS s WHERE s.active
        UNION ALL
        SELECT NULL, w.pid, w.backend_xmin FROM pg_catalog.pg_stat_activity AS w WHERE w.backend_type = 'walsender' AND w.xact_start IS NULL) AS s
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.pid
 CROSS JOIN LATERAL (
         SELECT CASE WHEN age(s.xmin) > age(split_part(k.next_xid, ':', 2)::xid)
                     THEN extract(epoch FROM clock_timestamp() - k.checkpoint_time)::float8 END AS since
           FROM pg_catalog.pg_control_checkpoint() AS k) AS c
 WHERE age(s.xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid) AND (c.since >= $1 OR age(s.xmin) >= {MANY})
"""
"""Connected standbys with hot_standby_feedback, of which the oldest transaction is old. Nobody knows since when it is open, but one that
is older than the last checkpoint is so for as long at least. What is as old as a transaction that runs here is not the standby's own.
"""

HOLDERS = f"""
SELECT 'transaction' AS kind, a.pid, NULL AS name, coalesce(a.application_name, '') AS application, a.usename::text AS role, NULL AS address,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS since,
       greatest(age(a.backend_xmin), age(a.backend_xid)) AS transactions
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
   AND a.xact_start < clock_timestamp() - make_interval(secs => $1) AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
   AND {NO_VACUUM}
UNION ALL
SELECT 'prepared', NULL, p.gid, '', p.owner::text, NULL, extract(epoch FROM clock_timestamp() - p.prepared)::float8, age(p.transaction)
  FROM pg_catalog.pg_prepared_xacts AS p
 WHERE p.database = current_database() AND p.prepared < clock_timestamp() - make_interval(secs => $1)
UNION ALL
SELECT 'slot', NULL, s.slot_name::text, '', NULL, NULL, NULL, age(s.xmin)
  FROM pg_catalog.pg_replication_slots AS s
 WHERE NOT s.active AND s.xmin IS NOT NULL
UNION ALL
SELECT 'standby', b.pid, b.slot, b.application, NULL, b.address, b.since, b.transactions
  FROM ({STANDBYS.replace("$1", "$2")}) AS b
 ORDER BY transactions DESC
 LIMIT {HELD_BY}
"""

FOR_HOLDERS = (
    "SELECT ON pg_catalog.pg_stat_activity, pg_catalog.pg_stat_progress_vacuum, pg_catalog.pg_prepared_xacts, pg_catalog.pg_replication_slots",
    "EXECUTE ON FUNCTION pg_catalog.pg_control_checkpoint()",
)
"""Rights, which all have unless they were taken away."""


def walsender(pid: int, application: str | None, address: str | None, slot: str | None) -> str:
    """The connection of a standby, as it is told of; None is what there is not, or the role may not see."""
    told = [application, address, f"replication slot {slot}" if slot else None]
    about = ", ".join(each for each in told if each)
    return f"pid {pid}{f' ({about})' if about else ''}"
