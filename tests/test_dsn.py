"""A DSN that is none is refused where it is written, and one that leads nowhere in a sentence that says what to correct."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from session_lock import DatabaseError, PostgresDatabase, SettingsError
from session_lock.dsn import describe
from tests.support import EMAILS


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql+asyncpg://app:s3cret@here/db", "begins with postgresql+asyncpg://, which names a driver: write postgresql://"),
        ("postgres+psycopg2://app:s3cret@here/db", "begins with postgres+psycopg2://, which names a driver: write postgresql://"),
        ("", "is not understood: write postgresql://user:password@host:port/database"),
        ("host=here password=s3cret", "is not understood"),
        ("mysql://app:s3cret@here/db", "is not understood"),
        ("postgresql://app:s3cr/et@here/db", "what is special in the password percent-encoded"),
        ("postgresql://app:12/s3cret@here/db", "is not understood"),
        ("postgresql://app:12?s3cret@here/db", "is not understood"),
        ("postgresql://app:s3c#ret@here/db", "is not understood"),
    ],
)  # fmt: skip
def test_what_is_no_dsn_is_said_at_once_and_not_repeated(dsn: str, expected: str) -> None:
    with pytest.raises(SettingsError) as raised:
        PostgresDatabase(dsn, EMAILS)
    assert str(raised.value).startswith("the DSN ")
    assert expected in str(raised.value)
    assert all(secret not in str(raised.value) for secret in ("s3c", "et@", "/et"))


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://", "the default server"),
        ("postgres:///db?host=/run/postgresql", "the default server/db"),
        ("postgresql://app:p%40ss@a:1,b:2/db?target_session_attrs=primary", "a:1,b:2/db"),
        ("postgresql://app:pw@[::1]:5432/db", "[::1]:5432/db"),
        ("postgresql://%2Frun%2Fpostgresql/db", "%2Frun%2Fpostgresql/db"),
        ("postgresql://here:5432/db?user=app@tenant&password=x", "here:5432/db"),
        ("postgresql://here:5432/db?user=app&password=p@ss", "here:5432/db"),
        ("postgresql://here:5432/db?application_name=a@b", "here:5432/db"),
    ],
)
def test_what_is_one(dsn: str, where: str) -> None:
    assert describe(dsn) == where
    PostgresDatabase(dsn, EMAILS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"netloc": "postgres:wrong@{host}"}, "; correct the user or password in the DSN, or pg_hba.conf"),
        ({"netloc": "stranger:wrong@{host}"}, "; correct the user or password in the DSN, or pg_hba.conf"),
        ({"path": "/no_such_db"}, 'database "no_such_db" does not exist; create it, or correct the DSN'),
    ],
)
async def test_who_is_not_let_in_hears_what_to_correct(
    server_dsn: str, change: dict[str, str], expected: str
) -> None:
    parts = urlsplit(server_dsn)
    host = parts.netloc.rpartition("@")[2]
    dsn = parts._replace(**{name: text.format(host=host) for name, text in change.items()}).geturl()
    async with PostgresDatabase(dsn, EMAILS) as database:
        with pytest.raises(DatabaseError) as raised:
            await database.identity()
    assert str(raised.value).endswith(expected)
    assert not raised.value.retryable
