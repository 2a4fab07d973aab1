"""docs/how-to/kubernetes.md: its process is installed, started, probed and stopped by the commands of its manifests; these agree with each
other and with the library; its SQL runs. There is no Kubernetes here.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml
from opentelemetry.sdk.resources import Resource

from session_lock import PostgresDatabase, Settings
from session_lock import calls as calls_module
from session_lock.cli import _parser, main
from session_lock.contrib.probing import PATHS
from session_lock.migrations.installation import TURNS
from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.service import until
from tests.docs.examples import running_process
from tests.docs.pages import Page
from tests.docs.test_apps import free_port
from tests.docs.test_telemetry import LABELS, asked, series
from tests.support import apply_mapping

PAGE = Page("kubernetes.md")
FLAT = " ".join(PAGE.text.split())
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.text, flags=re.MULTILINE | re.DOTALL)
DOCUMENTS = [document for block in BLOCKS for document in yaml.safe_load_all(block)]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in DOCUMENTS if document.get("kind") == kind]
    return found


JOB, DEPLOYMENT = of_kind("Job"), of_kind("Deployment")
POD = DEPLOYMENT["spec"]["template"]
(MAILER,) = POD["spec"]["containers"]
(INSTALL,) = JOB["spec"]["template"]["spec"]["containers"]
(SHOP_POD,) = [document["spec"] for document in DOCUMENTS if "containers" in document.get("spec", {})]
(SHOP,) = SHOP_POD["containers"]
QUERY = of_kind("ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]


@pytest.fixture
def page() -> Page:
    page = Page("kubernetes.md")
    page.run(holding="def runner(")
    page.run(holding="DSN_FILE")
    assert page.done
    return page


@pytest.fixture
async def admin(database: TestDatabase, page: Page) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(re.search(r"# (CREATE TABLE .*)", page.blocks[0])[1])
    yield connection
    await connection.close()


# The process -------------------------------------------------------------------------------------------------


def started(
    database: TestDatabase, folder: Path, port: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """The container of the Deployment, with its variables as Kubernetes would set them."""
    values = {
        "DATABASE_URL": database.app_dsn,
        "APP_VERSION": POD["metadata"]["labels"]["app.kubernetes.io/version"],
    }
    assert values.keys() <= {each["name"] for each in MAILER["env"]}
    program, *words = MAILER["command"]
    return running_process(Path(sys.executable).with_name(program), *words, cwd=folder, PORT=port, **values)


@pytest.mark.timeout(120)
async def test_the_process(
    database: TestDatabase,
    page: Page,
    admin: asyncpg.Connection,
    write_jobs: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_jobs(page.blocks[0])
    await admin.execute("INSERT INTO mail (address) VALUES ('ann@example.org')")
    port = free_port()

    # Where the Job was forgotten it does not start, and says what is missing.
    async with started(database, tmp_path, port) as process:
        _, log = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == 2, log.decode()
        assert b"session-lock install" in log

    (variable,) = [each["name"] for each in INSTALL["env"]]
    monkeypatch.setenv(variable, database.admin_dsn)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    program, *words = INSTALL["command"]
    assert program == "session-lock"
    words = [APP_ROLE if word == "mailer" else word for word in words]
    for _ in range(2):  # "It may run again without harm"
        assert await asyncio.to_thread(main, words) == 0

    async with started(database, tmp_path, port) as process, httpx.AsyncClient(trust_env=False) as client:

        async def answered(probe: str) -> bool:
            get = MAILER[probe]["httpGet"]
            assert get["port"] in {each["name"] for each in MAILER["ports"]}
            try:
                return (await client.get(f"http://127.0.0.1:{port}{get['path']}")).status_code == 200
            except httpx.TransportError:
                assert process.returncode is None
                return False

        for probe in ("livenessProbe", "readinessProbe"):
            await until(lambda probe=probe: answered(probe), f"no {probe}")

        async def is_sent() -> bool:
            return await admin.fetchval("SELECT count(*) = 0 FROM mail WHERE sent_at IS NULL")

        await until(is_sent, "the mail is not sent")
        session = await admin.fetchrow(
            "SELECT id, app_version FROM session_lock.session WHERE ended_at IS NULL"
        )
        assert session["app_version"] == "2.4.0"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), POD["spec"]["terminationGracePeriodSeconds"]) == 0

    # A drain from outside ends it with status 0, so that Kubernetes starts it anew.
    async with started(database, tmp_path, port) as process:
        find = "SELECT id FROM session_lock.session WHERE ended_at IS NULL"

        async def has_session() -> bool:
            return await admin.fetchval(find) is not None

        await until(has_session, "it has no session")
        drain = re.search(r"`session-lock (drain jobs:mails) 17`", FLAT)[1].split()
        assert await asyncio.to_thread(main, [*drain, str(await admin.fetchval(find))]) == 0
        assert await asyncio.wait_for(process.wait(), 40) == 0


async def test_the_dsn_in_a_file(
    database: TestDatabase,
    page: Page,
    admin: asyncpg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await apply_mapping(admin, page["mails"], grant_to=APP_ROLE)
    (tmp_path / "dsn").write_text(f"{database.app_dsn}\n")
    monkeypatch.setenv("DSN_FILE", str(tmp_path / "dsn"))
    async with PostgresDatabase(page["connect"], page["mails"]) as rotating:
        assert await rotating.shares() == []


async def test_what_keda_asks(database: TestDatabase, page: Page, admin: asyncpg.Connection) -> None:
    """Of what is due, held or not, as a role that may see no more than it takes."""
    await apply_mapping(admin, page["mails"], grant_to=APP_ROLE)
    await admin.execute(
        "INSERT INTO mail (address, sent_at, available_at, session_id) VALUES ('due', NULL, now(), NULL), ('held', NULL, now(), 1),"
        " ('sent', now(), now(), NULL), ('later', NULL, now() + interval '1 hour', NULL)"
    )
    (grant,) = re.findall(r"^```sql\n(.*?)^```$", PAGE.text, flags=re.MULTILINE | re.DOTALL)
    await admin.execute("CREATE ROLE scaler_of_the_page")
    try:
        await admin.execute(grant.replace(" scaler;", " scaler_of_the_page;"))
        await admin.execute("SET ROLE scaler_of_the_page")
        assert await admin.fetchval(QUERY) == 2
        await admin.execute("RESET ROLE")
    finally:
        await admin.execute("RESET ROLE; DROP OWNED BY scaler_of_the_page; DROP ROLE scaler_of_the_page")


# What the manifests say --------------------------------------------------------------------------------------


def commands() -> Iterator[list[str]]:
    """The words of all `session-lock` commands, in manifests and in the text."""
    yield from (each["command"] for each in (INSTALL, MAILER))
    for text in re.findall(r"`(session-lock [^`]+)`", PAGE.text):
        yield shlex.split(text)


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_the_commands_exist(words: list[str]) -> None:
    if len(words) == 2:  # named, and not written out
        assert main([words[1], "--help"]) == 0
    else:
        arguments, rest = _parser(with_demo=False).parse_known_args(words[1:])
        assert (rest, arguments.run.__module__.partition(".cli.")[0]) == ([], "session_lock")


def test_each_document_is_one_of_kubernetes_and_refers_to_another_that_there_is() -> None:
    whole = [document for document in DOCUMENTS if "kind" in document]
    assert len(whole) == len(DOCUMENTS) - 2  # the rule, and a part of a pod
    assert all({"apiVersion", "kind", "metadata", "spec"} == document.keys() for document in whole)
    labels = POD["metadata"]["labels"]
    for selecting in (DEPLOYMENT, of_kind("PodDisruptionBudget")):
        assert selecting["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for scaling in (of_kind("HorizontalPodAutoscaler"), of_kind("ScaledObject")):
        assert scaling["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    trigger = of_kind("ScaledObject")["spec"]["triggers"][0]
    assert trigger["authenticationRef"]["name"] == of_kind("TriggerAuthentication")["metadata"]["name"]
    for path in re.findall(r"fieldPath: \"metadata.labels\['(.*?)'\]\"", PAGE.text):
        assert path in labels
    version = labels["app.kubernetes.io/version"]
    assert MAILER["image"] == INSTALL["image"]
    assert MAILER["image"].endswith(f":{version}")
    assert JOB["metadata"]["name"].endswith(version.replace(".", "-"))
    assert f"job/{JOB['metadata']['name']} " in PAGE.text
    applied = re.findall(r"^\$ kubectl apply -f (\S+)$", PAGE.text, flags=re.MULTILINE)
    assert applied == re.findall(r"^# (\S+)$", "".join(BLOCKS), flags=re.MULTILINE)


def test_a_secret_of_the_owner_is_in_the_job_alone() -> None:
    def secrets(container: dict[str, Any]) -> set[str]:
        found = (each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"])
        return {secret["name"] for secret in found if secret}

    assert len(secrets(INSTALL)) == len(secrets(MAILER)) == 1
    assert secrets(INSTALL).isdisjoint(secrets(MAILER))


def test_the_time_to_stop(page: Page) -> None:
    def needed(settings: Settings) -> list[float]:
        return [settings.drain_timeout, settings.cancel_grace, settings.shutdown_timeout]

    own = needed(page["settings"])
    assert sum(own) < POD["spec"]["terminationGracePeriodSeconds"]
    assert f"here {' + '.join(f'{part:g}' for part in own)} = {sum(own):g} seconds" in FLAT
    pause = int(SHOP["lifecycle"]["preStop"]["exec"]["command"][1])
    server = int(SHOP["command"][SHOP["command"].index("--timeout-graceful-shutdown") + 1])
    standard = sum(needed(Settings()))
    assert pause + server + standard < SHOP_POD["terminationGracePeriodSeconds"]
    assert f"here {pause} + {server}, and {standard:g} for a Runner with the defaults" in FLAT


def test_the_probes() -> None:
    probes = {
        name: container[name] for container in (MAILER, SHOP) for name in container if name.endswith("Probe")
    }
    assert {MAILER[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")} == set(PATHS)
    assert SHOP["livenessProbe"]["httpGet"]["path"] == f"/probes{PATHS[0]}"
    for probe in probes.values():
        assert probe["timeoutSeconds"] < probe["periodSeconds"]
        assert probe["timeoutSeconds"] == Settings().call_timeout == 3
    # A new pod is ready before an old one is stopped, and one is always left.
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"] < DEPLOYMENT["spec"]["replicas"]


def test_the_rule_and_who_asks_for_it() -> None:
    (rules,) = [document["groups"][0]["rules"] for document in DOCUMENTS if "groups" in document]
    (rule,) = rules
    assert asked(rule["expr"]) <= dict(series()).keys()
    (metric,) = of_kind("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == rule["record"]
    labels = metric["external"]["metric"]["selector"]["matchLabels"]
    assert labels.keys() <= LABELS
    assert labels["messaging_destination_name"] == "mail"
    target = int(metric["external"]["target"]["averageValue"])
    assert (
        f"{target} tasks for each pod are twice what it does at once (`concurrency`, {Settings().concurrency})"
        in FLAT
    )
    assert target == 2 * Settings().concurrency
    assert of_kind("ScaledObject")["spec"]["triggers"][0]["metadata"]["targetQueryValue"] == str(target)


def test_the_attribute_that_tells_pods_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    (value,) = [each["value"] for each in MAILER["env"] if each["name"] == "OTEL_RESOURCE_ATTRIBUTES"]
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", value.replace("$(POD_NAME)", "mailer-1"))
    resource = Resource.create({"service.name": "orders"})  # as the recipe does
    assert resource.attributes["service.instance.id"] == "mailer-1"
    assert resource.attributes["service.name"] == "orders"


def test_the_numbers() -> None:
    settings = Settings()
    assert TURNS * 0.2 == 60  # "waits a minute"
    margin = settings.lease_ttl - settings.guard - settings.cancel_grace
    assert f"for {margin:g} s (`lease_ttl` - `guard` - `cancel_grace`)" in FLAT
    assert f"(`lease_ttl`, {settings.lease_ttl:g} s)" in FLAT
    work, transactions = calls_module.WORK_CONNECTIONS, calls_module.TRANSACTION_CONNECTIONS
    assert (
        f"up to {work + 2} connections ({work} for work, 1 for keepalives, 1 that listens), and up to {transactions} more"
        in FLAT
    )
