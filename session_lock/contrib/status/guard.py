"""Who may look: whom the service lets in or, where it does not say, who sits at this machine. And what a browser may do with it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from session_lock.contrib.status.style import POLICY

Authorize: TypeAlias = Callable[[Request], bool | Awaitable[bool]]
"""Plain or async. True lets in; whatever else does not. It may raise an HTTPException of its own, such as 401."""

HEADERS = {
    "content-security-policy": f"default-src 'none'; script-src 'self'; style-src {POLICY}; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Of every answer, refusals too."""

FORWARDED = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-server",
    "x-real-ip", "x-original-host", "cf-connecting-ip", "true-client-ip",
)  # fmt: skip
"""What a proxy on the same machine adds: then who asks may be anywhere."""

NOT_LOCAL = (
    "This status page answers only who asks from the machine that it runs on, by a loopback address and through no proxy: "
    "give status_app an authorize function that says who else may look."
)

NOT_YOU = "You may not look at this status page: whoever runs it decides by its authorize function."


async def refusal(request: Request, authorize: Authorize | None) -> str | None:
    """Why this one is answered nothing, in a sentence. None: it may look."""
    if authorize is None:
        return None if is_local(request) else NOT_LOCAL
    answer = authorize(request)
    if inspect.isawaitable(answer):
        answer = await answer
    # Not whatever is true: a redirect to a login, or a coroutine within another, would let everyone in.
    return None if answer is True else NOT_YOU


def is_local(connection: HTTPConnection) -> bool:
    """Whether somebody on this machine asks, as far as that can be told: both ends are loopback, and nobody stands in between."""
    scope, headers = connection.scope, connection.headers
    return (
        all(end is not None and is_loopback(end[0]) for end in (scope.get("server"), scope.get("client")))
        and _names_loopback(headers.get("host", ""))
        and not any(name in headers for name in FORWARDED)
        # A browser speaks 1.1 at least, and nginx before 1.29.7 1.0 to whom it stands before, often without any header of its own. From then
        # on it speaks 1.1 and names us as the host, and cannot be told from a browser on this machine.
        and scope.get("http_version") != "1.0"
    )


def is_loopback(host: object) -> bool:
    """Of an address, not of a name. A Unix socket is none: behind it is a proxy."""
    try:
        address = ip_address(str(host))
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _names_loopback(host: str) -> bool:
    """Any other name that leads here is one that a stranger's page has had resolved to this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or is_loopback(name)


class Guard:
    """Before everything else: may this one look?"""

    def __init__(self, app: ASGIApp, authorize: Authorize | None) -> None:
        self._app = app
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            refused = await refusal(Request(scope), self._authorize)
        except HTTPException as error:  # of the service's own, with headers that ask for a password
            await PlainTextResponse(str(error.detail), error.status_code, error.headers)(scope, receive, send)
            return
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(refused, 403)(scope, receive, send)
