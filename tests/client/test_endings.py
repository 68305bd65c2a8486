"""How guards, clients and processes end: nothing that was held or spent is forgotten."""

import asyncio
import warnings

import pytest

from bursar.testing.scripted import ScriptedLedger


def test_left_guard_is_released_although_the_warning_is_an_error() -> None:
    """`-W error::ResourceWarning` must not cost the release."""
    with ScriptedLedger(agent="bot") as ledger:
        ledger.budget("1USD")
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            with (
                pytest.raises(ResourceWarning, match="left without commit or release"),
                ledger.client.reserve(estimate=7),
            ):
                pass
        assert [str(one.status) for one in ledger.reservations()] == ["RELEASED"]


def test_left_async_guard_is_released_although_the_warning_is_an_error() -> None:
    """The same in an event loop."""

    async def leave(ledger: ScriptedLedger) -> None:
        async with await ledger.async_client.reserve(estimate=7):
            pass

    with ScriptedLedger(agent="bot") as ledger:
        ledger.budget("1USD")
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            with pytest.raises(ResourceWarning, match="left without commit or release"):
                asyncio.run(leave(ledger))
        assert [str(one.status) for one in ledger.reservations()] == ["RELEASED"]
