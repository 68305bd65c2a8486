"""A payer buys under a reservation: once, within its cap, and held while nobody knows."""

import ast
import asyncio
import inspect
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import pytest

import bursar
from bursar import AsyncCyclesClient, CyclesClient
from bursar.agent import CancelScope, QueryEngine, StopReason
from bursar.agent.tools import Toolbox
from bursar.payments.book import Book, Limits
from bursar.payments.outcome import BudgetState, Disposition, Money, Work
from bursar.payments.ports import PaymentConflict, PaymentStore
from bursar.payments.records import Evidence, PaymentRecord
from bursar.payments.schedule import Pace
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.testing import FakeClock
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.testing.models import ScriptedModel
from bursar.testing.providers import Reply, ToolUse
from bursar.x402.authorization import TokenDomain
from bursar.x402.buying import AlreadyBought, Bought, PaymentRefused, PaymentUnknown, Terms
from bursar.x402.hands import Blocking, Waiting
from bursar.x402.payer import AsyncX402Payer, X402Payer
from bursar.x402.prover import ChainProver
from bursar.x402.purchase import Purchases
from bursar.x402.rpc import Rpc
from bursar.x402.signing import Purse, Signer
from payments.paying import PRICE, SHOP, Payer
from payments.shop import GOODS, Lapse, Shop

COST = PRICE * 100  # a millionth of a dollar is a hundred microcents
SRC = Path(bursar.__file__).parent


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.fixture
def shop(dollar: Dollar, facilitator: ScriptedFacilitator) -> Iterator[Shop]:
    with Shop(dollar, facilitator.url) as running:
        yield running


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PaymentStore]:
    """A payment store of every kind in turn."""
    made: PaymentStore = (
        MemoryPayments() if request.param == "memory" else open_payments(tmp_path / "pay.db")
    )
    with closing(made):
        yield made


class Buyer:
    """A payer with its ledger, driven through either shell."""

    def __init__(
        self, path: Path, payer: Payer, store: PaymentStore, *, asynchronous: bool, **more: Any
    ) -> None:
        self.payer, self.store, self.path = payer, store, path
        self.asynchronous = asynchronous
        self.clock = FakeClock(payer.dollar.chain.now() * 1_000)
        cap = more.pop("cap", 10 * PRICE)
        purse = Purse(payer.dollar.domain, cap, Fraction(100), **more)
        self.signer = Signer(payer.key, [purse])
        self.terms = Terms("acme", {"tenant": "acme"}, tries_max=2, pause_s_max=0.05)
        with CyclesClient.embedded(path, tenant="acme") as client:
            client.create_budget("100USD")

    def book(self) -> Book:
        return Book(self.store, clock=self.clock, pace=Pace(finality_ms=0, skew_ms=0))

    def buy(self, intent_id: str, url: str, **more: Any) -> Bought:
        """Buy as a process of its own would: with fresh clients."""
        parts = (self.signer, self.book(), self.terms)
        if self.asynchronous:

            async def buying() -> Bought:
                async with (
                    AsyncCyclesClient.embedded(self.path, tenant="acme") as client,
                    AsyncX402Payer(client, *parts) as payer,
                ):
                    return await payer.buy(intent_id, url, **more)

            return asyncio.run(buying())
        with (
            CyclesClient.embedded(self.path, tenant="acme") as client,
            X402Payer(client, *parts) as payer,
        ):
            return payer.buy(intent_id, url, **more)

    def settle_up(self) -> int:
        with (
            CyclesClient.embedded(self.path, tenant="acme") as client,
            X402Payer(client, self.signer, self.book(), self.terms) as payer,
        ):
            return payer.settle_up()

    def prove(self, record: PaymentRecord) -> PaymentRecord:
        """Have a worker look at a payment."""

        async def look() -> None:
            chain = self.payer.dollar.chain
            prover = ChainProver({record.network: [Rpc(chain.url)]}, clock=self.clock)
            due_ms = self.now(record).next_check_at_ms or 0
            self.clock.set_ms(max(self.clock.now_ms(), chain.now() * 1_000, due_ms))
            worker = PaymentWorker(
                self.store,
                prover,
                owner="w",
                clock=self.clock,
                rng=random.Random(1),
                pace=Pace(finality_ms=0, skew_ms=0),
                settings=WorkerSettings(poll_s=0.003, start_s=0.0),
            )
            version = self.now(record).version
            async with asyncio.timeout(60), worker:
                while self.now(record).version == version:  # noqa: ASYNC110  # it is a store's
                    await asyncio.sleep(0.003)
            await prover.aclose()

        asyncio.run(look())
        return self.now(record)

    def now(self, record: PaymentRecord) -> PaymentRecord:
        found = self.store.get(record.payment_id)
        assert found is not None
        return found

    def paid(self) -> int:
        """Return what the chain says was paid, in prices."""
        return (1_000_000_000 - self.payer.dollar.balance(self.payer.address)) // PRICE

    def balance(self) -> tuple[int, int]:
        """Return what is reserved and spent, in prices."""
        with CyclesClient.embedded(self.path, tenant="acme") as client:
            row = client.get_balances(tenant="acme").body["balances"][0]
        return row["reserved"]["amount"] // COST, row["spent"]["amount"] // COST


