"""`TaskTable`: names, quoting, and the hash that names a mapping's functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from session_lock import ClaimColumns, SettingsError, TaskTable
from session_lock.names import quote_inside_literal, quote_name, squeeze
from session_lock.objects import function_set, index_name
from session_lock.schema import holes
from session_lock.table import Shape

EMAIL = TaskTable(
    "public.email", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=("id", "body")
)
SHAPE = Shape(
    "bigint", {"id": "bigint", "body": "text", "available_at": "timestamp with time zone"}, frozenset({"id"})
)


def hashed(**changes: Any) -> str:
    shape = changes.pop("shape", SHAPE)
    return function_set(replace(EMAIL, **changes), shape)


# Names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "qualified"),
    [
        ("email", ("public", "email")),
        ("mail.email", ("mail", "email")),
        ("Mail.Email", ("Mail", "Email")),
        ('"a.b"."c.d"', ("a.b", "c.d")),
        ('mail."say ""hi"""', ("mail", 'say "hi"')),
        ("mail.naïve; DROP TABLE x", ("mail", "naïve; DROP TABLE x")),
        ("名.表", ("名", "表")),
    ],
)
def test_a_table_is_named_with_or_without_its_schema(text: str, qualified: tuple[str, str]) -> None:
    assert replace(EMAIL, table=text, name="").qualified == qualified


@pytest.mark.parametrize("text", ["", "a.b.c", '"a', "a.", ".a", 'a"b'])
def test_what_is_no_name_of_a_table_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        replace(EMAIL, table=text, name="n")


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "nul\0", "$function$", "\ud800"])
@pytest.mark.parametrize("attribute", ["key", "schema", "name"])
def test_a_name_has_1_to_63_bytes_and_no_nul(attribute: str, name: str) -> None:
    if attribute == "name" and not name:
        assert replace(EMAIL, name="").name == "email"
        return
    with pytest.raises(SettingsError, match="1 to 63 bytes"):
        replace(EMAIL, **{attribute: name})


def test_63_bytes_are_a_name() -> None:
    assert replace(EMAIL, key="x" * 63, columns=()).columns == ("x" * 63,)


def test_columns_default_to_the_key_and_names_are_not_repeated() -> None:
    assert TaskTable("email", key="id", pending="p", finish="f").columns == ("id",)
    with pytest.raises(SettingsError, match="names a column twice"):
        replace(EMAIL, columns=("id", "id"))
    with pytest.raises(SettingsError, match="names a column twice"):
        ClaimColumns(attempts="available_at")


def test_a_string_where_names_are_asked_for_is_a_slip() -> None:
    with pytest.raises(SettingsError, match=r"columns=\('body',\)"):
        replace(EMAIL, columns="body")
    with pytest.raises(SettingsError, match="order_by is a sequence"):
        replace(EMAIL, order_by="id DESC")


@pytest.mark.parametrize("attribute", ["pending", "finish", "discard"])
def test_an_expression_is_neither_empty_nor_able_to_leave_the_functions_body(attribute: str) -> None:
    for text, message in (("  ", "is empty"), ("x $function$ y", "contains"), ("a\0b", "contains")):
        with pytest.raises(SettingsError, match=message):
            replace(EMAIL, **{attribute: text})


def test_the_order_ends_with_the_key_and_begins_with_available_at_unless_said() -> None:
    assert EMAIL.order == (("available_at", False), ("id", False))
    assert replace(EMAIL, order_by=("priority desc", "Due ASC")).order == (
        ("priority", True),
        ("Due", False),
        ("id", False),
    )
    assert replace(EMAIL, order_by=("id DESC",)).order == (("id", True),)
    assert replace(EMAIL, order_by=("odd desc desc",)).order[0] == ("odd desc", True)


# What is no mapping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["session_id"], None, "mine", ClaimColumns])
def test_claim_columns_that_are_none(given: Any) -> None:
    with pytest.raises(
        SettingsError, match=r"claim_columns is a ClaimColumns\(..\), or a mapping such as .* not "
    ):
        TaskTable("email", key="id", pending="p", finish="f", claim_columns=given)


# Quoting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ['a"b', "a;b", "select", "Ä", "a'b", "a--b", "a/*b", "a\nb"])
def test_a_name_stays_one_identifier_whatever_is_in_it(name: str) -> None:
    quoted = quote_name(name)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "") == name.replace('"', "")
    assert '"' not in quoted[1:-1].replace('""', "")


def test_text_inside_a_literal_cannot_leave_it_or_its_line() -> None:
    assert quote_inside_literal("it's\na $function$ b") == "it''s a  b"


def test_an_expression_that_ends_in_a_comment_does_not_swallow_what_follows() -> None:
    assert holes(replace(EMAIL, pending="a IS NULL -- open"), SHAPE)["pending"] == "a IS NULL -- open\n"
    assert holes(EMAIL, SHAPE)["pending"] == "sent_at IS NULL"


def test_a_mapping_without_discard_parks() -> None:
    filled = holes(EMAIL, SHAPE)
    assert (filled["discard = DEFAULT"], filled["discards"]) == ("\"available_at\" = 'infinity'", "false")


# The hash --------------------------------------------------------------------------------------------------


def test_the_name_of_a_set_of_functions_never_changes_by_itself() -> None:
    """A literal: were it another one with the next release, every installed mapping would be missing its functions."""
    assert hashed() == "email_bf633e28"
    assert index_name("email_bf633e28") == "pending_email_bf633e28"


@pytest.mark.parametrize(
    "changes",
    [
        {"table": "other.email"},
        {"key": "body"},
        {"pending": "sent_at IS NULL AND x"},
        {"columns": ("id",)},
        {"columns": ("body", "id")},
        {"order_by": ("id",)},
        {"claim_columns": ClaimColumns(attempts="tries")},
        {"name": "other"},
        {"shape": replace(SHAPE, key_type="integer")},
        {"shape": replace(SHAPE, column_types={**SHAPE.column_types, "body": "jsonb"})},
    ],
    ids=str,
)
def test_what_the_signatures_and_the_index_depend_on_makes_another_set(changes: Any) -> None:
    assert hashed(**changes) != hashed()


@pytest.mark.parametrize(
    "changes",
    [
        {"finish": "sent_at = clock_timestamp()"},
        {"discard": "x = 1"},
        {"schema": "elsewhere"},
        {"pending": "  sent_at   IS\nNULL "},
    ],
    ids=str,
)
def test_what_can_be_replaced_in_place_does_not(changes: Any) -> None:
    assert hashed(**changes) == hashed()


def test_white_space_in_a_literal_is_another_mapping() -> None:
    assert squeeze("a  =  'x  y'") == "a = 'x  y'"
    assert hashed(pending="state = 'a  b'") != hashed(pending="state = 'a b'")


def test_the_readable_part_is_short_and_plain() -> None:
    assert hashed(name="Ünï; 'x' \"y\"").startswith("n_x_y_")
    assert hashed(name="表").startswith("tasks_")
    assert len("release_tasks_" + hashed(name="x" * 63)) <= 63
