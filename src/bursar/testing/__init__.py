"""To test with: a ledger of one's own, faults by script, and fakes of what Bursar is made of.

The rule that lives here: a fake is a product. It passes the contract suite that the real
thing passes, and what it adds is only what a test needs to say. Names are loaded when they
are first asked for, because the pytest plugin is loaded by every run of pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.testing.asserts import assert_nothing_held as assert_nothing_held
    from bursar.testing.asserts import assert_settled_once as assert_settled_once
    from bursar.testing.asserts import assert_spent as assert_spent
    from bursar.testing.clock import FakeClock as FakeClock
    from bursar.testing.faults import AsyncFaultyTransport as AsyncFaultyTransport
    from bursar.testing.faults import Faults as Faults
    from bursar.testing.faults import FaultyTransport as FaultyTransport
    from bursar.testing.memory import MemoryStore as MemoryStore
    from bursar.testing.scripted import Charge as Charge
    from bursar.testing.scripted import ScriptedLedger as ScriptedLedger

_HOMES = {
    "AsyncFaultyTransport": "faults",
    "Charge": "scripted",
    "FakeClock": "clock",
    "Faults": "faults",
    "FaultyTransport": "faults",
    "MemoryStore": "memory",
    "ScriptedLedger": "scripted",
    "assert_nothing_held": "asserts",
    "assert_settled_once": "asserts",
    "assert_spent": "asserts",
}

__all__ = [
    "AsyncFaultyTransport",
    "Charge",
    "FakeClock",
    "Faults",
    "FaultyTransport",
    "MemoryStore",
    "ScriptedLedger",
    "assert_nothing_held",
    "assert_settled_once",
    "assert_spent",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for; nothing else is made up."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"bursar.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
