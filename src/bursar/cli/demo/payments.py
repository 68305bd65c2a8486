"""`bursar demo payments`: a payment that happened after everybody said that it had failed.

The rule that lives here: nothing is staged. The chain, the token and the facilitator are real
processes and real transactions, the answer is really lost, and every line that is claimed is
read back from the chain or from the records. It ends with 0 only if all of it held.
"""

from __future__ import annotations

import asyncio
import contextlib
import json as json_module
import logging
import random
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from bursar.cli.demo.interrupts import Interrupts
from bursar.cli.demo.show import Show, console_for, facts, table
from bursar.cli.demo.stage import Check
from bursar.cli.exits import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    CommandError,
)
from bursar.payments import operate
from bursar.payments.book import Book
from bursar.payments.outcome import Disposition, Money, Trigger, Work
from bursar.payments.ports import PaymentStore
from bursar.payments.records import Evidence, Kind, PaymentRecord, Topic
from bursar.payments.schedule import Pace
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.testing.chain import Dollar, LocalChain, ToolsMissing, install
from bursar.testing.clock import FakeClock
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.x402.authorization import Authorization, intent_nonce
from bursar.x402.facilitators import Facilitator
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc
from bursar.x402.signing import Purse, Signer

SHOP: Final = "0x" + "5a" * 20
PAID: Final = "order-1"
UNPAID: Final = "order-2"
PRICE: Final = 1_250_000
RICH: Final = 10_000_000
WINDOW_S: Final = 300
BECAUSE_CHARS: Final = 56
PACE: Final = Pace(finality_ms=4_000, skew_ms=1_000)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the story plays on."""

    chain: LocalChain
    dollar: Dollar
    facilitator: ScriptedFacilitator
    store: PaymentStore
    clock: FakeClock
    signer: Signer
    show: Show

    @property
    def book(self) -> Book:
        """Where the shop writes."""
        return Book(self.store, clock=self.clock, pace=PACE)

    def tick(self) -> None:
        """Set the clock to the chain's."""
        self.clock.set_ms(self.chain.now() * 1_000)


def payments(*, json: bool) -> int:
    """Lose the answer to a payment, and find out by proof what became of it.

    Raises:
        CommandError: there is no Node.js, so there is no chain.
    """
    show = Show(console_for(as_json=json))
    logging.getLogger("bursar").addHandler(logging.NullHandler())  # the alert is shown as a check
    try:
        with Interrupts() as interrupts:
            document = _performed(show, interrupts)
    except ToolsMissing as missing:
        raise CommandError(EXIT_USAGE, f"the demo needs a local chain: {missing}") from missing
    except KeyboardInterrupt:
        print("interrupted: the chain is stopped and its files removed", file=sys.stderr)
        return EXIT_INTERRUPTED
    if json:
        print(json_module.dumps(document, indent=2))
    return EXIT_OK if document["ok"] else EXIT_FAILED


def _performed(show: Show, interrupts: Interrupts) -> dict[str, Any]:
    """Start the chain, play on it, tell the verdict, and leave nothing behind."""
    began = time.perf_counter()
    show.text("bursar demo payments", "bold")
    install(lambda said: show.text(said, "dim"))
    with contextlib.ExitStack() as stack:
        with interrupts.waiting():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bursar-demo-"))
            chain = stack.enter_context(LocalChain())
        document = _perform(show, chain, Path(folder))
    document |= {"seconds": round(time.perf_counter() - began, 1)}
    verdict = "all of it held" if document["ok"] else "IT DID NOT HOLD"
    style = "bold green" if document["ok"] else "bold red"
    show.text(f"{verdict}: {len(document['checks'])} checks, {document['seconds']} s", style)
    return document


