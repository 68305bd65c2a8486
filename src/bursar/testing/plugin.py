"""The pytest plugin: two fixtures, found by pytest where Bursar is installed.

The rule that lives here: every run of pytest loads this module, so it loads nothing else
before somebody asks for a ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bursar.testing.scripted import ScriptedLedger


@pytest.fixture
def bursar_config() -> dict[str, Any]:
    """Fields of `CyclesConfig` for the clients of `bursar_ledger`; override it to change some."""
    return {}


@pytest.fixture
def bursar_ledger(bursar_config: dict[str, Any]) -> Iterator[ScriptedLedger]:
    """A fresh ledger in memory, a client and an async client on it, and faults by script."""
    from bursar.testing.scripted import ScriptedLedger

    with ScriptedLedger(**bursar_config) as ledger:
        yield ledger
