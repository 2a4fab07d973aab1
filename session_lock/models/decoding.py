"""Rows as objects of a model: it is called with its attributes, which need not be named like their columns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from session_lock.calling import innermost, name_of, why_not
from session_lock.drivers import lineage
from session_lock.errors import SettingsError

T = TypeVar("T")


def by_attributes(decode: Callable[..., T], columns: Sequence[str]) -> Callable[..., T]:
    """`decode`, to be called with columns; `columns` are those of the mapping, none if nobody knows them.

    `SettingsError` for what cannot be called with what stands for them, as far as it tells.
    """
    _check(decode)
    attributes = _attributes(decode)
    if attributes is None:
        if columns and (wrong := _why_not_made(decode, columns)):
            raise _refusal(decode, columns, wrong)
        return decode
    if columns and not _takes_attributes(decode, columns, attributes):
        return decode

    def called(**row: Any) -> T:
        return decode(**{attributes.get(column, column): value for column, value in row.items()})

    return called


def _takes_attributes(decode: Any, columns: Sequence[str], attributes: Mapping[str, str]) -> bool:
    """False: it has a constructor of its own, which names the columns."""
    name, arguments = decode.__name__, [attributes.get(column, column) for column in columns]
    wrong = why_not(decode, **dict.fromkeys(arguments))
    if wrong and not why_not(decode, **dict.fromkeys(columns)):
        return False
    for column in columns:
        if column not in attributes and not hasattr(decode, column):
            raise SettingsError(
                f"decode={name} has no attribute for the column {column!r} of the mapping: take it out of columns=, "
                "or give a function by decode="
            )
    if wrong:
        raise _refusal(decode, arguments, wrong)
    return True


def _refusal(decode: Any, arguments: Sequence[str], wrong: str) -> SettingsError:
    called = ", ".join(f"{argument}=" for argument in arguments)
    return SettingsError(
        f"decode={name_of(decode)} cannot be called with {called}, as columns= of the mapping says ({wrong}): "
        "name other columns, or give a function by decode="
    )


def _check(decode: Any) -> None:
    """Refuse what makes no data of any columns."""
    if not callable(decode):
        raise SettingsError(
            f"decode is called with the columns as keyword arguments: give a class or a function, not {type(decode).__name__}"
        )
    called = innermost(decode)
    if not isinstance(called, type) and (_is_async(called) or _is_async(type(called).__call__)):
        raise SettingsError(f"decode={name_of(decode)} is called, not awaited: give a plain function")


def _is_async(function: Any) -> bool:
    try:
        return inspect.iscoroutinefunction(function)
    except TypeError:  # a mock of a function
        return False


def _why_not_made(decode: Any, columns: Sequence[str]) -> str | None:
    """Why a call with the columns does not come to its end, of what is no model of the two; None also where that cannot be told."""
    if isinstance(decode, type) and hasattr(decode, "__pydantic_fields__"):
        return _lacking(decode, columns)
    return why_not(decode, **dict.fromkeys(columns))


def _lacking(model: Any, columns: Sequence[str]) -> str | None:
    """Of a model or a dataclass of pydantic's, which knows aliases and drops what it does not know: a field that nothing gives a value."""
    decorators = model.__pydantic_decorators__
    validators = (*decorators.model_validators.values(), *decorators.root_validators.values())
    is_told = getattr(model, "__pydantic_complete__", False) and _is_made_by_pydantic(model)
    if not is_told or any(each.info.mode != "after" for each in validators):
        return None
    for name, told in model.__pydantic_fields__.items():
        is_wanted = told.is_required() and getattr(told, "init", None) is not False
        if is_wanted and told.alias is None and told.validation_alias is None and name not in columns:
            return f"missing a required field: {name!r}"
    return None


def _is_made_by_pydantic(model: Any) -> bool:
    """And by nobody's own constructor or schema, which may do anything."""
    makers = [model.__init__, getattr(model, "__get_pydantic_core_schema__", None)]
    theirs = [each is None or (each.__module__ or "").partition(".")[0] == "pydantic" for each in makers]
    plain = model.__new__ is object.__new__ and type(model).__call__ is type.__call__
    return all(theirs) and plain and not getattr(model, "__pydantic_root_model__", False)


def _attributes(decode: Any) -> Mapping[str, str] | None:
    """By column, what a model calls it; None: it is no model."""
    if isinstance(decode, type) and hasattr(decode, "__mapper__"):
        mapper: Any = decode.__mapper__
        pairs = [(column, attribute) for attribute, column in mapper.columns.items()]
        own = [(column, attribute) for column, attribute in pairs if column.table is mapper.local_table]
        return {column.name: attribute for column, attribute in [*pairs, *own]}
    if ("django", "ModelBase") in lineage(decode):
        fields = [*decode._meta.concrete_fields, *decode._meta.local_concrete_fields]  # noqa: SLF001 (Django's way to ask a model)
        return {field.column: field.attname for field in fields}
    return None
