"""docs/reference/telemetry.md: its recipe sends over OTLP to a receiver that is a program of its own, where one trace goes from who
enqueues to the finish; its dashboard and its alerts ask for metrics that there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
import yaml
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from session_lock import PostgresDatabase, Retry, Runner, Settings, each, enqueue, queue
from session_lock.migrations import install
from session_lock.telemetry.words import METRICS, SECONDS
from tests.conftest import TestDatabase
from tests.docs.examples import ROOT
from tests.docs.pages import Page

FOLDER = ROOT / "docs" / "reference" / "telemetry"

SERVICE = """

import asyncio
import sys

import asyncpg

from session_lock import PostgresDatabase, Runner, Settings, each, enqueue, queue


async def main(dsn):
    jobs, tracer, done = queue("jobs"), trace.get_tracer("shop"), asyncio.Event()
    connection = await asyncpg.connect(dsn)
    with tracer.start_as_current_span("POST /orders"):
        await enqueue(connection, jobs, {"order": 1})

    async def charge(task):
        with tracer.start_as_current_span("charge"):
            await asyncio.sleep(0.01)
        done.set()

    async with PostgresDatabase(dsn, jobs) as database:
        async with Runner(database, each(charge), Settings(start_jitter=0)):
            await asyncio.wait_for(done.wait(), 20)
        pending = await connection.fetchval("SELECT count(*) FROM jobs WHERE finished_at IS NULL")
    await connection.close()
    print("pending", pending)


