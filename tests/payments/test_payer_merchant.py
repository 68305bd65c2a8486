"""Our payer against our merchant, over real sockets, on one chain: neither side pays twice."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.book import Book
from bursar.payments.outcome import Disposition, Money, Work
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.buying import PaymentUnknown
from payments.paying import PRICE, Payer
from payments.selling import Shop
from payments.test_payer import Buyer


class ChainClock:
    """The time of the newest block: a chain that is ahead of us ends no window early."""

    def __init__(self, chain: LocalChain) -> None:
        self._chain = chain

    def now_ms(self) -> int:
        return self._chain.now() * 1_000


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


Open = Callable[..., Shop]


@pytest.fixture
def merchant(dollar: Dollar, facilitator: ScriptedFacilitator, chain: LocalChain) -> Open:
    """Opens a shop whose clock is the chain's; its store is not the payer's."""

    def make(**price: Any) -> Shop:
        store = MemoryPayments()
        book = Book(store, clock=ChainClock(chain))
        return Shop(dollar, facilitator, store=store, book=book, **price)

    return make


def buyer(path: Path, payer: Payer, *, asynchronous: bool = False) -> Buyer:
    return Buyer(path / "budget.db", payer, MemoryPayments(), asynchronous=asynchronous)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("fault", [Fault.NONE, Fault.LOSE, Fault.FAILED])
def test_one_payment_on_both_sides(
    asynchronous: bool,
    fault: Fault,
    merchant: Open,
    facilitator: ScriptedFacilitator,
    tmp_path: Path,
    payer: Payer,
) -> None:
    """Whatever the facilitator says, the merchant asks the chain and delivers, once."""
    one = buyer(tmp_path, payer, asynchronous=asynchronous)
    facilitator.script(fault)
    with merchant() as shop:
        bought = one.buy("order-1", f"{shop.url}/report")
        assert bought.response.json()["report"] == 1
        assert bought.record is not None
        assert bought.record.work is Work.DELIVERED
        theirs = shop.only()
        assert theirs.work is Work.DELIVERED
        assert (theirs.nonce, theirs.value) == (bought.record.nonce, PRICE)
    payer.dollar.chain.finalize()
    assert one.prove(bought.record).money is Money.SETTLED
    one.settle_up()
    assert (one.paid(), one.balance()) == (1, (0, 1))
    assert list(facilitator.journal.settles.values()) == [1]


def test_a_sum_that_waits_for_finality_is_fetched_later(
    merchant: Open, facilitator: ScriptedFacilitator, tmp_path: Path, payer: Payer
) -> None:
    """The merchant says 503 until the chain is final; the payer presents the same payment."""
    one = buyer(tmp_path, payer)
    with merchant(provisional_max=0, wait_s=0.5) as shop:
        with pytest.raises(PaymentUnknown) as unknown:
            one.buy("order-1", f"{shop.url}/report")
        assert unknown.value.response is not None
        assert unknown.value.response.status_code == 503
        assert (one.paid(), one.balance()) == (1, (1, 0))
        payer.dollar.chain.finalize()
        assert one.buy("order-1", f"{shop.url}/report").response.json()["report"] == 1
        assert shop.only().disposition is Disposition.CLOSED
    assert (one.paid(), one.balance()) == (1, (0, 1))
    assert list(facilitator.journal.settles.values()) == [1]


def test_while_nobody_knows_there_is_no_second_payment(
    merchant: Open, facilitator: ScriptedFacilitator, tmp_path: Path, payer: Payer
) -> None:
    """503 and never 402; both sides learn from the chain that it was not paid, then it is."""
    one, chain = buyer(tmp_path, payer), payer.dollar.chain
    facilitator.script(Fault.DROP)
    with merchant(wait_s=0.5) as shop:
        with pytest.raises(PaymentUnknown) as unknown:
            one.buy("order-1", f"{shop.url}/report")
        response, record = unknown.value.response, unknown.value.record
        assert response is not None
        assert record is not None
        assert (response.status_code, response.json()["error"]) == (503, "settlement_pending")
        assert int(response.headers["retry-after"]) >= 1
        assert "payment-required" not in response.headers
        assert (one.paid(), one.balance()) == (0, (1, 0))
        chain.mine(4, seconds=1_000)
        assert one.prove(record).money is Money.EXPIRED
        assert (one.settle_up(), one.balance()) == (1, (0, 0))
        one.clock.set_ms(chain.now() * 1_000)
        bought = one.buy("order-1", f"{shop.url}/report")
        assert bought.record is not None
        assert (bought.record.attempt_no, bought.response.json()["report"]) == (2, 1)
    assert (one.paid(), one.balance()) == (1, (0, 1))
    assert sorted(facilitator.journal.settles.values()) == [1, 1]
