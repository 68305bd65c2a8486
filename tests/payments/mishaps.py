"""Payments with random mishaps on a real chain, and what became of them by the token's own logs.

The rule that lives here: the truth is read past everything that is tested. A verdict is right if
the logs of the token have it so; how long it took is counted from the block that made it final.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from bursar.payments import (
    TERMINAL,
    Book,
    Disposition,
    Evidence,
    Limits,
    Money,
    Pace,
    Work,
    open_payments,
)
from bursar.testing import Dollar, Fault, ScriptedFacilitator
from bursar.testing.facilitator import REFUSES
from bursar.x402 import Authorization, Facilitator, evm
from payments.paying import MALLORY, SHOP, Payer
from payments.till import Till

FAULTS = [fault for fault in Fault if fault not in (Fault.DIE, Fault.DIE_FIRST, Fault.STALL)]
STRANGE = ("cancel", "steal", "front-run")
BLOCK_S = 4
FINAL_AFTER = 2  # blocks
LIMITS = Limits(call_ms=5_000, margin_ms=5_000)  # a settle call ends after two seconds
SHOP_SAYS = Evidence("shop")


@dataclass(slots=True)
class Played:
    """What was signed, whose work failed, and which mishaps there were."""

    signed: dict[str, Authorization] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    mishaps: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all payments.

    Attributes:
        seed: Plays the same mishaps again.
        verdicts: How many payments should end in each state, by the token's logs.
        wrong: Payments that ended in another: name, what was said, what is so.
        paid_twice: Nonces that moved money more than once.
        settles_most: How often a facilitator was asked to settle one payment, at the most.
        orphans: Paid, and their work failed, by the logs.
        found: What the records call orphans.
        told: How many alerts of orphans there are.
        waits_s: How long after finality each was decided, in seconds of the chain, sorted.
        mishaps: What was played how often.
        played_s: How long making them took.
        decided_s: How long deciding them took, from when the last was made.
    """

    seed: int
    verdicts: Counter[str]
    wrong: list[tuple[str, Money, Money]]
    paid_twice: list[str]
    settles_most: int
    orphans: set[str]
    found: set[str]
    told: int
    waits_s: list[float]
    mishaps: Counter[str]
    played_s: float
    decided_s: float

    def wait_s(self, percent: int) -> float:
        """Return how long so many percent of the payments waited at the most."""
        return self.waits_s[min(len(self.waits_s) - 1, percent * len(self.waits_s) // 100)]


def run(
    count: int, seed: int, dollar: Dollar, facilitator: ScriptedFacilitator, path: Path
) -> Outcome:
    """Make so many payments, let everything be decided, and hold that against the logs."""
    rng = random.Random(seed)
    with closing(open_payments(path)) as store:
        till = Till(store, dollar, pace=Pace(finality_ms=BLOCK_S * 2_000, skew_ms=1_000))
        played, played_s, decided_s = asyncio.run(live(till, facilitator, rng, count))
        paid, used, blocks = truth(dollar)
        right = {name: expected(signed, paid) for name, signed in played.signed.items()}
        settled = {name for name, money in right.items() if money is Money.SETTLED}
        return Outcome(
            seed=seed,
            verdicts=Counter(money.value for money in right.values()),
            wrong=[
                (name, till.now(name).money, money)
                for name, money in right.items()
                if till.now(name).money is not money
                and not refused_and_unpaid(till, name, played.signed[name], paid)
            ],
            paid_twice=[nonce for nonce, times in used.items() if times > 1],
            settles_most=max(facilitator.journal.settles.values()),
            orphans=settled & played.failed,
            found={name for name in right if till.now(name).disposition is Disposition.ORPHANED},
            told=Counter(till.alerts())["payment.orphaned"],
            waits_s=waits(till, played, blocks),
            mishaps=played.mishaps,
            played_s=played_s,
            decided_s=decided_s,
        )


async def live(
    till: Till, script: ScriptedFacilitator, rng: random.Random, count: int
) -> tuple[Played, float, float]:
    """Make the payments while a worker looks; return them, and how long both parts took."""
    prover, began_s = till.prover(), time.monotonic()
    async with till.worker(prover):
        played = await play(till, script, rng, count)
        played_s = time.monotonic() - began_s
        await decide(till, list(played.signed))
    await prover.aclose()
    return played, played_s, time.monotonic() - began_s - played_s


async def play(till: Till, script: ScriptedFacilitator, rng: random.Random, count: int) -> Played:
    """Make the payments, one after the other, each with its mishap and its work."""
    played, client = Played(), Facilitator(script.url, settle_timeout_s=2.0)
    payers = [Payer.rich(till.dollar) for _ in range(10)]
    for number in range(count):
        await pay(till, client, script, rng, rng.choice(payers), str(number), played)
    await client.aclose()
    return played


async def pay(
    till: Till,
    client: Facilitator,
    script: ScriptedFacilitator,
    rng: random.Random,
    payer: Payer,
    name: str,
    played: Played,
) -> None:
    """Make one payment, as a shop does that keeps a book."""
    book = Book(till.store, clock=till.clock, pace=till.pace, limits=LIMITS)
    till.clock.set_ms(till.dollar.chain.now() * 1_000)
    signed, signature = payer.authorize(window_s=rng.randint(120, 400))
    fault = rng.choice(FAULTS)
    mishap = rng.choice([fault.value, fault.value, fault.value, *STRANGE])
    if mishap == "front-run" and fault in REFUSES:
        mishap = fault.value  # no facilitator refuses for want of money what is paid already
    if mishap == "cancel":
        till.dollar.cancel(payer.address, signed.nonce, payer.key)
    elif mishap == "steal":
        till.dollar.submit(*payer.authorize(nonce=signed.nonce, to=MALLORY))
    elif mishap == "front-run":
        till.dollar.submit(signed, signature)
    script.script(fault)
    record = till.record(signed, name)
    await asyncio.to_thread(book.record, record, SHOP_SAYS)
    await asyncio.to_thread(book.sending, record.payment_id, SHOP_SAYS)
    answer = await client.settle(*till.wire(signed, signature))
    if rng.random() < 0.2:  # the sender dies before it hears anything
        mishap += " and dies"
    else:
        said = Evidence("facilitator:test", answer.reason, tx_hash=answer.transaction)
        await asyncio.to_thread(book.heard, record.payment_id, answer.trigger, said)
    work = rng.choice([Work.DELIVERED, Work.FAILED])
    await asyncio.to_thread(book.work, record.payment_id, work, SHOP_SAYS)
    script.faults.clear()  # an answer that came before the fault leaves it to the next one
    played.signed[name] = signed
    played.mishaps[mishap] += 1
    if work is Work.FAILED:
        played.failed.add(name)


async def decide(till: Till, names: list[str]) -> None:
    """Let the chain go on, block by block, while the worker looks, until everything is decided."""
    chain, still = till.dollar.chain, set(names)
    async with asyncio.timeout(600):
        while still:
            chain.mine(1, seconds=BLOCK_S)
            now_ms = chain.now() * 1_000
            till.clock.set_ms(now_ms)
            while True:
                records = [till.now(name) for name in still]
                if all((one.next_check_at_ms or now_ms + 1) > now_ms for one in records):
                    break
                await asyncio.sleep(0.003)
            still = {name for name in still if till.now(name).money not in TERMINAL}


def truth(dollar: Dollar) -> tuple[dict[str, str], Counter[str], dict[str, int]]:
    """Read from all logs of the token: who each nonce paid, how often, and in which block."""
    logs = dollar.chain.rpc("eth_getLogs", {"address": dollar.address, "fromBlock": "0x0"})
    by_place = {(one["transactionHash"], int(one["logIndex"], 16)): one for one in logs}
    paid, used, blocks = dict[str, str](), Counter[str](), dict[str, int]()
    for (transaction, index), one in by_place.items():
        if one["topics"][0] == evm.AUTHORIZATION_CANCELED:
            paid[one["topics"][2]] = "nobody"
        elif one["topics"][0] == evm.AUTHORIZATION_USED:
            moved = by_place[transaction, index + 1]
            nonce = one["topics"][2]
            paid[nonce] = "0x" + moved["topics"][2][-40:]
            used[nonce] += 1
        else:
            continue
        blocks[one["topics"][2]] = int(one["blockNumber"], 16)
    return paid, used, blocks


def expected(signed: Authorization, paid: dict[str, str]) -> Money:
    """Return what must be said of a payment."""
    to = paid.get(signed.nonce)
    if to is None:
        return Money.EXPIRED
    return {SHOP: Money.SETTLED, "nobody": Money.VOIDED}.get(to, Money.MISDIRECTED)


def waits(till: Till, played: Played, blocks: dict[str, int]) -> list[float]:
    """Return how long after finality each payment was decided, by the chain's time."""
    chain, times = till.dollar.chain, dict[int, int]()
    newest = int(chain.rpc("eth_blockNumber"), 16)

    def time_of(number: int) -> int:
        if number not in times:
            block = chain.rpc("eth_getBlockByNumber", hex(min(number, newest)), False)
            times[number] = int(block["timestamp"], 16)
        return times[number]

    found = []
    for name, signed in played.signed.items():
        if till.now(name).money is Money.REJECTED:
            continue  # decided by its answer
        number = blocks.get(signed.nonce)
        if number is None:
            number = next(n for n in range(newest + 1) if time_of(n) >= signed.valid_before)
        events = till.store.events(f"pay_{name}")
        decided = next(event for event in events if event.money in TERMINAL)
        found.append(decided.at_ms / 1_000 - time_of(number + FINAL_AFTER))
    return sorted(found)


def refused_and_unpaid(till: Till, name: str, signed: Authorization, paid: dict[str, str]) -> bool:
    """Say whether a payment was refused before anything was sent, and indeed never paid us."""
    return till.now(name).money is Money.REJECTED and paid.get(signed.nonce) != SHOP
