"""The status page of some mappings, served by uvicorn beside what else goes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from session_lock.errors import SettingsError

if TYPE_CHECKING:  # it needs an extra
    from session_lock.contrib.status import StatusPage

HASTE = 1
"""Seconds that an answer under way, such as to a browser that looks on, has when the server is to end."""


def is_installed() -> bool:
    try:
        for name in ("starlette", "uvicorn"):
            import_module(name)
    except ImportError:
        return False
    return True


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; to a free port for 0. `SettingsError` says why not."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SettingsError(f"there is no host {host!r} ({error.strerror}): give another --host") from error
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise SettingsError(
            f"cannot listen at {host} on port {port} ({error.strerror}): give another --port"
        ) from error
    sock.listen(100)
    return sock


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@asynccontextmanager
async def serving(app: Any, sock: socket.socket, *pages: StatusPage) -> AsyncIterator[None]:
    """The app is served while the block lasts; it is a page itself, or has these. Signals are left to whoever runs the event loop."""
    import uvicorn  # noqa: PLC0415 (an extra)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # else the address of who asks is what a header says
        server_header=False,
        timeout_graceful_shutdown=HASTE,
    )
    server = Server(config)
    running = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield
    finally:
        server.should_exit = True
        for page in pages or (app,):
            page.dismiss()
        await running
