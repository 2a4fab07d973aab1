"""How something of the user's may be called, as far as it tells."""

from __future__ import annotations

import functools
import inspect
from inspect import Parameter, Signature
from typing import Any


def innermost(function: Any) -> Any:
    """What a partial function is a part of."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def signature_of(function: Any) -> Signature | None:
    """That of what is called, not of what this wraps; None where it cannot be told, or somebody has written another one on it."""
    called = innermost(function)
    told_by_hand = [called, *([] if isinstance(called, type) else [type(called).__call__])]
    is_struct = isinstance(called, type) and hasattr(called, "__struct_fields__")  # msgspec's is true
    if not is_struct and any(hasattr(each, "__signature__") for each in told_by_hand):
        return None
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def why_not(function: Any, *args: Any, **kwargs: Any) -> str | None:
    """What is in the way of a call with these; None if nothing is, and where that cannot be told."""
    if (signature := signature_of(function)) is not None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            return str(error)
    return None


def parameters(function: Any) -> str:
    """By their names alone: what stands for one that is not given may be a password."""
    if (signature := signature_of(function)) is None:
        return "(..)"
    bare = [
        each.replace(default=Parameter.empty, annotation=Parameter.empty)
        for each in signature.parameters.values()
    ]
    return str(Signature(bare))


def name_of(function: Any) -> str:
    called = innermost(function)
    return str(getattr(called, "__name__", type(called).__name__))
