"""The public `FaultyDatabase` round a `MemoryDatabase`, with what the tests of the Runner ask of both."""

from __future__ import annotations

from typing import Any

from session_lock.session import Lease
from session_lock.testing import FaultyDatabase

NONCES: set[str] = set()
"""Of all sessions that were ever started through a `Faulty`: none may appear in a log."""


class Faulty(FaultyDatabase[Any]):
    """Looks like the database in it, too."""

    inner: Any

    async def _start_session(self, **options: Any) -> Lease:
        lease = await super()._start_session(**options)
        NONCES.add(str(lease.nonce))
        return lease

    def times(self, verb: str) -> list[float]:
        """When it was called."""
        return [call.at for call in self.calls if call.verb == verb]

    def arguments(self, verb: str) -> list[dict[str, Any]]:
        return [call.arguments for call in self.calls if call.verb == verb]

    def __getattr__(self, name: str) -> Any:  # what tests ask of a MemoryDatabase
        return getattr(self.inner, name)

    def __getitem__(self, key: Any) -> Any:
        return self.inner[key]
