"""Payments in other currencies, through the guard: at the caller's rate or not at all."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ap2.mandates import mandate
from bursar import CyclesClient
from bursar.ap2 import (
    AP2CurrencyError,
    AP2GuardDenied,
    AP2MandateError,
    AP2PaymentUnknown,
    ExchangeRate,
    cycles_guard_payment,
    cycles_guard_payment_async,
    cycles_guard_refund,
)
from bursar.client.aio import AsyncCyclesClient

HELD = 19_900 * 108_370_000 // 100
EURO = mandate(currency="EUR")


def rate(base: str = "EUR", age: timedelta = timedelta(0), **change: Any) -> ExchangeRate:
    fields = {"source": "the bank", "max_age": timedelta(hours=1), **change}
    return ExchangeRate.quoted(base, "1.0837", as_of=datetime.now(UTC) - age, **fields)


@pytest.fixture
def client(tmp_path: Any) -> Any:
    with CyclesClient.embedded(tmp_path / "ledger.db", tenant="acme") as opened:
        opened.create_budget("1000USD")
        yield opened


def terms(**more: Any) -> dict[str, Any]:
    return {"mandate": EURO, "run_id": "run-1", "tenant": "acme", **more}


def balance(client: CyclesClient) -> tuple[int, int]:
    (row,) = client.get_balances(tenant="acme").body["balances"]
    return row["reserved"]["amount"], row["spent"]["amount"]


def test_the_hold_and_the_charge_are_at_the_rate(client: CyclesClient) -> None:
    """And the rate is told wherever somebody may ask about it later."""
    bank = rate()
    with cycles_guard_payment(client, rate=bank, **terms()) as guard:
        assert balance(client) == (HELD, 0)
        row = client.get_reservation(guard.reservation_id).body
        guard.attach_receipt_fields(psp_ref="psp-1")
    assert balance(client) == (0, HELD)
    assert row["metadata"]["ap2_exchange_rate"] == bank.document()
    assert row["subject"]["dimensions"]["payment_currency"] == "EUR"
    assert guard.receipt is not None
    assert guard.receipt.amount_micros == HELD
    assert guard.receipt.extra == {"ap2_exchange_rate": bank.document()}


def test_what_was_charged_may_be_said_in_dollars(client: CyclesClient) -> None:
    with cycles_guard_payment(client, rate=rate(), **terms()) as guard:
        guard.set_actual_micros(HELD - 5)
    assert balance(client) == (0, HELD - 5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "explicit, dated rate"),
        (rate("GBP"), r"rate is GBP/USD: pass one for EUR/USD"),
        (rate(age=timedelta(hours=2)), r"old, and may be 1:00:00 at most"),
        (rate(age=-timedelta(hours=1)), r"after now"),
    ],
)
def test_without_a_rate_that_holds_nothing_is_sent(
    client: CyclesClient, given: ExchangeRate | None, said: str
) -> None:
    with (
        pytest.raises(AP2CurrencyError, match=said),
        cycles_guard_payment(client, rate=given, **terms()),
    ):
        raise SystemExit("paid")
    assert client.list_reservations(tenant="acme").body["reservations"] == []


def test_dollars_need_no_rate(client: CyclesClient) -> None:
    with (
        pytest.raises(AP2CurrencyError, match="USD needs no rate"),
        cycles_guard_payment(client, rate=rate(), **terms(mandate=mandate())),
    ):
        raise SystemExit("paid")


def test_another_rate_is_another_request(client: CyclesClient) -> None:
    """A mandate is paid once, whatever the rate is by then."""
    bank = rate()
    with cycles_guard_payment(client, rate=bank, **terms()):
        pass
    other = ExchangeRate.quoted(
        "EUR", "1.1", as_of=bank.as_of, source="x", max_age=timedelta(hours=1)
    )
    for again in (bank, other):
        with (
            pytest.raises(AP2GuardDenied),
            cycles_guard_payment(client, rate=again, **terms()),
        ):
            raise SystemExit("paid twice")
    assert balance(client) == (0, HELD)


def test_an_attempt_goes_on_at_its_own_rate(client: CyclesClient) -> None:
    """With a larger `max_age` where it is too old by now; at another rate nothing goes on."""
    bank = rate(age=timedelta(minutes=59))
    with pytest.raises(AP2PaymentUnknown), cycles_guard_payment(client, rate=bank, **terms()):
        raise AP2PaymentUnknown
    assert balance(client) == (HELD, 0)
    other = replace(bank, numerator=bank.numerator + 1)
    with (
        pytest.raises(AP2GuardDenied, match="amount was"),
        cycles_guard_payment(client, rate=other, resume=True, **terms()),
    ):
        raise SystemExit("went on with another amount")
    patient = replace(bank, max_age=timedelta(days=1))
    with cycles_guard_payment(client, rate=patient, resume=True, **terms()) as guard:
        assert guard.resumed
    assert balance(client) == (0, HELD)


def test_a_refund_is_at_a_rate_too(client: CyclesClient) -> None:
    """At most what was paid, compared in the mandate's currency."""
    refund = {"refund_id": "r1", "amount_value": "99.00", "rate": rate()}
    with cycles_guard_refund(client, **terms(), **refund):
        pass
    assert balance(client) == (0, 9_900 * 108_370_000 // 100)
    with pytest.raises(AP2MandateError, match="more than the"):
        cycles_guard_refund(client, **terms(), **{**refund, "amount_value": "199.01"})


def test_the_asynchronous_guard_converts_alike(tmp_path: Any) -> None:
    async def pay() -> Any:
        async with AsyncCyclesClient.embedded(tmp_path / "ledger.db", tenant="acme") as client:
            await client.create_budget("1000USD")
            async with cycles_guard_payment_async(client, rate=rate(), **terms()) as guard:
                pass
        return guard.receipt

    assert asyncio.run(pay()).amount_micros == HELD
