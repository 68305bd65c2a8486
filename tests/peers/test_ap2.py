"""`runcycles-ap2`: one payment per mandate, and never a release of what may have been paid."""

from collections.abc import Callable
from typing import Any

import pytest
from runcycles import AsyncCyclesClient, CyclesClient
from runcycles_ap2 import (
    AP2DryRunResult,
    AP2GuardCommitFailed,
    AP2GuardDenied,
    AP2Mandate,
    GuardedPayment,
    cycles_guard_payment,
    cycles_guard_payment_async,
)

from peers.desk import ALLOCATED, USD, Desk

PRICE = "0.00012345"  # dollars, as a mandate writes them
COST = 12_345  # the same in microcents


class Declined(Exception):
    """What a payment service raises."""


def mandate(transaction: str = "tx-1", price: str = PRICE, **more: Any) -> AP2Mandate:
    return AP2Mandate(
        transaction_id=transaction,
        amount_value=price,
        currency="USD",
        payee_website="shop.example",
        **more,
    )


def guard(desk: Desk, client: CyclesClient, **options: Any) -> GuardedPayment:
    options = {"mandate": mandate(), "run_id": "run-1", "tenant": desk.tenant} | options
    return cycles_guard_payment(client, **options)


def test_a_payment_is_committed(desk: Desk, client: CyclesClient) -> None:
    """What the mandate costs is held while the body runs and spent afterwards."""
    with guard(desk, client, agent="shopper", mandate=mandate(checkout_hash="c-1")) as payment:
        assert desk.balance()["reserved"] == COST
        payment.attach_receipt_fields(psp_ref="psp-1")
    assert payment.committed
    assert payment.receipt is not None
    assert payment.receipt.amount_micros == COST
    [row] = desk.rows()
    assert row["reservation_id"] == payment.reservation_id
    assert row["action"]["kind"] == "payment.charge"
    assert row["subject"]["dimensions"]["ap2_transaction_id"] == "tx-1"
    assert row["committed_metadata"] == {"psp_ref": "psp-1"}
    assert desk.spent() == COST


def test_the_actual_amount_may_be_lower(desk: Desk, client: CyclesClient) -> None:
    with guard(desk, client) as payment:
        payment.set_actual_micros(COST - 45)
    assert desk.spent() == COST - 45


def test_a_payment_beyond_the_budget_is_denied(desk: Desk, client: CyclesClient) -> None:
    """The body does not run, so no money moves."""
    dear = mandate(price=str(ALLOCATED))
    with pytest.raises(AP2GuardDenied), guard(desk, client, mandate=dear):
        raise AssertionError("it ran")
    assert desk.calls["POST reservations 409"] == 1
    assert desk.spent() == 0


def test_a_dry_run(desk: Desk, client: CyclesClient) -> None:
    """It tells the decision and never runs the body."""
    with pytest.raises(AP2DryRunResult) as allowed, guard(desk, client, dry_run=True):
        raise AssertionError("it ran")
    assert allowed.value.decision == "ALLOW"
    dear = mandate("tx-2", price=str(ALLOCATED))
    with pytest.raises(AP2GuardDenied) as denied, guard(desk, client, mandate=dear, dry_run=True):
        raise AssertionError("it ran")
    assert denied.value.reason_code == "BUDGET_EXCEEDED"
    assert desk.rows() == []


def test_a_payment_that_fails_is_released(desk: Desk, client: CyclesClient) -> None:
    with pytest.raises(Declined), guard(desk, client):
        raise Declined
    assert [row["status"] for row in desk.rows()] == ["RELEASED"]
    assert desk.spent() == 0


def test_a_payment_that_is_aborted_is_released(desk: Desk, client: CyclesClient) -> None:
    with guard(desk, client) as payment:
        payment.abort("the shop is closed")
    assert not payment.committed
    assert desk.spent() == 0


def test_the_same_mandate_twice_is_charged_once(desk: Desk, client: CyclesClient) -> None:
    """The second guard gets the first one's reservation and its commit's recorded answer."""
    first, second = guard(desk, client), guard(desk, client)
    for payment in (first, second):
        with payment:
            pass
        assert payment.committed
    assert first.reservation_id == second.reservation_id
    assert len(desk.rows()) == 1
    assert desk.spent() == COST


def test_one_open_mandate_is_one_payment(desk: Desk, client: CyclesClient) -> None:
    """A second checkout under one open mandate differs, so it is refused before it runs."""
    with guard(desk, client, mandate=mandate("tx-1", open_mandate_hash="open-1")):
        pass
    second = mandate("tx-2", open_mandate_hash="open-1")
    with pytest.raises(AP2GuardDenied), guard(desk, client, mandate=second):
        raise AssertionError("it ran")
    assert desk.calls["POST reservations 409"] == 1
    assert desk.spent() == COST


def test_what_was_settled_is_not_released(desk: Desk, client: CyclesClient) -> None:
    """A commit that comes second is refused, and so is the release that this guard then tries.

    This version of the guard does not read the code of an error that carries a trace id, as the
    protocol demands of every error; it takes the refusal for a rejected commit.
    """
    payment = guard(desk, client)

    def pay() -> None:
        with payment:
            body = {"idempotency_key": "first", "actual": {"unit": USD, "amount": COST}}
            assert client.commit_reservation(payment.reservation_id or "", body).is_success

    with pytest.raises(AP2GuardCommitFailed) as caught:
        pay()
    assert not caught.value.released
    assert desk.calls["POST release 409"] == 1
    assert desk.spent() == COST


def test_asynchronous_payments(desk: Desk, run_async: Callable[..., Any]) -> None:
    """The same guard for asynchronous programs: paid, declined, denied, repeated."""

    async def work(client: AsyncCyclesClient) -> None:
        def pay(transaction: str, price: str = PRICE) -> Any:
            return cycles_guard_payment_async(
                client,
                mandate=mandate(transaction, price),
                run_id="run-1",
                tenant=desk.tenant,
            )

        for _ in range(2):
            async with pay("tx-1") as payment:
                assert payment.reservation_id is not None
            assert payment.committed
        with pytest.raises(Declined):
            async with pay("tx-2"):
                raise Declined
        with pytest.raises(AP2GuardDenied):
            async with pay("tx-3", str(ALLOCATED)):
                raise AssertionError("it ran")

    run_async(work)
    assert desk.spent() == COST
    assert sorted(row["status"] for row in desk.rows()) == ["COMMITTED", "RELEASED"]
