# ruff: noqa: DJ001, DJ008 (the least that a model is made of)
"""`TaskTable.from_model`: what models of SQLAlchemy and Django say, in SQL; and what rows are decoded to."""

from __future__ import annotations

import asyncio
import collections
import enum
import functools
import inspect
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import asyncpg
import attrs
import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from django.db import connections, models
from django.db.models.functions import Now
from django.utils import timezone
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, aliased, mapped_column

from session_lock import ClaimColumns, PostgresDatabase, SettingsError, TaskTable, each
from session_lock.catalog import read_shape
from session_lock.conjuncts import conjuncts
from session_lock.migrations import check, install
from session_lock.models.decoding import by_attributes
from session_lock.testing import run_until_idle
from tests.conftest import TestDatabase
from tests.contrib.kinds import django_create, set_up_django, url
from tests.database.conftest import PostgresHarness, Suite
from tests.support import EMAILS

set_up_django()

G = TypeVar("G")

ODD = "50%\\off: 'it''s' \"x\" :y $1 %s"


class State(enum.Enum):
    OPEN = "open"
    DONE = "done"


class Base(DeclarativeBase):
    pass


class SaMail(Base):
    __tablename__ = "Mail"
    __table_args__ = {"schema": "post.office"}

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    sent: Mapped[datetime | None] = mapped_column("Sent at", sa.DateTime(timezone=True))
    state: Mapped[State] = mapped_column(sa.Enum(State, schema="public"))
    note: Mapped[str]
    tries: Mapped[int]


class SaPair(Base):
    __tablename__ = "pair"
    one: Mapped[int] = mapped_column(primary_key=True)
    two: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(20), unique=True)
    done: Mapped[bool]


class SaSpecial(SaPair):
    pass


class SaPerson(Base):
    __tablename__ = "person"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    name: Mapped[str]
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}


class SaEngineer(SaPerson):
    __tablename__ = "engineer"
    number: Mapped[int] = mapped_column("id", sa.ForeignKey("person.id"), primary_key=True)
    is_ready: Mapped[bool] = mapped_column("ready")
    __mapper_args__ = {"polymorphic_identity": "engineer"}


class SaChief(SaEngineer):
    rank: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "chief"}


class SaAxes(Base):
    __tablename__ = "axes"
    x: Mapped[int] = mapped_column(primary_key=True)
    y: Mapped[int]


class SaTagged(Base):
    __tablename__ = "tagged"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[list[str]] = mapped_column(postgresql.ARRAY(sa.Text))
    grid: Mapped[list[list[int]]] = mapped_column(sa.ARRAY(sa.Integer))


class SaPrice(Base):
    __tablename__ = "price"
    amount: Mapped[float] = mapped_column(primary_key=True)


class DjMail(models.Model):
    id = models.UUIDField(primary_key=True)
    sent = models.DateTimeField(null=True, db_column="Sent at")
    state = models.TextField(default="open")
    note = models.TextField()
    tries = models.IntegerField(default=0)
    author = models.ForeignKey("DjAuthor", models.CASCADE, null=True)

    class Meta:
        app_label = "post"
        db_table = '"post.office"."Mail"'


class DjAuthor(models.Model):
    name = models.TextField()
    rank = models.DecimalField(max_digits=3, decimal_places=1, unique=True)

    class Meta:
        app_label = "post"


class DjProxy(DjMail):
    class Meta:
        app_label = "post"
        proxy = True


class DjAbstract(models.Model):
    class Meta:
        app_label = "post"
        abstract = True


SA_WORDS = {
    "pending": sa.and_(SaMail.sent.is_(None), SaMail.state == State.OPEN, SaMail.note != ODD),
    "finish": {SaMail.sent: sa.func.now(), "note": ODD, SaMail.tries: SaMail.tries + 1, "state": State.DONE},
    "discard": {SaMail.state: State.DONE},
    "accepts": sa.case((SaMail.note.like("2%"), "2.0")),
    "columns": [SaMail.note, "sent", SaMail.__table__.c.tries],
    "order_by": [SaMail.tries.desc(), SaMail.note, "sent"],
    "fair_by": SaMail.state,
}
DJ_WORDS = {
    "pending": models.Q(sent=None, state="open") & ~models.Q(note=ODD),
    "finish": {"sent": Now(), "note": ODD, "tries": models.F("tries") + 1, "state": "done"},
    "discard": {"state": "done"},
    "accepts": models.Case(models.When(note__startswith="2", then=models.Value("2.0"))),
    "columns": ["note", models.F("sent"), DjMail.tries],
    "order_by": ["-tries", models.F("note").asc(), "sent"],
    "fair_by": "state",
}


