"""What the applications here share: a database, yours or a throw-away one, with their tables in it."""

import os
from contextlib import ExitStack, asynccontextmanager

import asyncpg

from session_lock.embedded import temp_postgres
from session_lock.migrations import install


@asynccontextmanager
async def prepared(tables, *mappings):
    """The DSN of a database: that of the environment's DATABASE_URL, else of a server that lives as long as the block."""
    with ExitStack() as stack:
        dsn = os.environ.get("DATABASE_URL") or stack.enter_context(temp_postgres()).dsn
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(tables)
            for mapping in mappings:
                await install(connection, mapping)
        finally:
            await connection.close()
        yield dsn
