"""The scenarios, by the names that --scenario knows."""

from session_lock.cli.demo.scenario import Scenario
from session_lock.cli.demo.scenarios.balance import Balance
from session_lock.cli.demo.scenarios.bank import Bank
from session_lock.cli.demo.scenarios.cron import Cron
from session_lock.cli.demo.scenarios.deploy import Deploy
from session_lock.cli.demo.scenarios.files import Files
from session_lock.cli.demo.scenarios.retries import Retries
from session_lock.cli.demo.scenarios.serial import Serial
from session_lock.cli.demo.scenarios.shards import Shards
from session_lock.cli.demo.scenarios.tenants import Tenants

SCENARIOS: dict[str, type[Scenario]] = {
    "files": Files,
    "bank": Bank,
    "retries": Retries,
    "serial": Serial,
    "tenants": Tenants,
    "cron": Cron,
    "deploy": Deploy,
    "shards": Shards,
    "balance": Balance,
}