async def sa_tables(dsn: str) -> None:
    engine = create_async_engine(url(dsn, "asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, [SaMail.__table__])
    await engine.dispose()


async def dj_tables(dsn: str) -> None:
    await asyncio.to_thread(django_create, dsn, DjAuthor, DjMail)


KINDS = [(SaMail, SA_WORDS, sa_tables), (DjMail, DJ_WORDS, dj_tables), (DjProxy, DJ_WORDS, dj_tables)]


@pytest.mark.parametrize(("model", "words", "tables"), KINDS, ids=lambda each: getattr(each, "__name__", ""))
async def test_what_a_model_says_works_in_the_database(
    database: TestDatabase, model: Any, words: dict[str, Any], tables: Callable[[str], Awaitable[None]]
) -> None:
    mapping = TaskTable.from_model(model, **words, name="letters")
    assert mapping.qualified == ("post.office", "Mail")
    assert (mapping.key, mapping.name) == ("id", "letters")
    assert mapping.columns == ("note", "Sent at", "tries")
    assert mapping.order == (("tries", True), ("note", False), ("Sent at", False), ("id", False))
    assert mapping.fair_by == "state"
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute('CREATE SCHEMA "post.office"')
        await tables(database.admin_dsn)
        assert (await read_shape(admin, mapping)).key_type == "uuid"
        await install(admin, mapping)
        assert [each for each in await check(admin, mapping) if not each.note] == []
        await admin.execute(
            """
            INSERT INTO "post.office"."Mail" (id, state, note, tries) SELECT gen_random_uuid(), s, n, 0 FROM
              unnest(enum_range(NULL::public.state)) AS s, unnest($1::text[]) AS n
            """
            if model is SaMail
            else """
            INSERT INTO "post.office"."Mail" (id, state, note, tries) SELECT gen_random_uuid(), s, n, 0 FROM
              unnest('{open,done}'::text[]) AS s, unnest($1::text[]) AS n
            """,
            ["2", "x", ODD],
        )
        where = f'FROM "post.office"."Mail" WHERE {mapping.pending}'
        assert [row["note"] for row in await admin.fetch(f"SELECT note {where} ORDER BY note")] == ["2", "x"]
        versions = await admin.fetch(f"SELECT {mapping.accepts} AS least {where} ORDER BY note")
        assert [row["least"] for row in versions] == ["2.0", None]
        query = f'UPDATE "post.office"."Mail" SET {{}} WHERE {mapping.pending} AND note = $1 RETURNING *'
        done = await admin.fetchrow(query.format(mapping.finish), "2")
        assert (done["note"], done["tries"], done["state"].lower()) == (ODD, 1, "done")
        assert done["Sent at"] is not None
        given_up = await admin.fetchrow(query.format(mapping.discard), "x")
        assert (given_up["Sent at"], given_up["state"].lower()) == (None, "done")
    finally:
        await admin.close()


async def test_a_child_with_a_table_of_its_own_is_taken_by_that(database: TestDatabase) -> None:
    mapping = TaskTable.from_model(
        SaEngineer, pending=SaEngineer.is_ready.is_(False), finish={SaEngineer.is_ready: True},
        columns=[SaEngineer.number, "is_ready"], order_by=[SaEngineer.number.desc()],
    )  # fmt: skip
    assert (mapping.table, mapping.key, mapping.columns) == ("engineer", "id", ("id", "ready"))
    engine = create_async_engine(url(database.admin_dsn, "asyncpg"))
    async with engine.begin() as connection:
        tables = [SaPerson.__table__, SaEngineer.__table__]
        await connection.run_sync(Base.metadata.create_all, tables)
    admin = await asyncpg.connect(database.admin_dsn)
    await install(admin, mapping)
    async with AsyncSession(engine) as session, session.begin():
        session.add_all([SaEngineer(name="ann", is_ready=False), SaChief(name="ben", is_ready=False)])
        session.add(SaPerson(name="cid"))
    seen: list[Any] = []

    async def see(task: Any) -> None:
        seen.append(task.data)

    async with PostgresDatabase(database.admin_dsn, mapping, decode=SaEngineer) as tasks:
        await run_until_idle(tasks, each(see))
    assert [(type(data), data.number, data.is_ready) for data in seen] == [
        (SaEngineer, 2, False),
        (SaEngineer, 1, False),
    ]
    assert await admin.fetchval("SELECT count(*) FROM engineer WHERE ready") == 2
    await admin.close()
    await engine.dispose()


def test_text_and_all_else_is_as_for_any_mapping() -> None:
    mapping = TaskTable.from_model(
        SaPair,
        key=SaPair.code,
        pending="NOT done",
        finish="done = true",
        schema="locks",
        order_by=["two DESC"],
    )
    assert mapping == TaskTable(
        "pair", key="code", pending="NOT done", finish="done = true", schema="locks", order_by=["two DESC"]
    )
    assert TaskTable.from_model(DjAuthor, pending="p", finish="f", columns=["pk"]).columns == ("id",)
    assert TaskTable.from_model(DjMail, pending="p", finish="f", columns=["author"]).columns == ("author_id",)


@pytest.mark.parametrize("model", [SaPair, DjAuthor])
def test_a_table_may_be_named_that_is_found_by_the_search_path(model: Any) -> None:
    key = "code" if model is SaPair else "id"
    mapping = TaskTable.from_model(model, key=key, pending="p", finish="f", table="app.mail")
    assert mapping == TaskTable("app.mail", key=key, pending="p", finish="f")


@pytest.mark.parametrize("type_", [sa.Text(collation="C"), sa.String(20, collation="de-x-icu"), sa.Text()])
def test_a_key_may_have_a_collation(type_: Any) -> None:
    word = type("Word", (DeclarativeBase,), {"metadata": sa.MetaData()})
    model = type("SaWord", (word,), {"__tablename__": "word", "word": mapped_column(type_, primary_key=True)})
    assert TaskTable.from_model(model, pending="p", finish="f").key == "word"


class SaOwn(Base):
    __tablename__ = "own"
    id: Mapped[int] = mapped_column(primary_key=True)
    due: Mapped[datetime] = mapped_column("available_at")
    tries: Mapped[int] = mapped_column("attempts", server_default="0")


class SaApart(Base):
    __table__ = sa.Table(  # as if it were reflected
        "apart", Base.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("available_at", sa.DateTime)
    )  # fmt: skip
    __mapper_args__ = {"exclude_properties": ["available_at"]}


class DjOwn(models.Model):
    due = models.DateTimeField(db_column="available_at")
    attempts = models.IntegerField(default=0)

    class Meta:
        app_label = "post"


@pytest.mark.parametrize(("model", "layer"), [(SaOwn, "SQLAlchemy"), (DjOwn, "Django")])
def test_a_claim_column_in_the_model_is_refused(model: Any, layer: str) -> None:
    def read(**names: str) -> TaskTable:
        return TaskTable.from_model(model, pending="p", finish="f", claim_columns=names)

    with pytest.raises(
        SettingsError,
        match=rf"{model.__name__}.due is the claim column 'available_at' .* which {layer} would write",
    ):
        read(attempts="tries")
    with pytest.raises(
        SettingsError,
        match=r"is the claim column 'attempts' .* another name, claim_columns={'attempts': ..}$",
    ):
        read(available_at="free_at")
    assert read(available_at="free_at", attempts="claims").claim_columns.attempts == "claims"


@pytest.mark.parametrize("given", [["session_id"], None, ClaimColumns])
def test_claim_columns_that_are_none(given: Any) -> None:
    with pytest.raises(SettingsError, match=r"^claim_columns is a ClaimColumns\(..\), or a mapping"):
        TaskTable.from_model(SaOwn, pending="p", finish="f", claim_columns=given)


def test_a_claim_column_that_is_not_written_may_be_there() -> None:
    assert "available_at" in SaApart.__table__.c
    assert TaskTable.from_model(SaApart, pending="p", finish="f").key == "id"


@pytest.mark.parametrize("model", [SaApart, DjAuthor])
def test_an_order_may_go_by_a_claim_column(model: Any) -> None:
    by = ["id DESC", "available_at DESC", "attempts"]
    assert TaskTable.from_model(model, pending="p", finish="f", order_by=by).order_by == tuple(by)


WRONG = [
    (dict, {}, "declarative model of SQLAlchemy or a model of Django, not dict"),
    (SaPair(), {}, "not a SaPair"),
    (SaPair, {}, r"the primary key of SaPair has 2 columns \(one, two\), .* name a column that is unique by itself by key="),
    (SaPrice, {}, r"the key SaPrice.amount is of type (FLOAT|DOUBLE PRECISION): a key is smallint"),
    (DjAuthor, {"key": "rank"}, r"the key DjAuthor.rank is of type numeric\(3, 1\)"),
    (SaSpecial, {}, "SaSpecial has its rows in the table of SaPair: give that to from_model"),
    (SaChief, {}, "SaChief has its rows in the table of SaEngineer: give that to from_model"),
    (SaEngineer, {"columns": [SaEngineer.name]}, "names SaEngineer.name, which is no column in the table of SaEngineer"),
    (SaEngineer, {"columns": ["name"]}, "the table of SaEngineer has no column 'name'"),
    (SaMail, {"order_by": SaMail.sent}, r"^order_by is a sequence, and was given one thing alone; write order_by=\[..\] around it"),
    (SaMail, {"order_by": SaMail.sent.desc()}, "^order_by is a sequence, and was given"),
    (SaMail, {"columns": SaMail.sent}, "^columns is a sequence, and was given"),
    (DjMail, {"order_by": models.F("sent").desc()}, "^order_by is a sequence, and was given"),
    (DjMail, {"columns": models.F("sent")}, "^columns is a sequence, and was given"),
    (DjMail, {"order_by": "sent"}, r"^order_by is a sequence of names; write order_by=\('sent',\)"),
    (SaAxes, {"order_by": "xy"}, r"^order_by is a sequence of names; write order_by=\('xy',\)"),
    (SaAxes, {"columns": "xy"}, r"^columns is a sequence of names; write columns=\('xy',\)"),
    (DjAbstract, {}, "DjAbstract is abstract and has no table"),
    (SaMail, {"columns": ["snet"]}, r"SaMail has no column 'snet' \(named by columns=\); did you mean 'sent'\?"),
    (DjMail, {"order_by": ["-trys"]}, r"DjMail has no column 'trys' \(named by order_by=\); did you mean 'tries'\?"),
    (SaMail, {"columns": [SaPair.one]}, r"columns names SaPair.one, which is no column in the table of SaMail"),
    (DjMail, {"fair_by": models.F("author__name")}, "fair_by names .*, which is no column in the table of DjMail"),
    (SaMail, {"pending": SaMail.sent is None}, "pending of SaMail is text or an expression of its layer, not False"),
    (DjMail, {"pending": SaMail.sent.is_(None)}, "pending of DjMail is text or an expression of its layer"),
    (SaMail, {"pending": aliased(SaMail).sent.is_(None)}, "names .*, which is no column of its table"),
    (SaMail, {"pending": sa.exists().where(SaPair.code == SaMail.note)}, "has a subquery: write it as text"),
    (DjMail, {"pending": models.Q(models.Exists(DjAuthor.objects.all()))}, "has a subquery: write it as text"),
    (DjMail, {"pending": models.Q(author__name="x")}, "Joined field references are not permitted"),
    (SaMail, {"pending": SaMail.note == sa.bindparam("note")}, "has a parameter 'note' without a value"),
    (SaMail, {"pending": SaMail.note == object()}, r"cannot be compiled \(.*\): write it as text"),
    (SaMail, {"finish": {}}, r"finish of SaMail is text, or what each column is set to, such as {'sent_at': func.now\(\)}"),
    (DjMail, {"discard": ["sent"]}, r"such as {'sent_at': Now\(\)}, not \['sent'\]"),
    (SaMail, {"finish": {"sent": datetime.now(UTC)}}, r"at which this was declared: write func.now\(\)"),
    (DjMail, {"finish": {"sent": datetime.now(UTC)}}, r"would set Sent at to the time .*: write Now\(\)"),
    (SaMail, {"finish": {"sent": sa.func.now}}, r"would set Sent at to .*, which is to be called first: write func.now\(\)"),
    (DjMail, {"finish": {"sent": Now}}, r"would set Sent at to Now, which is to be called first: write Now\(\)"),
    (DjMail, {"finish": {"sent": datetime.now}}, r"would set Sent at to now, which is to be called first: write Now\(\)"),
    (DjMail, {"pending": models.Q()}, r"is true of each row, as an empty Q\(\) is: mend it"),
    (DjMail, {"pending": models.Q(note__in=[])}, "is true of no row, as one of an empty list is: mend it"),
    (SaMail, {"pending": sa.select(SaMail).where(SaMail.sent.is_(None))}, r"pending of SaMail is a query: give the condition itself, such as Mail.sent_at.is_\(None\)"),
    (SaMail, {"accepts": Session().query(SaMail.note)}, "accepts of SaMail is a query: give the condition itself"),
    (DjMail, {"pending": DjMail.objects.filter(sent=None)}, r"pending of DjMail is a query: give the condition itself, such as Q\(done_at=None\)"),
    (DjMail, {"finish": DjMail.objects.all()}, "finish of DjMail is text, or what each column is set to, .* not a query"),
    (SaMail, {"pending": SaMail.tries.in_([])}, "asks what is in an empty list, which nothing is: mend it"),
    (SaMail, {"pending": SaMail.tries.not_in([]) & SaMail.sent.is_(None)}, "asks what is in an empty list"),
    (DjMail, {"finish": {"tries": "many"}}, "cannot be compiled .*'many'.*: mend it"),
    (DjMail, {"order_by": [models.F("sent").desc(nulls_last=True)]}, "says where nulls go"),
    (SaMail, {"order_by": [SaMail.sent.desc().nulls_last()]}, "order_by names .*, which is no column in the table of SaMail"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "words", "sentence"), WRONG)
def test_what_cannot_be_is_said_in_a_sentence(model: Any, words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        TaskTable.from_model(model, **{"pending": "p", "finish": "f", **words})
    assert "\n" not in str(caught.value)


def test_the_time_at_which_it_is_declared_is_refused() -> None:
    utc = datetime.now(UTC)
    local = utc.astimezone().replace(tzinfo=None)
    for model, words, now in [
        (SaMail, {"pending": SaMail.sent > local}, "func.now()"),
        (SaMail, {"pending": SaMail.sent > utc.replace(tzinfo=None)}, "func.now()"),
        (SaMail, {"pending": SaMail.sent > utc - timedelta(seconds=9)}, "func.now()"),
        (SaMail, {"pending": SaMail.sent.in_([utc])}, "func.now()"),
        (SaMail, {"accepts": sa.case((sa.cast(SaMail.sent, sa.Date) == local.date(), "2"))}, "func.now()"),
        (SaMail, {"finish": {"sent": sa.literal(utc)}}, "func.now()"),
        (DjMail, {"pending": models.Q(sent__gt=timezone.now())}, "Now()"),
        (DjMail, {"pending": models.Q(sent__date=utc.date())}, "Now()"),
        (DjMail, {"finish": {"sent": models.Value(utc)}}, "Now()"),
    ]:
        with pytest.raises(SettingsError) as caught:
            TaskTable.from_model(model, **{"pending": "p", "finish": "f", **words})
        assert str(caught.value) == (
            f"an expression of {model.__name__} has the time at which this was declared in it, which is another one in each process: "
            f"let available_at say when a row is due; finish and discard take {now}, and a fixed time can be written as text"
        )


def test_a_fixed_time_is_none_of_the_start_of_the_process() -> None:
    past = datetime(2024, 2, 29, 12, tzinfo=UTC)
    words = [
        (SaMail, SaMail.sent > past),
        (DjMail, models.Q(sent__gt=past)),
        (DjMail, models.Q(sent__date=past.date())),
    ]
    for model, pending in words:
        assert "2024-02-29" in TaskTable.from_model(model, pending=pending, finish="f").pending


async def test_an_empty_array_has_the_type_of_its_column(database: TestDatabase) -> None:
    mapping = TaskTable.from_model(
        SaTagged,
        pending=(SaTagged.tags != []) & ~SaTagged.tags.contains(["x"]),
        finish={SaTagged.tags: [], SaTagged.grid: [[]]},
    )
    assert "ARRAY['x']" in mapping.pending
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("CREATE TABLE tagged (id bigint PRIMARY KEY, tags text[], grid int[])")
    await admin.execute("INSERT INTO tagged VALUES (1, '{a}', '{{1}}')")
    await install(admin, mapping)
    await admin.execute(f"UPDATE tagged SET {mapping.finish} WHERE {mapping.pending}")
    assert tuple(await admin.fetchrow("SELECT tags, grid FROM tagged")) == ([], [])
    await admin.close()


def test_a_mapping_among_the_models_that_goes_over_a_foreign_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text("""
from django.db import models
from session_lock import TaskTable

class Sale(models.Model):
    parent = models.ForeignKey("self", models.CASCADE, null=True)

sales = TaskTable.from_model(Sale, pending=models.Q(parent=None), finish="f")
""")
    code = """
import django.conf
django.conf.settings.configure(INSTALLED_APPS=["shop"], DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}})
django.setup()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stderr.splitlines()[-1] == (
        "session_lock.errors.SettingsError: an expression of Sale is over other models, which Django has not loaded yet: "
        "declare the mapping in a module that is imported after the models, such as jobs.py"
    )


@pytest.mark.parametrize(
    "pending", [models.Q(sent=None, state="open"), models.Q(sent=None) & ~models.Q(state="done")]
)
def test_why_asks_a_condition_of_django_part_by_part(pending: models.Q) -> None:
    table = TaskTable.from_model(DjMail, pending=pending, finish="f")
    assert table.pending.startswith("(")
    assert conjuncts(table.pending)[0] == '"Sent at" IS NULL'
    assert len(conjuncts(table.pending)) == 2


def test_a_database_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "vendor", "sqlite")
    with pytest.raises(SettingsError, match="DjMail is in the database 'default', which is of sqlite"):
        TaskTable.from_model(DjMail, pending="p", finish="f")


@pytest.mark.parametrize(
    ("model", "layer", "old"), [(SaPair, "sqlalchemy", "1.4.54"), (DjMail, "django", "3.2rc1")]
)
def test_a_layer_that_is_too_old_is_refused(
    monkeypatch: pytest.MonkeyPatch, model: Any, layer: str, old: str
) -> None:
    monkeypatch.setattr("session_lock.models.version", {layer: old}.__getitem__)
    with pytest.raises(SettingsError, match=rf"{old} is installed: pip install 'session-lock\[{layer}\]'"):
        TaskTable.from_model(model, key="id", pending="p", finish="f")


# Decoding ------------------------------------------------------------------------------------------------


@dataclass
class AsDataclass:
    id: int
    address: str
    body: str | None


class AsPydantic(pydantic.BaseModel):
    id: int
    address: str
    body: str | None


class AsTypedDict(TypedDict):
    id: int
    address: str
    body: str | None


class AsTuple(NamedTuple):
    id: int
    address: str
    body: str | None


class AsModel(Base):
    __tablename__ = "email"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str]
    body: Mapped[str | None]


class AsRenamed(Base):
    __tablename__ = "letter"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    to: Mapped[str] = mapped_column("address")
    address: Mapped[str | None] = mapped_column("body")


class DataclassBase(MappedAsDataclass, DeclarativeBase):
    pass


class AsMappedDataclass(DataclassBase):
    __tablename__ = "email"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    to: Mapped[str] = mapped_column("address")
    text: Mapped[str | None] = mapped_column("body")
    sent: Mapped[datetime | None] = mapped_column("sent_at", init=False)


class AsDjango(models.Model):
    number = models.IntegerField(primary_key=True, db_column="id")
    to = models.TextField(db_column="address")
    text = models.TextField(null=True, db_column="body")

    class Meta:
        app_label = "post"


class AsItsOwn(Base):
    __tablename__ = "own_letter"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    to: Mapped[str] = mapped_column("address")

    def __init__(self, *, id: int, address: str, body: str | None) -> None:  # noqa: A002
        self.number, self.to = id, address


def as_text(*, address: str, **rest: Any) -> str:
    return f"{rest['id']} {address}"


DECODED = [
    (AsDataclass, lambda data: (data.id, data.address, data.body)),
    (AsPydantic, lambda data: (data.id, data.address, data.body)),
    (AsTypedDict, lambda data: (data["id"], data["address"], data["body"])),
    (AsTuple, lambda data: tuple(data)),
    (AsModel, lambda data: (data.id, data.address, data.body)),
    (AsRenamed, lambda data: (data.number, data.to, data.address)),
    (AsMappedDataclass, lambda data: (data.number, data.to, data.text)),
    (AsDjango, lambda data: (data.number, data.to, data.text)),
    (AsItsOwn, lambda data: (data.number, data.to, None)),
    (as_text, lambda data: (int(data.split()[0]), data.split()[1], None)),
]


@pytest.mark.parametrize(("decode", "read"), DECODED, ids=lambda each: each.__name__)
async def test_what_a_row_is_decoded_to(
    database: TestDatabase, decode: Callable[..., Any], read: Callable[[Any], tuple[Any, ...]]
) -> None:
    async with PostgresHarness.opened(database) as harness:
        (key,) = await Suite(harness).add(1)
        address = await harness._admin.fetchval("SELECT address FROM email")
        async with PostgresDatabase(database.app_dsn, EMAILS, decode=decode) as harness.database:
            suite = Suite(harness)
            (task,) = (await suite.work(await suite.start(), 10)).tasks
            assert task.error is None
            assert read(task.data) == (key, address, None)
            if isinstance(decode, type) and decode is not AsTypedDict:
                assert type(task.data) is decode


def test_a_model_is_called_with_its_own_attributes_where_one_of_a_parent_has_the_column_too() -> None:
    names = dict.fromkeys(("id", "ready"), 1)
    assert vars(by_attributes(SaEngineer, tuple(names))(**names))["number"] == 1
    author = by_attributes(DjMail, ("author_id", "Sent at"))(**{"author_id": 7, "Sent at": None})
    assert (author.author_id, author.sent) == (7, None)
    # Functions that are written by hand: their columns are known when there is a row.
    assert by_attributes(AsMappedDataclass, ())(id=1, address="a", body=None).to == "a"


@pytest.mark.parametrize(
    ("decode", "columns", "sentence"),
    [
        (AsModel, ["id", "state"], "AsModel has no attribute for the column 'state' of the mapping: take it out of columns="),
        (AsDjango, ["id", "state"], "AsDjango has no attribute for the column 'state' of the mapping"),
        (AsMappedDataclass, ["id", "address", "body", "sent_at"], r"called with number=, to=, text=, sent=, .* \(.*'sent'\): name other"),
        (AsMappedDataclass, ["id", "address"], r"called with number=, to=, .* \(missing .*'text'\): name other columns, or give a function"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_take_the_columns_is_refused(
    decode: Any, columns: list[str], sentence: str
) -> None:
    table = TaskTable("email", key="id", pending="p", finish="f", columns=columns)
    with pytest.raises(SettingsError, match=sentence):
        PostgresDatabase("postgresql:///app", table, decode=decode)


# Anything else -------------------------------------------------------------------------------------------


@dataclass
class Misspelt:
    id: int
    adress: str
    body: str | None


class PydanticMisspelt(pydantic.BaseModel):
    id: int
    adress: str


@pydantic.dataclasses.dataclass
class PydanticDataclassMisspelt:
    id: int
    adress: str


class StructMisspelt(msgspec.Struct):
    id: int
    adress: str


@attrs.define
class AttrsMisspelt:
    id: int
    adress: str


class TupleMisspelt(NamedTuple):
    id: int
    adress: str


async def as_coroutine(**columns: Any) -> Any:
    return columns


class Awaited:
    async def __call__(self, **columns: Any) -> Any:
        return columns


def only_some(id: int, address: str) -> Any:  # noqa: A002
    return id, address


CANNOT = r"called with id=, address=, body=, as columns= of the mapping says \({}\): name other columns, or give a function by decode="


@pytest.mark.parametrize(
    ("decode", "sentence"),
    [
        (Misspelt, "decode=Misspelt cannot be " + CANNOT.format(r"missing a required argument: 'adress'")),
        (functools.partial(Misspelt), "decode=Misspelt cannot be " + CANNOT.format(r"missing a required argument: 'adress'")),
        (PydanticMisspelt, "decode=PydanticMisspelt cannot be " + CANNOT.format(r"missing a required field: 'adress'")),
        (PydanticDataclassMisspelt, "Misspelt cannot be " + CANNOT.format(r"missing a required field: 'adress'")),
        (AttrsMisspelt, "decode=AttrsMisspelt cannot be " + CANNOT.format(r"missing a required argument: 'adress'")),
        (StructMisspelt, "decode=StructMisspelt cannot be " + CANNOT.format(r"missing a required argument: 'adress'")),
        (TupleMisspelt, "decode=TupleMisspelt cannot be " + CANNOT.format(r"missing a required argument: 'adress'")),
        (only_some, "decode=only_some cannot be " + CANNOT.format(r"got an unexpected keyword argument 'body'")),
        (lambda row: row, "decode=<lambda> cannot be " + CANNOT.format(r"missing a required argument: 'row'")),
        (lambda *row: row, "decode=<lambda> cannot be " + CANNOT.format(r"got an unexpected keyword argument 'id'")),
        (AsPydantic.model_validate, "decode=model_validate cannot be " + CANNOT.format(r"missing a required argument: 'obj'")),
        ("AsDataclass", "decode is called with the columns as keyword arguments: give a class or a function, not str$"),
        (None, "give a class or a function, not NoneType$"),
        (AsDataclass(1, "a", None), "give a class or a function, not AsDataclass$"),
        (as_coroutine, "^decode=as_coroutine is called, not awaited: give a plain function$"),
        (functools.partial(as_coroutine, more=1), "^decode=as_coroutine is called, not awaited"),
        (Awaited(), "^decode=Awaited is called, not awaited"),
        (AsyncMock(), "is called, not awaited"),
    ],
)  # fmt: skip
def test_what_cannot_be_called_with_the_columns_is_refused(decode: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        PostgresDatabase("postgresql:///app", EMAILS, decode=decode)


@pytest.mark.parametrize("decode", ["x", as_coroutine])
def test_also_where_the_columns_are_not_known(decode: Any) -> None:
    with pytest.raises(SettingsError, match="^decode"):
        PostgresDatabase("postgresql:///app", functions="email", key=int, decode=decode)
    PostgresDatabase("postgresql:///app", functions="email", key=int, decode=Misspelt)


class ByAlias(pydantic.BaseModel):
    number: int = pydantic.Field(alias="id")
    to: str = pydantic.Field(validation_alias=pydantic.AliasChoices("adress", "address"))
    first: str = pydantic.Field(validation_alias=pydantic.AliasPath("address", 0), default="")
    more: list[int] = pydantic.Field(default_factory=list)


class ByEitherName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    id: int
    address: str = pydantic.Field(alias="to")


class ByGenerator(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=str.lower)
    ID: int
    Address: str


class Supplied(pydantic.BaseModel):
    id: int
    adress: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def spelt(cls, data: Any) -> Any:
        return {**data, "adress": data["address"]}


class Wrapped(pydantic.BaseModel):
    id: int
    adress: str

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def spelt(cls, data: Any, made: Any) -> Any:
        return made({**data, "adress": data["address"]})


class Inherited(Supplied):
    more: int = 1


class ByConstructor(pydantic.BaseModel):
    id: int
    adress: str

    def __init__(self, **columns: Any) -> None:
        super().__init__(id=columns["id"], adress=columns["address"])


@pydantic.dataclasses.dataclass
class SuppliedDataclass:
    id: int
    adress: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def spelt(cls, data: Any) -> Any:
        return {"id": data.kwargs["id"], "adress": data.kwargs["address"]}


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    id: int
    address: str = pydantic.Field(default="")
    computed: str = field(init=False, default="")


class BySchema(pydantic.BaseModel):
    id: int
    adress: str = ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return handler(source)


class Struct(msgspec.Struct, rename="camel"):
    id: int
    address: str
    body: str | None = None


@attrs.define
class Attrs:
    id: int
    address: str
    _body: str | None = None


class AnyColumns:
    def __init__(self, **columns: Any) -> None:
        self.columns = columns


class Rest:
    def __new__(cls, *args: Any, **columns: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, id: int, address: str, body: str | None) -> None:  # noqa: A002
        self.id = id


class Page(Generic[G]):
    def __init__(self, id: int, address: G, body: str | None) -> None:  # noqa: A002
        self.id = id


def of_other_columns(adress: str) -> str:
    return adress


@functools.wraps(of_other_columns)
def wrapper(**columns: Any) -> str:
    return of_other_columns(columns["address"])


class Told:
    __signature__ = inspect.Signature()

    def __call__(self, **columns: Any) -> Any:
        return columns


class Meta(type):
    def __call__(cls, **columns: Any) -> Any:
        return super().__call__(columns["id"])


class ByItsMetaclass(metaclass=Meta):
    def __init__(self, number: int) -> None:
        self.number = number


WORKS = [
    ByAlias, ByEitherName, ByGenerator, Supplied, Wrapped, Inherited, ByConstructor, SuppliedDataclass, PydanticDataclass, BySchema,
    pydantic.RootModel[dict[str, Any]], pydantic.create_model("Made", id=int), functools.partial(AsPydantic, more=1),
    functools.partial(ByAlias), pydantic.validate_call(as_text), Struct, Attrs, AnyColumns, Rest, Page[str], AsTypedDict, AsTuple, dict,
    dict[str, Any], collections.OrderedDict, collections.UserDict, SimpleNamespace,
    functools.partial(AsDataclass, id=0), lambda **row: row, lambda address, *_, body=None, more=1, **rest: rest, wrapper, Told(), ByItsMetaclass,
    Mock(), MagicMock(), Mock(spec=as_text), create_autospec(as_text),
]  # fmt: skip


@pytest.mark.parametrize("decode", WORKS, ids=lambda each: getattr(each, "__name__", type(each).__name__))
def test_what_can_be_called_with_the_columns_is_taken_and_called(decode: Any) -> None:
    columns = {"id": 1, "address": "ann@example.org", "body": None}
    table = TaskTable("email", key="id", pending="p", finish="f", columns=list(columns))
    PostgresDatabase("postgresql:///app", table, decode=decode)
    assert by_attributes(decode, tuple(columns))(**columns) is not None
