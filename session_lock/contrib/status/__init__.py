"""The status page: an ASGI app to mount in a service of one's own, or run by `session-lock status`.

In the order in which a request goes through it: `guard` (who may look), `app` (what there is to be seen), `pages` (as HTML), and for
what is live `watching` (one reader for all who look at a mapping), `source` (its connection), `told` (what a browser is sent) and
`stream` (how).
"""

from __future__ import annotations

from session_lock.contrib.running import check_version

try:
    check_version("the status page", "starlette", "0.37.2", extra="status")
    from session_lock.contrib.status.app import StatusPage, status_app
except ModuleNotFoundError as _missing:
    if (_missing.name or "").partition(".")[0] != "starlette":
        raise
    raise ModuleNotFoundError(
        "the status page needs starlette, which is not installed: pip install 'session-lock[status]'",
        name=_missing.name,
    ) from None

__all__ = ["StatusPage", "status_app"]
