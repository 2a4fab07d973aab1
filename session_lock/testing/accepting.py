"""`accepts` of a `MemoryDatabase`: which session may be given which task, and how they are divided then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, TypeVar

from session_lock.tasks import TaskKey
from session_lock.testing.rows import MemorySession, MemoryTask, divide
from session_lock.versions import check_readable, may_take

T = TypeVar("T")


class MemoryAccepts(Generic[T]):
    """`accepts(key, data)` says the least `app_version` of a session that may be given the task; None: any."""

    def __init__(self, accepts: Callable[[TaskKey, T], str | None] | None) -> None:
        self._accepts = accepts

    @property
    def asks(self) -> bool:
        return self._accepts is not None

    def check(self, app_version: str, mapping: str) -> None:
        """`SettingsError` if a version is asked for and none can be read."""
        if self._accepts is not None:
            check_readable(app_version, mapping)

    def needed(self, row: MemoryTask[T]) -> str | None:
        if self._accepts is None or isinstance(row.data, Exception):
            return None
        return self._accepts(row.key, row.data)

    def suits(self, session: MemorySession, needed: str | None) -> bool:
        return may_take(session.app_version, needed)

    def of(self, session: MemorySession, rows: Collection[MemoryTask[T]]) -> Collection[MemoryTask[T]]:
        """Those of the rows that the session may be given."""
        return [row for row in rows if self.suits(session, self.needed(row))] if self.asks else rows

    def share(
        self,
        session: MemorySession,
        due: Iterable[MemoryTask[T]],
        sharing: Mapping[int, int],
        sessions: Mapping[int, MemorySession],
    ) -> int:
        """Its part of what is due and may be given it: each task is for those alone that may be given it."""
        share = 0
        for needed, tasks in Counter(map(self.needed, due)).items():
            among = {id_: sharing[id_] for id_ in sharing if self.suits(sessions[id_], needed)}
            share += divide(tasks, among)[session.id]
        return share
