"""Operations for Alembic's migrations, and what its autogenerate finds: task tables that are declared, and not installed yet.

Import it in `env.py`. An operation reads from the table what types its columns have, so it needs a connection: `upgrade --sql` is
refused, and what `session-lock sql copy` writes serves there.
"""

from __future__ import annotations

from session_lock.contrib.running import needs

with needs("Alembic", "1.18"):
    from session_lock.contrib.alembic.autogenerate import with_task_tables
    from session_lock.contrib.alembic.operations import InstallTaskTable, RemoveTaskTable

__all__ = ["InstallTaskTable", "RemoveTaskTable", "with_task_tables"]
