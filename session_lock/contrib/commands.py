"""Errors of ours that pass through the command line of a tool: each knows one error that it prints without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from session_lock.errors import SessionLockError


@contextmanager
def printed_as(known: type[Exception], **attributes: Any) -> Iterator[None]:
    """An error of ours within is one of these as well, and is caught as what it is all the same. `attributes`: what the tool reads of one."""
    try:
        yield
    except SessionLockError as error:
        if not isinstance(error, known):
            kind = type(error)
            both = type(kind.__name__, (kind, known), {"__module__": kind.__module__, **attributes})
            error.__class__ = both
        raise
