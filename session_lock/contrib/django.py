"""Taskers that use Django's ORM."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from session_lock.errors import SettingsError

try:
    from django.db import close_old_connections
except ImportError as error:
    raise SettingsError(
        "session_lock.contrib.django needs Django: pip install 'session-lock[django]'"
    ) from error

W = TypeVar("W")
R = TypeVar("R")


def fresh_connections(tasker: Callable[[W], R]) -> Callable[[W], R]:
    """A decorator for a plain `def`: around each call its thread's connections that are lost or too old are closed.

    Django does so around each request. Without it a thread whose connection the server has closed gets no other one.
    """
    if inspect.iscoroutinefunction(tasker):
        raise SettingsError(
            "fresh_connections is for a plain def, which has a thread with connections of its own"
        )

    @wraps(tasker)
    def called(work: W) -> R:
        close_old_connections()
        try:
            return tasker(work)
        finally:
            close_old_connections()

    return called
