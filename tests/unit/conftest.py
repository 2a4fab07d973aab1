"""No unit test logs what a row holds, or what proves a session's identity."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from tests.unit.faults import NONCES
from tests.unit.scenes import CANARY


@pytest.fixture(scope="package", autouse=True)
def cheap_collections() -> Iterator[None]:
    """What is there before the tests need not be looked at by the garbage collections that they run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_told(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    NONCES.clear()
    yield
    for record in caplog.get_records("call"):
        told = f"{record.getMessage()} {record.__dict__} {record.exc_text}"
        assert CANARY not in told, f"a row's data was logged: {record.name} {record.msg}"
        assert not any(nonce in told for nonce in NONCES), f"a nonce was logged: {record.name} {record.msg}"
        assert record.name != "asyncio" or record.levelno < logging.WARNING, told
