"""`Retry`: when a failed task is tried again, and when it is given up."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from session_lock.errors import SettingsError

LONGEST = 1e9
"""Seconds, 32 years: no pause is longer, since a date has its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How failures are followed up. All durations are seconds; `SettingsError` names what cannot be.

    The pause before attempt n + 1 is `delay * factor ** (n - 1)`, at most `longest`, less a random part of up to `jitter`
    of it. With the defaults a task is given up after half a day.

    ```python
    Settings(retry=Retry(max_attempts=5, on={ConnectionError: Retry(delay=60), ValueError: Retry(max_attempts=1)}))
    ```
    """

    max_attempts: int | None = 25
    """A task that fails at this attempt is given up: discarded, or parked where the mapping has no `discard`.

    None: never. Defaults to 25. Attempts that were released do not count; those that ended with their session do.
    """

    delay: float = 1.0
    """Before the second attempt. Defaults to 1."""

    factor: float = 2.0
    """By which the pause grows with each attempt; 1 keeps it. Defaults to 2."""

    longest: float = 3600.0
    """The pause grows no further. Defaults to 3600, an hour."""

    jitter: float = 0.5
    """The part of the pause, 0 to 1, that chance may take off, so that what failed together does not return together."""

    on: Mapping[type[BaseException], Retry] = field(default_factory=dict, hash=False)
    """Other policies for some types of exception and their subclasses; the nearest base class counts.

    Of an ExceptionGroup the first exception in it is looked up, unless a type of groups is named that it is of.
    """

    def __post_init__(self) -> None:
        if self.max_attempts is not None and (
            isinstance(self.max_attempts, bool)
            or not isinstance(self.max_attempts, int)
            or self.max_attempts < 1
        ):
            raise SettingsError(
                f"max_attempts={self.max_attempts!r} must be a whole number from 1 on, or None for no limit"
            )
        for name, least, most in (
            ("delay", 0, LONGEST),
            ("factor", 1, LONGEST),
            ("longest", 0, LONGEST),
            ("jitter", 0, 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise SettingsError(f"{name}={value!r} of a Retry must be a number from {least} to {most:g}")
        self._check_exceptions()

    def _check_exceptions(self) -> None:
        if not isinstance(self.on, Mapping):
            raise SettingsError(
                f"on= of a Retry maps types of exceptions to Retry, it is no {type(self.on).__name__}"
            )
        for kind, policy in self.on.items():
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise SettingsError(f"on= of a Retry has the key {kind!r}, which is no type of exception")
            if not isinstance(policy, Retry):
                raise SettingsError(
                    f"on= of a Retry has {policy!r} for {kind.__name__}: give a Retry (max_attempts=1 gives up at once)"
                )
        object.__setattr__(self, "on", dict(self.on))

    def policy(self, error: BaseException | None) -> Retry:
        """The policy for an error: its own, or this one."""
        policy = self
        while True:
            for kind in type(error).__mro__:
                # `on={Exception: ..}` is not meant for what happens to be wrapped in a group.
                if kind in policy.on and (_is_group(kind) or not isinstance(error, BaseExceptionGroup)):
                    policy = policy.on[kind]
                    break
            else:
                if not isinstance(error, BaseExceptionGroup):
                    return policy
                error = error.exceptions[0]

    @property
    def most_attempts(self) -> float:
        """What `max_attempts` is at most, whatever the error: a failure leads to no attempt beyond it. `inf`: no limit."""
        own = math.inf if self.max_attempts is None else self.max_attempts
        return max([own, *(policy.most_attempts for policy in self.on.values())])

    def gives_up(self, attempt: int) -> bool:
        """Whether a task that fails at this attempt (from 1) is given up."""
        return self.max_attempts is not None and attempt >= self.max_attempts

    def pause(self, attempt: int) -> float:
        """Seconds from the failure of this attempt (from 1) until the next one."""
        growth = min((attempt - 1) * math.log2(self.factor), 900.0)  # 2 ** 1100 is no float
        longest = min(self.longest, self.delay * math.exp2(growth))
        return longest * random.uniform(1 - self.jitter, 1)


def _is_group(kind: type[BaseException]) -> bool:
    return issubclass(kind, BaseExceptionGroup)
