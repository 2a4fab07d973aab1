"""T11, T12: to whom we talk, and how often we knock. TLS is PostgreSQL's and the driver's; that a DSN which asks for it gets it, or a clear
refusal, is checked here, since the page on security tells to write `sslmode=verify-full`.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_lock import DatabaseError, PostgresDatabase, Runner, Settings, each
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.examples import ROOT
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

# TLS -----------------------------------------------------------------------------------------------------


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """Two authorities, and of the first a certificate for localhost alone."""
    for name in ("ours", "other"):
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign", "-keyout", f"{name}.key", "-out", f"{name}.crt")  # fmt: skip
    (folder / "ext").write_text("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ours.crt", "-CAkey", "ours.key", "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", "server.crt")  # fmt: skip


@dataclass
class Secure:
    """A front of the server that speaks TLS, which the wheel's PostgreSQL cannot: what comes behind it is one and the same."""

    dsn_of_server: str
    folder: Path
    port: int = 0
    secured: int = 0
    """Connections that were encrypted before anything else was said."""
    plain: int = 0

    def dsn(self, *, host: str = "localhost", mode: str = "verify-full", authority: str = "ours") -> str:
        parts = urlsplit(self.dsn_of_server)
        credentials = parts.netloc.rpartition("@")[0]
        query = f"sslmode={mode}&sslrootcert={self.folder / authority}.crt"
        return parts._replace(netloc=f"{credentials}@{host}:{self.port}", query=query).geturl()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(8) != SSL_REQUEST:
            self.plain += 1
            writer.close()
            return
        writer.write(b"S")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        parts = urlsplit(self.dsn_of_server)
        with suppress(OSError):
            await writer.start_tls(context)
            self.secured += 1
            there = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))


SSL_REQUEST = bytes([0, 0, 0, 8, 4, 210, 22, 47])


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.fixture
async def secure(database: TestDatabase, certificates: Path) -> AsyncIterator[Secure]:
    secure = Secure(database.app_dsn, certificates)
    server = await asyncio.start_server(secure.accept, "127.0.0.1", 0)
    secure.port = server.sockets[0].getsockname()[1]
    async with server:
        yield secure


async def test_t11_verify_full_is_kept_on_every_connection(database, secure):
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(EMAIL_TABLE)
    await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
    await admin.close()
    async with PostgresDatabase(secure.dsn(), EMAILS) as tasks:
        heard = asyncio.Event()
        async with tasks.listening(heard.set):
            lease = await tasks.start_session(capacity=1, ttl=30, label="", app_version="")
            await tasks.bump_session(lease, ttl=30, draining=False)
            async with tasks.transaction(lease, []):
                pass
            await asyncio.wait_for(heard.wait(), 10)
    assert (secure.secured, secure.plain) == (4, 0)  # for work, keepalives, the transaction, wake-ups


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"host": "127.0.0.1"}, "IP address mismatch"),
        ({"authority": "other"}, "certificate verify failed"),
        ({"mode": "verify-ca", "authority": "other"}, "certificate verify failed"),
    ],
)
async def test_t11_who_cannot_prove_to_be_the_server_is_told_nothing(secure, change, reason):
    """The refusal comes before the password is sent, and says why; a Runner goes on trying, as with a server that is away."""
    async with PostgresDatabase(secure.dsn(**change), EMAILS) as tasks:
        with pytest.raises(DatabaseError, match=reason) as refused:
            await tasks.identity()
    assert "\n" not in str(refused.value)
    assert (secure.secured, secure.plain) == (0, 0)


async def test_t11_a_server_without_tls_is_refused(server_dsn):
    async with PostgresDatabase(f"{server_dsn}?sslmode=require", EMAILS) as tasks:
        with pytest.raises(DatabaseError, match="rejected SSL upgrade"):
            await tasks.identity()


def test_t11_the_page_names_the_mode():
    assert "sslmode=verify-full" in (ROOT / "docs" / "how-to" / "security.md").read_text()


# Who knocks while the server is away ---------------------------------------------------------------------


@asynccontextmanager
async def refusing():
    """A port at which every connection is accepted and closed at once, and when that was."""
    loop, times = asyncio.get_running_loop(), []

    async def close(_, writer):
        times.append(loop.time())
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server:
        yield f"postgresql://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/d?sslmode=disable", times


async def test_t12_many_runners_knock_seldom_and_not_together():
    """20 Runners of 20 processes, as it were: each has a `PostgresDatabase` of its own. Each pauses longer after each refusal."""
    settings = Settings(start_jitter=0, poll_interval=0.1)
    async with refusing() as (dsn, times):
        begun = asyncio.get_running_loop().time()
        databases = [PostgresDatabase(dsn, EMAILS) for _ in range(20)]
        runners = [Runner(database, each(print), settings) for database in databases]
        running = [asyncio.create_task(runner.run()) for runner in runners]
        await asyncio.sleep(3)
        for runner in runners:
            runner.stop()
        await asyncio.gather(*running)
    assert 20 * 2 <= len(times) <= 20 * 12, len(times)
    late = sorted(time - begun for time in times if time - begun > 1)
    assert late, "they go on trying"
    most = max(sum(1 for time in late if begin <= time < begin + 0.1) for begin in late)
    assert most <= 12, "they do not come all at once"
    early = sum(1 for time in times if time - begun <= 1)
    assert early / 1 > len(late) / 2, "they come less often than at first"