def _perform(show: Show, chain: LocalChain, folder: Path) -> dict[str, Any]:
    """Play both parts and return every figure."""
    show.text("Putting a dollar token on the chain ...", "dim")
    dollar, key = Dollar(chain), secrets.token_bytes(32)
    signer = Signer(key, [Purse(dollar.domain, 10 * PRICE, Fraction(100))])
    dollar.mint(signer.address, RICH)
    show.text(f"A real chain at {chain.url}.", "dim")
    store = open_payments(folder / "ledger.db")
    try:
        with ScriptedFacilitator(chain.url) as facilitator:
            clock = FakeClock(chain.now() * 1_000)
            stage = Stage(chain, dollar, facilitator, store, clock, signer, show)
            checks = [*_orphan(stage), *_never(stage)]
            records = [operate.show(store, name) for name in (PAID, UNPAID)]
    finally:
        store.close()
    return {
        "ok": all(check.held for check in checks),
        "checks": [{"says": check.says, "held": check.held} for check in checks],
        "payments": records,
    }


def _orphan(stage: Stage) -> list[Check]:
    """The payment that happened after all."""
    show = stage.show
    show.title("Paid, and nobody knows", "The facilitator pays, and its answer is lost.")
    stage.facilitator.script(Fault.LOSE)
    record = asyncio.run(_sell(stage, PAID))
    show.tables([facts([("price", _usd(record.value)), ("record", record.money.value)])])
    sent = stage.facilitator.journal.transactions.get(record.nonce or "", [])
    record = stage.book.work(record.payment_id, Work.FAILED, Evidence("shop", "answer lost"))
    checks = [
        Check(
            "the task failed, and the payment is not called failed: it is unknown, and held",
            (record.money, record.disposition) == (Money.UNKNOWN, Disposition.HELD),
        ),
        Check(
            f"the facilitator had sent {len(sent)} transaction, and the shop has heard of none",
            len(sent) == 1 and record.tx_hash is None,
        ),
    ]
    stage.chain.finalize()
    record = asyncio.run(_look(stage, record))
    _history(stage, record)
    alerts = stage.store.outbox(Topic.ALERT, 2**62, 10)
    paid = stage.dollar.balance(SHOP)
    settles = list(stage.facilitator.journal.settles.values())
    checks += [
        Check(
            f"the worker found it: {record.money.value} and {record.disposition.value}",
            (record.money, record.disposition) == (Money.SETTLED, Disposition.ORPHANED),
        ),
        Check(
            f"the shop has {_usd(paid)} on the chain, by {record.tx_hash}",
            paid == PRICE and sent == [record.tx_hash] and _paid_by(stage, record),
        ),
        Check(
            "one alert was raised: payment.orphaned",
            [one.notice.dedupe_key.split(":")[0] for one in alerts] == ["payment.orphaned"],
        ),
        Check(
            f"the facilitator was asked to settle {settles[0]} time: finding out is no payment",
            settles == [1],
        ),
    ]
    return _shown(stage, checks)


def _never(stage: Stage) -> list[Check]:
    """The payment that never happened."""
    show = stage.show
    show.title("Not paid, and proved so", "The connection drops before anything is sent on.")
    stage.facilitator.script(Fault.DROP)
    record = asyncio.run(_sell(stage, UNPAID))
    sent = stage.facilitator.journal.transactions.get(record.nonce or "", [])
    stage.book.work(record.payment_id, Work.FAILED, Evidence("shop", "answer lost"))
    stage.chain.finalize()
    record = asyncio.run(_look(stage, record))
    checks = [
        Check(f"the facilitator has sent {len(sent)} transactions for it", sent == []),
        Check("while it could still be paid it stays unknown", record.money is Money.UNKNOWN),
    ]
    stage.chain.mine(4, seconds=WINDOW_S)
    record = asyncio.run(_look(stage, record))
    _history(stage, record)
    have = stage.dollar.balance(stage.signer.address)
    checks += [
        Check(
            f"unused in a final block after its time: {record.money.value}, and closed",
            (record.money, record.disposition) == (Money.EXPIRED, Disposition.CLOSED),
        ),
        Check(
            f"the customer has {_usd(have)} of {_usd(RICH)} left: paid once, in all",
            have == RICH - PRICE,
        ),
    ]
    return _shown(stage, checks)


