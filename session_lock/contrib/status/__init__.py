"""The status page: an ASGI app to mount in a service of one's own, or run by `session-lock status`.

In the order in which a request goes through it: `guard` (who may look), `app` (what there is to be seen), `pages` (as HTML), and for
what is live `watching` (one reader for all who look at a mapping), `source` (its connection), `told` (what a browser is sent) and
`stream` (how).
"""

from __future__ import annotations

from session_lock.contrib.running import needs

with needs("starlette", "0.37.2", who="the status page", extra="status"):
    from session_lock.contrib.status.app import StatusPage, status_app

__all__ = ["StatusPage", "status_app"]
