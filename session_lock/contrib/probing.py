"""What a probe is answered, whatever server it comes to."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from session_lock.errors import SettingsError
from session_lock.group import RunnerGroup
from session_lock.health import GroupHealth, Health
from session_lock.runner import Runner
from session_lock.wording import describe

logger: logging.Logger = logging.getLogger("session_lock.contrib")

Probed: TypeAlias = Runner[Any] | RunnerGroup
Source: TypeAlias = Probed | Callable[[], Probed | None]

PATHS = ("/livez", "/readyz")

HEADERS = {"content-type": "application/json", "cache-control": "no-store"}

TOLD = ("name", "state", "session", "lease_margin", "looked_ago", "loop_lag")
"""Of each Runner. Errors may name hosts, and who asks is not known."""


def finder(source: Source) -> Callable[[], Probed | None]:
    """Who is asked, also where that is made only when the server starts; nobody where a function does not find it."""
    if isinstance(source, Runner | RunnerGroup):
        return lambda: source
    if not callable(source) or isinstance(source, type):
        raise SettingsError(
            "probes takes a Runner, a RunnerGroup, or a function that returns one (None: there is none yet), "
            f"not {source.__name__ if isinstance(source, type) else type(source).__name__}"
        )
    warned = False

    def find() -> Probed | None:
        nonlocal warned
        try:
            return source()
        except (AttributeError, KeyError) as error:
            if not warned:
                warned = True
                logger.warning(
                    "probes find no Runner, and answer live and not ready (%s): a server runs the lifespan of the outermost app alone, not of "
                    "one that is mounted in another, so the Runner may never be made", describe(error),
                )  # fmt: skip
            return None

    return find


def answer(path: str, probed: Probed | None) -> tuple[int, bytes]:
    """Status and body. Who is not there yet is live and not ready."""
    health: Health | GroupHealth = GroupHealth(ready=False, runners=()) if probed is None else probed.health()
    well = health.live if path == "/livez" else health.ready
    told = {
        "live": health.live,
        "ready": health.ready,
        "runners": [{name: getattr(each, name) for name in TOLD} for each in health.runners],
    }
    return 200 if well else 503, json.dumps(told).encode()