Make = Callable[..., Buyer]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def buyer(request: pytest.FixtureRequest, tmp_path: Path, payer: Payer, store: Any) -> Make:
    def make(**more: Any) -> Buyer:
        return Buyer(tmp_path / "budget.db", payer, store, asynchronous=request.param, **more)

    return make


@pytest.mark.parametrize("version", [1, 2])
def test_what_asks_for_money_is_paid_and_committed(version: int, buyer: Make, shop: Shop) -> None:
    one, shop.version = buyer(), version
    bought = one.buy("order-1", shop.url)
    assert bought.response.content == GOODS
    assert bought.record is not None
    assert (bought.record.money, bought.record.work) == (Money.PENDING, Work.DELIVERED)
    assert bought.record.budget_state is BudgetState.COMMITTED
    assert (one.paid(), one.balance()) == (1, (0, 1))
    one.payer.dollar.chain.finalize()
    settled = one.prove(bought.record)
    assert (settled.money, settled.disposition) == (Money.SETTLED, Disposition.CLOSED)
    with pytest.raises(AlreadyBought):
        one.buy("order-1", shop.url)
    assert one.buy("order-2", shop.url).response.content == GOODS
    assert (one.paid(), one.balance()) == (2, (0, 2))


def test_what_costs_nothing_is_not_paid(buyer: Make, facilitator: ScriptedFacilitator) -> None:
    bought = buyer().buy("order-1", f"{facilitator.url}/supported")
    assert (bought.response.status_code, bought.record) == (200, None)


@pytest.mark.parametrize("lapse", [Lapse.LOSE, Lapse.BUSY, Lapse.DROP])
def test_the_same_payment_is_presented_again(lapse: Lapse, buyer: Make, shop: Shop) -> None:
    """One call, two sends, one signature, one payment."""
    one = buyer()
    shop.lapses.append(lapse)
    assert one.buy("order-1", shop.url).response.content == GOODS
    assert len(shop.presented) == 2
    assert len(set(shop.presented)) == 1
    assert (one.paid(), one.balance()) == (1, (0, 1))


