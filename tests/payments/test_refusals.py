"""A refusal closes a payment only if nothing can have been sent; the chain has the last word."""

from collections.abc import Iterator

import pytest

from bursar.payments.outcome import Money
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from payments.paying import SHOP, Payer
from payments.selling import Shop, payload


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.mark.parametrize(
    "fault",
    [Fault.FAILED_400, Fault.PENDING_400, Fault.USED_400, Fault.THROWN_400, Fault.DIALECT],
)
def test_money_that_moved_is_not_refused(
    fault: Fault,
    dollar: Dollar,
    facilitator: ScriptedFacilitator,
    payer: Payer,
    chain: LocalChain,
) -> None:
    """The shop has the money: no 402, which would ask the payer to pay again."""
    facilitator.script(fault)
    before = dollar.balance(SHOP)
    with Shop(dollar, facilitator, provisional_max=0, wait_s=0.1) as shop:
        said = payload(payer)
        assert shop.get(said=said).status_code == 503
        assert shop.only().money not in (Money.REJECTED, Money.SETTLED)
        assert dollar.balance(SHOP) > before
        chain.finalize()
        assert shop.get(said=said).status_code == 200
        assert shop.only().money is Money.SETTLED
        assert facilitator.journal.settles == {said["payload"]["authorization"]["nonce"]: 1}


def test_a_refusal_that_says_why_is_one(
    dollar: Dollar, facilitator: ScriptedFacilitator, payer: Payer
) -> None:
    facilitator.script(Fault.REFUSE_400)
    with Shop(dollar, facilitator) as shop:
        assert shop.get(said=payload(payer)).status_code == 402
        assert shop.only().money is Money.REJECTED