set_up_telemetry()
asyncio.run(main(sys.argv[1]))
trace.get_tracer_provider().shutdown()
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.asynccontextmanager
async def receiver(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A viewer of traces that takes OTLP: its address, and its file."""
    endpoint, file = f"http://127.0.0.1:{(port := free_port())}", folder / "traces.db"
    program = [Path(sys.executable).parent / "tv", "-p", str(port), "-d", str(file), "serve"]
    process = subprocess.Popen(
        program, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient() as client:
            for _ in range(200):
                with contextlib.suppress(httpx.TransportError):
                    await client.get(endpoint)
                    break
                await asyncio.sleep(0.05)
        yield endpoint, file
    finally:
        process.kill()
        process.wait()


async def serve(database: TestDatabase, endpoint: str, folder: Path) -> str:
    """What the service of the page prints, which does one order."""
    admin = await asyncpg.connect(database.admin_dsn)
    await install(admin, queue("jobs"))
    await admin.close()
    file = folder / "service.py"
    file.write_text(Page("telemetry.md", folder="reference").blocks[0] + SERVICE)
    process = await asyncio.create_subprocess_exec(
        sys.executable, file, database.admin_dsn, cwd=ROOT, env={**os.environ, "OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        told, _ = await asyncio.wait_for(process.communicate(), 50)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert process.returncode == 0
    return told.decode()


def received(file: Path) -> dict[str, dict[str, Any]]:
    """The spans of the one task's trace, by their operation; that of the producer, and the tasker's own, have none.

    The store has an event as a span of its own: there is one if the service was stopped before the call had ended.
    """
    with contextlib.closing(sqlite3.connect(file)) as store:
        store.row_factory = sqlite3.Row
        spans = [{**row, "told": json.loads(row["metadata"])} for row in store.execute("SELECT * FROM spans")]
    named = {span["told"].get("messaging.operation.name"): span for span in spans}
    if "finish" not in named:
        return {}
    trace = [
        span
        for span in spans
        if span["trace_id"] == named["finish"]["trace_id"] and "-event-" not in span["id"]
    ]
    return {
        span["told"].get("messaging.operation.name", f"own {number}"): span
        for number, span in enumerate(trace)
    }


async def test_one_trace_goes_from_who_enqueues_over_the_tasker_to_the_finish(
    database: TestDatabase, tmp_path: Path
) -> None:
    async with receiver(tmp_path) as (endpoint, file):
        assert await serve(database, endpoint, tmp_path) == "pending 0\n"
        for _ in range(200):
            if len(spans := received(file)) == 4:
                break
            await asyncio.sleep(0.05)
    process, finish = spans.pop("process"), spans.pop("finish")
    producer, charge = sorted(spans.values(), key=lambda span: span["parent_span_id"] or "")
    assert producer["parent_span_id"] is None
    assert process["parent_span_id"] == producer["id"]
    assert {finish["parent_span_id"], charge["parent_span_id"]} == {process["id"]}
    assert finish["told"]["messaging.operation.type"] == "settle"
    assert finish["told"]["db.namespace"] == database.name
    assert finish["told"]["server.address"] == urlsplit(database.admin_dsn).hostname
    assert {span["told"]["service.name"] for span in (producer, process, finish)} == {"orders"}


async def test_a_collector_that_is_down_does_not_touch_the_work(
    database: TestDatabase, tmp_path: Path
) -> None:
    assert await serve(database, f"http://127.0.0.1:{free_port()}", tmp_path) == "pending 0\n"


# The table of the metrics -------------------------------------------------------------------------------------

TABLE = dict(
    re.findall(
        r"^\| `([\w.]+)` \| \w+ \| \S+ \| .*? \| (.*) ?\|$",
        Page("telemetry.md", folder="reference").text,
        re.MULTILINE,
    )
)
"""The metrics and, as it says, their further attributes."""

OF_ALL = {"messaging.system", "messaging.destination.name"}
OF_ERRORS = {"error.type", "db.response.status_code"}
OF_POSTGRES = {"db.system.name", "db.namespace", "server.address", "server.port"}


async def test_each_metric_is_emitted_with_the_attributes_that_the_table_says(database: TestDatabase) -> None:
    reader, jobs = InMemoryMetricReader(), queue("jobs")
    provider, told = MeterProvider([reader]), defaultdict(set)

    def look() -> None:
        data = reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for metric in (one for scope in resource.scope_metrics for one in scope.metrics):
                told[metric.name].update(*(point.attributes for point in metric.data.data_points))

    async def fails_once(task: Any) -> None:
        if task.attempt == 1:
            raise LookupError

    admin = await asyncpg.connect(database.admin_dsn)
    await install(admin, jobs)
    config = Settings(start_jitter=0, keepalive_interval=0.5, retry=Retry(delay=0.1))
    async with PostgresDatabase(database.admin_dsn, jobs) as tasks:
        async with Runner(tasks, each(fails_once), config, meter_provider=provider), asyncio.timeout(30):
            while not {each.name for each in METRICS} <= {
                name for name, attributes in told.items() if attributes
            }:
                await enqueue(admin, jobs, {})
                await asyncio.sleep(0.3)
                look()
        look()
    await admin.close()
    provider.shutdown()
    assert list(TABLE) == [each.name for each in METRICS]
    assert told.keys() == TABLE.keys()
    for name, text in TABLE.items():
        further, _, without = text.partition(";")
        listed = {*re.findall(r"`([\w.]+)`", further)} | OF_ALL | (set() if without else OF_POSTGRES)
        assert told[name] | OF_ERRORS == listed | OF_ERRORS, name
        assert told[name] <= listed, name
    for name in ("messaging.process.duration", "session_lock.tasks.failed"):
        assert "error.type" in told[name]


# The dashboard and the alerts --------------------------------------------------------------------------------

PANELS = json.loads((FOLDER / "grafana.json").read_text())["panels"]
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]

PROMTOOL = shutil.which("promtool")

LABELS = {
    "messaging_destination_name", "messaging_operation_name", "db_operation_name", "error_type", "session_lock_outcome", "le",
}  # fmt: skip


def series() -> Iterator[tuple[str, str]]:
    """(series, metric) as Prometheus calls what comes over OTLP."""
    for metric in METRICS:
        name = metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")
        suffix = {"counter": "_total", "histogram": "_bucket"}.get(metric.kind, "")
        yield name + suffix, metric.name


def asked(query: str) -> set[str]:
    """The names of series in a query: what is neither a function, an operator, a label nor a duration."""
    words = set(re.findall(r"(?<![\w\"$])[a-z_]{2,}\b(?!\s*(?:\(|by\b))", re.sub(r'"[^"]*"', "", query)))
    return words - LABELS - {"by", "and", "unless"}


@pytest.mark.parametrize(
    "query",
    [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in RULES],
)
def test_each_query_asks_for_what_there_is(query: str) -> None:
    assert asked(query)
    assert asked(query) <= dict(series()).keys()
    assert query.count("(") == query.count(")")
    assert {
        label for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(", ")
    } <= LABELS


def test_the_dashboard_shows_each_metric_once_and_no_panel_on_another() -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name in asked(target["expr"])}
    assert shown == dict(series()).keys()
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(set(places)) == len(PANELS)
    assert all(x in (0, 12) and y % 8 == 0 for x, y in places)


def test_each_alert_says_what_is_the_matter_and_how_bad_it_is() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_an_alert_tells_of_a_mapping_if_it_looks_at_each() -> None:
    """All but the one that hears of none."""
    for rule in RULES:
        by = (
            "by (messaging_destination_name)" in rule["expr"]
            or "by (le, messaging_destination_name)" in rule["expr"]
        )
        assert by == ("{{ $labels.messaging_destination_name }}" in rule["annotations"]["summary"]) == (rule["alert"] != "NoSessionAtAll")  # fmt: skip


@pytest.mark.skipif(PROMTOOL is None, reason="Prometheus has it")
@pytest.mark.parametrize(
    ("series", "expected"),
    [
        # Two instances of mails, of which one stays; the only one of orders is gone after 10 minutes; after an hour all are. What is not
        # heard of for 5 minutes is gone, and that has to be so for 5 more.
        (
            {"lease_left": {("mails", "a"): 60, ("mails", "b"): 5, ("orders", "a"): 10}},
            {
                "NoSession": {"9m": "", "17m": "", "25m": "orders", "80m": "mails orders", "27h": ""},
                "NoSessionAtAll": {"25m": "", "80m": "all", "27h": "all"},
            },
        ),
        # After 10 minutes nobody tells the age of mails; of orders nobody ever did, and the instance of bells is gone.
        (
            {
                "lease_left": {("mails", "a"): 90, ("orders", "a"): 90, ("bells", "a"): 10},
                "oldest_age": {("mails", "a"): 10, ("bells", "a"): 10},
            },
            {"BacklogIsNotTold": {"9m": "", "22m": "", "27m": "mails", "80m": "mails", "120m": ""}},
        ),
    ],
)
def test_an_alert_of_what_is_missing(
    tmp_path: Path, series: dict[str, Any], expected: dict[str, dict[str, str]]
) -> None:
    """`series`: of a mapping and an instance, for how many minutes it is told."""

    def told(name: str, mapping: str) -> dict[str, Any]:
        (rule,) = [rule for rule in RULES if rule["alert"] == name]
        texts = {key: text.replace("{{ $labels.messaging_destination_name }}", mapping) for key, text in rule["annotations"].items()}  # fmt: skip
        labels = {} if mapping == "all" else {"messaging_destination_name": mapping}
        return {"exp_labels": rule["labels"] | labels, "exp_annotations": texts}

    test = {
        "rule_files": [str(FOLDER / "alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": [
                {
                    "series": f'session_lock_{metric}_seconds{{messaging_destination_name="{mapping}", instance="{instance}"}}',
                    "values": f"20+0x{minutes}",
                }
                for metric, instances in series.items()
                for (mapping, instance), minutes in instances.items()
            ],
            "alert_rule_test": [
                {"eval_time": at, "alertname": name, "exp_alerts": [told(name, mapping) for mapping in mappings.split()]}
                for name, at_times in expected.items()
                for at, mappings in at_times.items()
            ],
        }],
    }  # fmt: skip
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run([str(PROMTOOL), "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bucket_that_an_alert_asks_for_is_there() -> None:
    (short,) = [rule for rule in RULES if rule["alert"] == "LeaseIsShort"]
    assert float(short["expr"].split()[-1]) in SECONDS
