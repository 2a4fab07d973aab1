"""A task that is still to be added: what it may say, and how it is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from session_lock.errors import SettingsError
from session_lock.telemetry import TRACEPARENT, current_traceparent

LONGEST_AFTER = 100 * 365.25 * 86400
"""Seconds."""

LONGEST_KEY = 1000
"""Bytes of a dedup key; an index has room for little more."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task for `enqueue_many`; its fields mean what the arguments of `enqueue` mean.

    ```python
    later = NewTask({"welcome": 7}, available_at=datetime(2030, 1, 1, tzinfo=UTC), dedup_key="welcome-7")
    await enqueue_many(connection, jobs, [later])
    ```
    """

    payload: Any
    priority: int = 0
    after: float | None = None
    available_at: datetime | None = None
    dedup_key: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class ReadyTask:
    """A task as it is sent."""

    payload: str
    priority: int
    after: float | None
    available_at: str | None
    dedup_key: str | None
    traceparent: str | None


def ready(call: str, rows: Iterable[Any]) -> Iterator[ReadyTask]:
    many = call.startswith("enqueue_many")
    default: str | None = None
    asked = False
    for number, row in enumerate(rows):
        new = row if isinstance(row, NewTask) else NewTask(row)
        if new.traceparent is None and not asked:
            default, asked = current_traceparent(), True
        where = f"{call}: task {number}:" if many else f"{call}:"
        yield ReadyTask(
            _payload(where, new.payload),
            _priority(where, new.priority),
            *_due(where, new.after, new.available_at),
            _dedup_key(where, new.dedup_key),
            default if new.traceparent is None else _traceparent(where, new.traceparent),
        )


def _payload(where: str, payload: Any) -> str:
    """As JSON, of ASCII alone. What it holds is not for messages."""
    try:
        text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
        if "\\u" in text:  # seldom: what is not ASCII, or cannot be stored
            json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"{where} the payload has half of a surrogate pair in it, which is no text"
        ) from None
    except RecursionError:
        raise SettingsError(f"{where} the payload is nested too deeply to be JSON") from None
    except TypeError as error:
        raise SettingsError(f"{where} the payload is not JSON ({error})") from None
    except ValueError as error:
        reason = "it contains itself" if "ircular" in str(error) else "NaN, an infinity or a number too long"
        raise SettingsError(f"{where} the payload is not JSON ({reason})") from None
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
        raise SettingsError(f"{where} the payload has a NUL in it, which PostgreSQL cannot store")
    return text


def _priority(where: str, priority: Any) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int) or not -32768 <= priority <= 32767:
        raise SettingsError(f"{where} priority is a whole number from -32768 to 32767, not {priority!r}")
    return int(priority)


def _due(where: str, after: Any, available_at: Any) -> tuple[float | None, str | None]:
    if after is not None and available_at is not None:
        raise SettingsError(f"{where} give after= or available_at=, not both")
    if after is not None:
        if isinstance(after, bool) or not isinstance(after, (int, float)) or not 0 <= after <= LONGEST_AFTER:
            raise SettingsError(
                f"{where} after is a number of seconds, not negative and at most a hundred years, not {after!r}"
            )
        return float(after), None
    if available_at is None:
        return None, None
    if not isinstance(available_at, datetime) or available_at.utcoffset() is None:
        raise SettingsError(f"{where} available_at is a datetime with a time zone, not {available_at!r}")
    try:
        return None, available_at.astimezone(UTC).isoformat()
    except OverflowError:
        raise SettingsError(f"{where} available_at is out of range: {available_at!r}") from None


def _dedup_key(where: str, key: Any) -> str | None:
    if key is None:
        return None
    if (
        not isinstance(key, str)
        or re.search("[\0\ud800-\udfff]", key)
        or not 0 < len(key.encode()) <= LONGEST_KEY
    ):
        raise SettingsError(f"{where} dedup_key is text of 1 to {LONGEST_KEY} bytes, without NUL")
    return key


def _traceparent(where: str, text: Any) -> str:
    if not isinstance(text, str) or not TRACEPARENT.fullmatch(text):
        raise SettingsError(
            f"{where} traceparent is W3C trace context such as 00-<32 hex digits>-<16 hex digits>-01"
        )
    return text
