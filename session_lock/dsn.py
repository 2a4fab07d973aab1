"""What a DSN may look like, where it leads to, and why there is no connection to there; in words that do not repeat it, for it has a password in it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from session_lock.errors import SettingsError

WRITE = "write postgresql://user:password@host:port/database, with what is special in the password percent-encoded"

NO_DSN = f"the DSN is not understood: {WRITE}"

REMEDIES = {
    "28": "correct the user or password in the DSN, or pg_hba.conf",
    "3D": "create it, or correct the DSN",
}
"""By class of SQLSTATE: what lets us in where the server says no."""


def check_connect(connect: object) -> None:
    """At the call, since a Runner that cannot connect may be far from where the DSN is written."""
    if isinstance(connect, str):
        describe(connect)
    elif not callable(connect):
        raise SettingsError(
            f"connect is a DSN or an async function that connects, not {type(connect).__name__}"
        )


def describe(dsn: str, what: str = "the DSN") -> str:
    """Where a DSN leads to, without the password. `SettingsError` if it is none; `what` says which one."""
    wrong = SettingsError(f"{what} is not understood: {WRITE}")
    try:
        parts = urlsplit(dsn)
    except ValueError:
        raise wrong from None
    hosts = parts.netloc.rpartition("@")[2]
    if re.fullmatch(r"postgres(?:ql)?\+\w+", parts.scheme):
        raise SettingsError(
            f"{what} begins with {parts.scheme}://, which names a driver: write postgresql://"
        )
    # Of a password that is not encoded; behind a name in the query it is at its place.
    beyond = f"{parts.path}{parts.query.partition('=')[0]}{parts.fragment}"
    misplaced = "@" not in parts.netloc and "@" in beyond and ":" in parts.netloc
    one = r"(?:\[[0-9a-fA-F:.%]+\]|[\w.%-]*)(?::[0-9]+)?"
    if (
        parts.scheme not in {"postgres", "postgresql"}
        or misplaced
        or parts.fragment
        or not re.fullmatch(f"{one}(?:,{one})*", hosts)
    ):
        raise wrong
    return f"{hosts or 'the default server'}{parts.path}"


def why_not_connected(error: Exception, where: str, within: float) -> str:
    """In a sentence, of a driver's error; `within` are the seconds that were waited for an answer."""
    state = getattr(error, "sqlstate", None) or ""
    message = (str(getattr(error, "message", None) or error).strip() or "no message").splitlines()[0]
    if state[:2] == "28":
        return f"{where} does not let us in ({message}): {REMEDIES['28']}"
    if state == "3D000":
        return f"there is no such database at {where} ({message}): {REMEDIES['3D']}"
    if state:
        return f"{where} refused the connection ({message}): try again, or ask who runs it"
    if isinstance(error, TimeoutError):
        return f"{where} did not answer within {within:.0f} s: is the host right, and does a firewall let us through?"
    if isinstance(error, OSError):
        return f"there is no server at {where} ({error.strerror or type(error).__name__}): start it, or correct the DSN"
    return f"the DSN for {where} is not understood ({type(error).__name__}): {WRITE}"
