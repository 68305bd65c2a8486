"""A payment under an AP2 mandate: made once, held while nobody knows, settled later.

Everything is in this process: the ledger, and a payment service over HTTP that charges whoever asks
and once forgets to answer.
"""

import logging

import httpx2

from bursar import CyclesClient
from bursar.ap2 import AP2GuardDenied, AP2Mandate, cycles_guard_payment
from bursar.testing import Mishap, PaymentService

logging.getLogger("bursar.ap2").addHandler(logging.NullHandler())
MANDATE = AP2Mandate(
    transaction_id="order-7",
    amount_value="20.00",
    currency="USD",
    payee_website="shop.example",
    open_mandate_hash="9f2c",
)
TERMS = {"mandate": MANDATE, "run_id": "run-1", "tenant": "acme"}


def charge(service: PaymentService, key: str) -> str:
    order = {"reference": MANDATE.transaction_id, "amount": 2_000}
    headers = {"Idempotency-Key": key}
    answer = httpx2.post(f"{service.url}/charges", json=order, headers=headers)
    return str(answer.raise_for_status().json()["id"])


def pay(client: CyclesClient, service: PaymentService, **options: object) -> str:
    """Pay, or say why not."""
    unknown = (httpx2.TransportError,)  # after these, money may have moved
    try:
        with cycles_guard_payment(client, unknown_on=unknown, **TERMS, **options) as guard:
            guard.attach_receipt_fields(psp_ref=charge(service, guard.payment_key))
        return f"paid: {guard.receipt.psp_ref}"
    except AP2GuardDenied as denied:
        return f"denied: {denied.reason_code}"
    except httpx2.TransportError:
        return "unknown: no answer"


def main() -> None:
    with PaymentService() as service, CyclesClient.embedded(":memory:", tenant="acme") as client:
        client.create_budget("100USD")

        def show(what: str) -> None:
            (balance,) = client.typed.iter_balances(tenant="acme")
            dollars = [one.amount // 10**8 for one in (balance.spent, balance.reserved)]
            print(
                f"{what}; charges {len(service.charges)}, spent ${dollars[0]}, held ${dollars[1]}"
            )

        service.next(Mishap.HANG_UP)  # it charges, and never answers
        show(pay(client, service))
        show(pay(client, service))  # another worker presents the same mandate
        show(pay(client, service, resume=True))  # the first is dead; its key does not charge again
        show(pay(client, service))


if __name__ == "__main__":
    main()
