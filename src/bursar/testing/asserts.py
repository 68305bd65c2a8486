"""What a test claims about a ledger, and what it is told when the claim is wrong.

The rule that lives here: a message says what was found, never only that it differs.
"""

from __future__ import annotations

from bursar import money
from bursar.client.models import ReservationSummary
from bursar.testing.scripted import Charge, ScriptedLedger
from bursar.vocabulary import ReservationStatus, Unit


def assert_settled_once(ledger: ScriptedLedger) -> None:
    """Claim that the ledger was charged exactly once, and holds nothing.

    A commit counts, and an event, such as the one that replaces a commit that came too late.
    An attempt that was answered from the first one's idempotency key does not.

    Raises:
        AssertionError: none or several charges were applied, or something is still held.
    """
    __tracebackhide__ = True
    charges = ledger.charges()
    if len(charges) != 1:
        raise AssertionError(
            f"the ledger was charged {len(charges)} times, not once\n{_told(ledger, charges)}"
        )
    assert_nothing_held(ledger)


def assert_nothing_held(ledger: ScriptedLedger) -> None:
    """Claim that no reservation is active and no budget has anything reserved.

    Raises:
        AssertionError: something is held.
    """
    __tracebackhide__ = True
    active = [one for one in ledger.reservations() if one.status == ReservationStatus.ACTIVE]
    held = [
        f"{one.scope_path} has {_shown(one.reserved.amount, one.reserved.unit)} reserved"
        for one in ledger.balances()
        if one.reserved is not None and one.reserved.amount
    ]
    if active or held:
        lines = [*held, *(_line(one) for one in active)]
        raise AssertionError(
            f"{len(active)} reservations are still held; commit or release them\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def assert_spent(ledger: ScriptedLedger, amount: str, scope: str | None = None) -> None:
    """Claim what was charged to a budget.

    Args:
        ledger: the ledger.
        amount: how much, as people write it (`0.50USD`, `120 tokens`).
        scope: the path that the budget limits; None is the tenant.

    Raises:
        AssertionError: it was another amount.
        AmountError: the amount cannot be understood.
        LookupError: there is no such budget.
    """
    __tracebackhide__ = True
    unit, expected = money.parse(amount)
    found = ledger.spent(scope, unit)
    if found != expected:
        path = scope or f"tenant:{ledger.tenant}"
        raise AssertionError(
            f"{path} has spent {money.show(found, unit)}, not {money.show(expected, unit)}\n"
            + _told(ledger, ledger.charges())
        )


def _told(ledger: ScriptedLedger, charges: list[Charge]) -> str:
    """Return everything that happened, a line each."""
    lines = [
        f"  {one.kind} of {one.reservation_id or 'no reservation'}, key {one.key}"
        for one in charges
    ]
    lines += [f"  {_line(one)}" for one in ledger.reservations()]
    return "\n".join(lines or ["  nothing was ever reserved or charged"])


def _line(one: ReservationSummary) -> str:
    amount = _shown(one.reserved.amount, one.reserved.unit)
    return f"reservation {one.reservation_id} of {amount} is {one.status}"


def _shown(amount: int, unit: str) -> str:
    return money.show(amount, Unit(unit))
