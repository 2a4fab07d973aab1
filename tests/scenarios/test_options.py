"""Scenarios are named on the command line, and have their own options."""

from __future__ import annotations

from session_lock.cli.demo.scenarios import SCENARIOS


def test_options_that_a_scenario_does_not_have(demo):
    status, out, err = demo("--scenario", "bank", "--dir", "/tmp").wait()
    assert (status, out) == (2, "")
    assert err == "session-lock: the scenario bank has no --dir: leave it out\n"
    status, _, err = demo("--scenario", "casino").wait()
    assert status == 2
    assert all(name in err for name in SCENARIOS)
