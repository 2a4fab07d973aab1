"""Rows as objects of a model: it is called with its attributes, which need not be named like their columns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from session_lock.drivers import lineage
from session_lock.errors import SettingsError

T = TypeVar("T")


def by_attributes(decode: Callable[..., T], columns: Sequence[str]) -> Callable[..., T]:
    """`decode`, to be called with columns; `columns` are those of the mapping, none if nobody knows them.

    `SettingsError` for a model that cannot be called with what stands for them.
    """
    attributes = _attributes(decode)
    if attributes is None:
        return decode
    if columns and not _takes_attributes(decode, columns, attributes):
        return decode

    def called(**row: Any) -> T:
        return decode(**{attributes.get(column, column): value for column, value in row.items()})

    return called


def _takes_attributes(decode: Any, columns: Sequence[str], attributes: Mapping[str, str]) -> bool:
    """False: it has a constructor of its own, which names the columns."""
    name, arguments = decode.__name__, [attributes.get(column, column) for column in columns]
    wrong = _why_not_called(decode, arguments)
    if wrong and not _why_not_called(decode, columns):
        return False
    for column in columns:
        if column not in attributes and not hasattr(decode, column):
            raise SettingsError(
                f"decode={name} has no attribute for the column {column!r} of the mapping: take it out of columns=, "
                "or give a function by decode="
            )
    if wrong:
        raise SettingsError(
            f"decode={name} cannot be called with {', '.join(arguments)}, as columns= of the mapping says ({wrong}): "
            "name other columns, or give a function by decode="
        )
    return True


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


def _why_not_called(decode: Any, arguments: Sequence[str]) -> str | None:
    try:
        inspect.signature(decode).bind(**dict.fromkeys(arguments))
    except TypeError as error:
        return str(error)
    except ValueError:  # it does not tell
        pass
    return None