@pytest.mark.parametrize("lapse", [Lapse.LOSE, Lapse.BUSY, Lapse.ASK_AGAIN])
def test_unknown_is_held_and_the_intent_goes_on(lapse: Lapse, buyer: Make, shop: Shop) -> None:
    """After the patience is over: held; another process presents the same payment."""
    one = buyer()
    shop.lapses.extend([lapse, lapse])
    with pytest.raises(PaymentUnknown) as unknown:
        one.buy("order-1", shop.url)
    record = unknown.value.record
    assert record is not None
    assert record.disposition is Disposition.HELD
    assert (one.paid(), one.balance()) == (1, (1, 0))
    shop.lapses.clear()
    assert one.buy("order-1", shop.url).response.content == GOODS
    assert len(set(shop.presented)) == 1
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_proved_and_then_fetched(buyer: Make, shop: Shop) -> None:
    """The worker proves it first: the budget is committed, and what was paid for is fetched."""
    one = buyer()
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])
    with pytest.raises(PaymentUnknown) as unknown:
        one.buy("order-1", shop.url)
    assert unknown.value.record is not None
    one.payer.dollar.chain.finalize()
    assert one.prove(unknown.value.record).money is Money.SETTLED
    assert (one.settle_up(), one.balance()) == (1, (0, 1))
    assert one.settle_up() == 0
    bought = one.buy("order-1", shop.url)
    assert bought.proved
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_never_paid_is_given_back_and_bought_anew(buyer: Make, shop: Shop) -> None:
    """Only the chain's proof releases; the next attempt has another nonce."""
    one = buyer()
    shop.lapses.extend([Lapse.DROP, Lapse.DROP])
    with pytest.raises(PaymentUnknown) as unknown:
        one.buy("order-1", shop.url)
    assert unknown.value.record is not None
    assert (one.settle_up(), one.balance()) == (0, (1, 0))
    one.payer.dollar.chain.mine(4, seconds=1_000)
    assert one.prove(unknown.value.record).money is Money.EXPIRED
    assert (one.settle_up(), one.balance()) == (1, (0, 0))
    one.clock.set_ms(one.payer.dollar.chain.now() * 1_000)
    bought = one.buy("order-1", shop.url)
    assert bought.record is not None
    assert bought.record.attempt_no == 2
    assert bought.record.nonce != unknown.value.record.nonce
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_who_cannot_connect_closes_nothing_that_another_sent(
    buyer: Make, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process dies when it has paid; the next one does not reach the merchant, and asks again."""
    one, answered, sends = buyer(), Purchases._answered, {}

    async def dies(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Purchases, "_answered", dies)
    with pytest.raises(KeyboardInterrupt):
        one.buy("order-1", shop.url)
    monkeypatch.setattr(Purchases, "_answered", answered)
    [record] = one.store.attempts("acme", "order-1")
    assert (record.money, one.paid()) == (Money.SUBMITTING, 1)

    async def gone(*_: Any) -> Any:
        raise httpx2.ConnectError("restarting")

    for hands in (Blocking, Waiting):
        sends[hands] = hands.send
        monkeypatch.setattr(hands, "send", gone)
    with pytest.raises(PaymentUnknown):
        one.buy("order-1", shop.url)
    assert (one.now(record).money, one.balance()) == (Money.UNKNOWN, (1, 0))
    for hands, send in sends.items():
        monkeypatch.setattr(hands, "send", send)
    assert one.buy("order-1", shop.url).response.is_success
    assert len(one.store.attempts("acme", "order-1")) == 1
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_a_purse_that_changed_does_not_say_that_nothing_was_paid(buyer: Make, shop: Shop) -> None:
    """The payment cannot be presented again; whether it was made is as unknown as before."""
    one = buyer()
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])
    with pytest.raises(PaymentUnknown):
        one.buy("order-1", shop.url)
    one.signer = Signer(one.payer.key, [Purse(one.payer.dollar.domain, PRICE - 1, Fraction(100))])
    with pytest.raises(PaymentUnknown, match="may have been paid"):
        one.buy("order-1", shop.url)
    assert one.balance() == (1, 0)


def test_another_body_is_another_purchase(buyer: Make, shop: Shop) -> None:
    """What was paid for one order is not presented for another."""
    one = buyer()
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])
    with pytest.raises(PaymentUnknown):
        one.buy("order-1", shop.url, method="POST", content=b"order=1")
    with pytest.raises(PaymentRefused, match="name another purchase otherwise"):
        one.buy("order-1", shop.url, method="POST", content=b"order=999")
    assert one.balance() == (1, 0)


def test_no_two_payments_have_one_nonce(buyer: Make, shop: Shop) -> None:
    """The second attempt at one intent is not the first at another that is called like it."""
    one = buyer()
    shop.lapses.extend([Lapse.DROP, Lapse.DROP])
    with pytest.raises(PaymentUnknown) as unknown:
        one.buy("order", shop.url)
    assert unknown.value.record is not None
    one.payer.dollar.chain.mine(4, seconds=1_000)
    assert one.prove(unknown.value.record).money is Money.EXPIRED
    one.clock.set_ms(one.payer.dollar.chain.now() * 1_000)
    shop.lapses.extend([Lapse.DROP, Lapse.DROP])
    with pytest.raises(PaymentUnknown) as again:
        one.buy("order", shop.url)
    other = one.buy("order#2", shop.url)
    assert again.value.record is not None
    assert other.record is not None
    assert other.record.nonce != again.value.record.nonce
    assert one.paid() == 1


def test_paid_and_not_delivered_is_an_orphan(buyer: Make, shop: Shop) -> None:
    one = buyer()
    shop.lapses.append(Lapse.FAIL)
    bought = one.buy("order-1", shop.url)
    assert bought.response.status_code == 500
    assert bought.record is not None
    assert (one.paid(), one.balance()) == (1, (0, 1))
    one.payer.dollar.chain.finalize()
    assert one.prove(bought.record).disposition is Disposition.ORPHANED
    late = one.buy("order-1", shop.url)
    assert late.record is not None
    assert late.record.disposition is Disposition.DELIVERED_LATE
    assert one.paid() == 1


def test_delivered_without_a_word_is_proved_first(buyer: Make, shop: Shop) -> None:
    """A success that says nothing of the payment commits nothing: the chain does."""
    one = buyer()
    shop.lapses.append(Lapse.SILENT)
    bought = one.buy("order-1", shop.url)
    assert bought.response.content == GOODS
    assert bought.record is not None
    assert (bought.record.money, one.balance()) == (Money.UNKNOWN, (1, 0))
    one.payer.dollar.chain.finalize()
    one.prove(bought.record)
    assert (one.settle_up(), one.balance()) == (1, (0, 1))


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"cap": PRICE - 1}, "the cap is"),
        ({"payees": frozenset({"0x" + "11" * 20})}, "not among the payees"),
        ({"window_s_max": 299}, "may be for 299 s"),
    ],
)
def test_over_the_limit_nothing_is_reserved_or_signed(
    limits: dict[str, Any], why: str, buyer: Make, shop: Shop
) -> None:
    one = buyer(**limits)
    with pytest.raises(PaymentRefused, match=why):
        one.buy("order-1", shop.url)
    assert (shop.presented, one.paid(), one.balance()) == ([], 0, (0, 0))


def test_the_cap_stands_before_the_signature(dollar: Dollar, payer: Payer) -> None:
    """Whatever was chosen before: the place that signs compares again."""
    signer = Signer(payer.key, [Purse(dollar.domain, PRICE, Fraction(100))])
    signed, _ = payer.authorize()
    now_s = dollar.chain.now()
    arguments = (dollar.chain.chain_id, dollar.address, now_s)
    assert signer.sign(signed, *arguments).startswith("0x")
    for wrong in (
        replace(signed, value=PRICE + 1),
        replace(signed, valid_before=signed.valid_before + 10),
        replace(signed, payer=SHOP),
    ):
        with pytest.raises(ValueError, match=r"cap|valid for|the key is that of"):
            signer.sign(wrong, *arguments)
    with pytest.raises(ValueError, match="no purse holds"):
        signer.sign(signed, 1, dollar.address, now_s)
    assert payer.key.hex() not in repr(signer)


def test_a_strange_token_is_not_paid_with(buyer: Make, shop: Shop) -> None:
    one = buyer()
    shop.offer = replace(shop.offer, domain=TokenDomain("Other", "1", 1, "0x" + "22" * 20))
    with pytest.raises(PaymentRefused, match="no purse holds the token of eip155:1"):
        one.buy("order-1", shop.url)


def test_the_ledger_says_no(buyer: Make, shop: Shop) -> None:
    """A budget that cannot hold it: nothing is signed."""
    one = buyer(cap=10**9)
    shop.offer = replace(shop.offer, amount=200_000_000)
    with pytest.raises(PaymentRefused, match="ledger"):
        one.buy("order-1", shop.url)
    assert (shop.presented, one.paid()) == ([], 0)


def test_an_intent_is_for_one_thing(buyer: Make, shop: Shop) -> None:
    one = buyer()
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])
    with pytest.raises(PaymentUnknown):
        one.buy("order-1", shop.url)
    with pytest.raises(PaymentRefused, match="is for GET"):
        one.buy("order-1", shop.url + "?other")
    with pytest.raises(ValueError, match="intent_id"):
        one.buy("", shop.url)


def test_an_address_that_is_gone_frees_the_budget(buyer: Make, shop: Shop) -> None:
    """The merchant vanished between challenge and payment: not a byte of it has left."""
    one = buyer()

    def gone(request: httpx2.Request) -> httpx2.Response:
        if "payment-signature" in request.headers:
            raise httpx2.ConnectError("nobody listens")
        return httpx2.get(str(request.url))

    transport = httpx2.MockTransport(gone)
    parts = (one.signer, one.book(), one.terms)
    with CyclesClient.embedded(one.path, tenant="acme") as client:
        payer = X402Payer(client, *parts, http=httpx2.Client(transport=transport))
        with pytest.raises(PaymentRefused, match="cannot be reached") as refused:
            payer.buy("order-1", shop.url)
    assert refused.value.record is not None
    assert refused.value.record.money is Money.REJECTED
    assert one.balance() == (0, 0)
    assert one.buy("order-1", shop.url).response.content == GOODS
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_a_cancelled_caller_leaves_a_payment_that_goes_on(
    tmp_path: Path, payer: Payer, shop: Shop, facilitator: ScriptedFacilitator
) -> None:
    """The caller sees the cancellation; what came of the payment is kept all the same."""
    one = Buyer(tmp_path / "budget.db", payer, MemoryPayments(), asynchronous=True)

    async def cancelled() -> None:
        async with (
            AsyncCyclesClient.embedded(one.path, tenant="acme") as client,
            AsyncX402Payer(client, one.signer, one.book(), one.terms) as buying,
        ):
            task = asyncio.create_task(buying.buy("order-1", shop.url))
            while not shop.presented:  # noqa: ASYNC110  # it is in another thread
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    (record,) = one.store.attempts("acme", "order-1")
    assert record.work is Work.DELIVERED
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_the_deadline_of_an_agents_turn_leaves_a_payment_that_goes_on(
    tmp_path: Path, payer: Payer, shop: Shop, facilitator: ScriptedFacilitator
) -> None:
    """The turn is over; its tool's purchase comes to its end, and is kept."""
    one = Buyer(tmp_path / "budget.db", payer, MemoryPayments(), asynchronous=True)

    async def turn() -> None:
        scope = CancelScope()
        async with (
            AsyncCyclesClient.embedded(one.path, tenant="acme") as client,
            AsyncX402Payer(client, one.signer, one.book(), one.terms) as buying,
        ):

            async def buy() -> str:
                bought = await buying.buy("order-1", shop.url)
                return bought.response.text

            model = ScriptedModel([Reply(tools=[ToolUse("buy")])])
            talk = QueryEngine(None, model, tools=Toolbox([buy]))
            task = asyncio.create_task(talk.submit("Buy.", cancel_event=scope))
            while not shop.presented:  # noqa: ASYNC110  # it is in another thread
                await asyncio.sleep(0.002)
            scope.cancel(StopReason.TIMEOUT)
            assert (await task).stop_reason == StopReason.TIMEOUT

    asyncio.run(turn())
    (record,) = one.store.attempts("acme", "order-1")
    assert record.work is Work.DELIVERED
    assert (one.paid(), one.balance()) == (1, (0, 1))


@pytest.mark.parametrize("paid", [True, False])
def test_a_killed_payer_is_resumed_from_its_record(
    paid: bool, tmp_path: Path, payer: Payer, shop: Shop
) -> None:
    """A real process, killed while it waits for the answer; the next one pays nothing twice."""
    ledger, lapse = tmp_path / "pay.db", Lapse.STALL if paid else Lapse.STALL_FIRST
    with closing(open_payments(ledger)) as store:
        one = Buyer(tmp_path / "budget.db", payer, store, asynchronous=False)
        shop.lapses.append(lapse)
        given = {
            "key": payer.key.hex(),
            "budget": str(one.path),
            "store": str(ledger),
            "url": shop.url,
            "asset": payer.dollar.address,
            "now_ms": one.clock.now_ms(),
        }
        words = [sys.executable, "-c", inspect.getsource(buy_and_wait) + "buy_and_wait()"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            json.dump(given, process.stdin)
            process.stdin.close()
            deadline = time.monotonic() + 60
            while not shop.stalled.is_set() and time.monotonic() < deadline:
                time.sleep(0.01)
            process.kill()
            assert process.wait(60) == -signal.SIGKILL
        (record,) = store.attempts("acme", "order-1")
        assert (record.money, one.paid()) == (Money.SUBMITTING, int(paid))
        assert one.buy("order-1", shop.url).response.content == GOODS
        assert len(set(shop.presented)) == 1
        assert (one.paid(), one.balance()) == (1, (0, 1))


def buy_and_wait() -> None:
    """Buy in a process of its own."""
    import json
    import sys
    from fractions import Fraction

    from bursar import CyclesClient
    from bursar.payments.book import Book
    from bursar.payments.store import open_payments
    from bursar.testing import FakeClock
    from bursar.testing.chain.dollar import NAME, VERSION
    from bursar.x402.authorization import TokenDomain
    from bursar.x402.buying import Terms
    from bursar.x402.payer import X402Payer
    from bursar.x402.signing import Purse, Signer

    given = json.load(sys.stdin)
    purse = Purse(TokenDomain(NAME, VERSION, 31337, given["asset"]), 10**8, Fraction(100))
    signer = Signer(bytes.fromhex(given["key"]), [purse])
    book = Book(open_payments(given["store"]), clock=FakeClock(given["now_ms"]))
    client = CyclesClient.embedded(given["budget"], tenant="acme")
    X402Payer(client, signer, book, Terms("acme", {"tenant": "acme"})).buy("order-1", given["url"])


def test_payer_and_merchant_of_one_store(
    tmp_path: Path, payer: Payer, shop: Shop, store: PaymentStore
) -> None:
    """An authorization is on record once in a store: the second side is told so."""
    one = Buyer(tmp_path / "budget.db", payer, store, asynchronous=False)
    bought = one.buy("order-1", shop.url)
    assert bought.record is not None
    book = Book(store, clock=one.clock, limits=Limits())
    theirs = replace(
        bought.record, payment_id="m-1", intent_id="m-1", money=Money.RECORDED, version=1
    )
    with pytest.raises(PaymentConflict):
        book.record(replace(theirs, tenant="shop"), Evidence("merchant"))
    kept, new = book.record(theirs, Evidence("merchant"))
    assert (kept.payment_id, new) == (bought.record.payment_id, False)


def calls(path: Path) -> set[str]:
    """Return the names of signing functions that a module calls or passes on."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
        if name in ("sign_typed_data", "sign_message", "unsafe_sign_hash"):
            found.add(str(name))
        owner = node.value if isinstance(node, ast.Attribute) else None
        if (
            name == "sign"
            and isinstance(owner, ast.Name)
            and owner.id in ("eip3009", "authorization")
        ):
            found.add("authorization.sign")
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("x402.authorization"):
            found |= {"authorization.sign" for alias in node.names if alias.name == "sign"}
    return found


def test_one_place_signs() -> None:
    """Nothing else of the product signs with a payer's key (the local chain's tools may)."""
    signing = {
        path.relative_to(SRC).as_posix(): found
        for path in SRC.rglob("*.py")
        if "testing" not in path.parts and (found := calls(path))
    }
    assert signing == {
        "x402/authorization.py": {"sign_typed_data"},
        "x402/signing.py": {"authorization.sign"},
    }
