"""The superuser's connection, as for the other tests of the SQL."""

from tests.sql.conftest import admin

__all__ = ["admin"]
