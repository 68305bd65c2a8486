"""To test with: a ledger of one's own, faults by script, and fakes of what Bursar is made of.

The rule that lives here: a fake is a product. It passes the contract suite that the real
thing passes, and what it adds is only what a test needs to say. Names are loaded when they
are first asked for, because the pytest plugin is loaded by every run of pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.lazy import door

if TYPE_CHECKING:
    from bursar.testing.asserts import assert_nothing_held as assert_nothing_held
    from bursar.testing.asserts import assert_settled_once as assert_settled_once
    from bursar.testing.asserts import assert_spent as assert_spent
    from bursar.testing.chain import Dollar as Dollar
    from bursar.testing.chain import LocalChain as LocalChain
    from bursar.testing.clock import FakeClock as FakeClock
    from bursar.testing.facilitator import Fault as Fault
    from bursar.testing.facilitator import ScriptedFacilitator as ScriptedFacilitator
    from bursar.testing.faults import AsyncFaultyTransport as AsyncFaultyTransport
    from bursar.testing.faults import Faults as Faults
    from bursar.testing.faults import FaultyTransport as FaultyTransport
    from bursar.testing.memory import MemoryStore as MemoryStore
    from bursar.testing.memory_payments import MemoryPayments as MemoryPayments
    from bursar.testing.models import ScriptedModel as ScriptedModel
    from bursar.testing.models import ScriptedSyncModel as ScriptedSyncModel
    from bursar.testing.payments import Mishap as Mishap
    from bursar.testing.payments import PaymentService as PaymentService
    from bursar.testing.providers import Reply as Reply
    from bursar.testing.providers import ScriptedProvider as ScriptedProvider
    from bursar.testing.providers import ToolUse as ToolUse
    from bursar.testing.receiver import Received as Received
    from bursar.testing.receiver import WebhookReceiver as WebhookReceiver
    from bursar.testing.scripted import Charge as Charge
    from bursar.testing.scripted import ScriptedLedger as ScriptedLedger
else:
    __all__, __getattr__, __dir__ = door(
        __name__,
        {
            "bursar.testing.asserts": (
                "assert_nothing_held",
                "assert_settled_once",
                "assert_spent",
            ),
            "bursar.testing.chain": (
                "Dollar",
                "LocalChain",
            ),
            "bursar.testing.clock": ("FakeClock",),
            "bursar.testing.facilitator": (
                "Fault",
                "ScriptedFacilitator",
            ),
            "bursar.testing.faults": ("AsyncFaultyTransport", "Faults", "FaultyTransport"),
            "bursar.testing.memory": ("MemoryStore",),
            "bursar.testing.memory_payments": ("MemoryPayments",),
            "bursar.testing.models": (
                "ScriptedModel",
                "ScriptedSyncModel",
            ),
            "bursar.testing.payments": (
                "Mishap",
                "PaymentService",
            ),
            "bursar.testing.receiver": ("Received", "WebhookReceiver"),
            "bursar.testing.providers": (
                "Reply",
                "ScriptedProvider",
                "ToolUse",
            ),
            "bursar.testing.scripted": ("Charge", "ScriptedLedger"),
        },
    )