async def _sell(stage: Stage, intent_id: str) -> PaymentRecord:
    """Take a payment as a shop does: on record, noted as sent, sent once."""
    stage.tick()
    now_s, chain = stage.chain.now(), stage.chain
    signed = Authorization(
        payer=stage.signer.address,
        pay_to=SHOP,
        value=PRICE,
        valid_after=0,
        valid_before=now_s + WINDOW_S,
        nonce=intent_nonce(intent_id),
    )
    signature = stage.signer.sign(signed, chain.chain_id, stage.dollar.address, now_s)
    draft = PaymentRecord(
        *("demo", intent_id, intent_id, 1, Kind.X402, f"eip155:{chain.chain_id}"),
        *(stage.dollar.address, signed.payer, SHOP, PRICE, 0, 0),
        nonce=signed.nonce,
        valid_before_s=signed.valid_before,
    )
    stage.book.record(draft, Evidence("shop"))
    stage.book.sending(intent_id, Evidence("shop"))
    wanted = _requirements(stage)
    inner = {"signature": signature, "authorization": signed.to_wire()}
    client = Facilitator(stage.facilitator.url, settle_timeout_s=5.0)
    try:
        answer = await client.settle(
            {"x402Version": 2, "accepted": wanted, "payload": inner}, wanted
        )
    finally:
        await client.aclose()
    said = Evidence("facilitator:demo", answer.reason, tx_hash=answer.transaction)
    return stage.book.heard(intent_id, Trigger(answer.trigger), said)


def _requirements(stage: Stage) -> dict[str, Any]:
    domain = stage.dollar.domain
    return {
        "scheme": "exact",
        "network": f"eip155:{domain.chain_id}",
        "asset": domain.asset,
        "amount": str(PRICE),
        "payTo": SHOP,
        "maxTimeoutSeconds": WINDOW_S,
        "extra": {"name": domain.name, "version": domain.version},
    }


async def _look(stage: Stage, record: PaymentRecord) -> PaymentRecord:
    """Have a worker look at a payment when it is due, once."""
    stage.tick()
    now = stage.book.get(record.payment_id)
    stage.clock.set_ms(max(stage.clock.now_ms(), now.next_check_at_ms or 0))
    prover = ChainProver({record.network: [Rpc(stage.chain.url)]}, clock=stage.clock)
    settings = WorkerSettings(poll_s=0.01, start_s=0.0)
    worker = PaymentWorker(
        *(stage.store, prover),
        owner="demo",
        clock=stage.clock,
        rng=random.Random(1),
        pace=PACE,
        settings=settings,
    )
    async with asyncio.timeout(20), worker:
        while stage.book.get(now.payment_id).version == now.version:  # noqa: ASYNC110  # in a store
            await asyncio.sleep(0.01)
    await prover.aclose()
    return stage.book.get(record.payment_id)


def _history(stage: Stage, record: PaymentRecord) -> None:
    """Show what happened to a payment, and the block and transaction that prove it."""
    rows = table("what", ">block", "because")
    for event in stage.store.events(record.payment_id):
        said = event.evidence
        block = "" if said.block_number is None else str(said.block_number)
        because = said.reason or ""
        if len(because) > BECAUSE_CHARS:
            because = f"{because[: BECAUSE_CHARS - 3]}..."
        rows.add_row(event.what, block, because)
    stage.show.tables([rows])


def _paid_by(stage: Stage, record: PaymentRecord) -> bool:
    receipt = stage.chain.receipt(record.tx_hash or "")
    return receipt is not None and receipt["status"] == "0x1"


def _shown(stage: Stage, checks: list[Check]) -> list[Check]:
    for check in checks:
        stage.show.check(check.says, check.held)
    return checks


def _usd(value: int) -> str:
    return f"{value / 1_000_000:.2f} dollars"
