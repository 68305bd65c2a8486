"""Many payments with random mishaps: no verdict is wrong, nothing is paid twice, none is lost.

What happened is read from the token's logs, past everything that is tested. CI plays 100
payments; PAYMENTS=1000 plays a thousand, and -s shows how long after finality each
was decided, in seconds of the chain.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bursar.payments.outcome import TERMINAL, Disposition, Money, Work
from bursar.payments.schedule import Pace
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import REFUSES, Fault, ScriptedFacilitator
from bursar.x402 import evm
from bursar.x402.authorization import Authorization
from bursar.x402.facilitators import Facilitator
from payments.paying import MALLORY, SHOP, Payer
from payments.till import Till

COUNT = int(os.environ.get("PAYMENTS", "100"))
SEED = int(os.environ.get("PAYMENTS_SEED", "7"))
FAULTS = [fault for fault in Fault if fault not in (Fault.DIE, Fault.DIE_FIRST, Fault.STALL)]
STRANGE = ("cancel", "steal", "front-run")
BLOCK_S = 4
FINAL_AFTER = 2  # blocks


@dataclass(slots=True)
class Played:
    """What was played, and when what became final."""

    signed: dict[str, Authorization] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    mishaps: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


async def play(till: Till, url: str, script: ScriptedFacilitator, rng: random.Random) -> Played:
    """Make the payments, one after the other, each with its mishap and its work."""
    played, client = Played(), Facilitator(url, settle_timeout_s=2.0)
    payers = [Payer.rich(till.dollar) for _ in range(10)]
    for number in range(COUNT):
        name, payer = str(number), rng.choice(payers)
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
        if rng.random() < 0.2:  # the sender dies before it hears anything
            till.begin(signed, name)
            await client.settle(*till.wire(signed, signature))
            mishap += " and dies"
        else:
            await till.send(client, signed, signature, name)
        work = rng.choice([Work.DELIVERED, Work.FAILED])
        till.work(work, name)
        script.faults.clear()  # an answer that came before the fault leaves it to the next one
        played.signed[name] = signed
        played.mishaps[mishap] += 1
        if work is Work.FAILED:
            played.failed.add(name)
    await client.aclose()
    return played


async def settle_all(till: Till, names: list[str]) -> None:
    """Let the chain go on, block by block, and a worker look, until everything is decided."""
    prover, chain = till.prover(), till.dollar.chain
    still = set(names)
    async with asyncio.timeout(600), till.worker(prover):
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
    await prover.aclose()


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


def test_no_verdict_is_wrong_and_no_orphan_is_lost(
    dollar: Dollar, facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    """Every payment is decided as the token's logs have it, and every orphan is told once."""
    rng = random.Random(SEED)
    with closing(open_payments(tmp_path / "ledger.db")) as store:
        till = Till(store, dollar, pace=Pace(finality_ms=BLOCK_S * 2_000, skew_ms=1_000))
        played = asyncio.run(play(till, facilitator.url, facilitator, rng))
        asyncio.run(settle_all(till, list(played.signed)))
        paid, used, blocks = truth(dollar)
        wrong = [
            (name, till.now(name).money, expected(signed, paid))
            for name, signed in played.signed.items()
            if till.now(name).money is not expected(signed, paid)
            and not refused_and_unpaid(till, name, signed, paid)
        ]
        orphans = {
            f"pay_{name}"
            for name in played.failed
            if expected(played.signed[name], paid) is Money.SETTLED
        }
        found = {
            f"pay_{name}"
            for name in played.signed
            if till.now(name).disposition is Disposition.ORPHANED
        }
        told = Counter(till.alerts())
        late = waits(till, played, blocks)
    verdicts = Counter(expected(signed, paid).value for signed in played.signed.values())
    share = {rank: late[min(len(late) - 1, int(rank / 100 * len(late)))] for rank in (50, 90, 99)}
    print(f"\nseed {SEED}: {COUNT} payments, {dict(verdicts)}, {len(orphans)} orphans")
    print(f"after finality: {share} s, at most {late[-1]} s; mishaps: {dict(played.mishaps)}")
    assert wrong == [], f"seed {SEED}"
    assert [nonce for nonce, times in used.items() if times > 1] == []
    assert max(facilitator.journal.settles.values()) == 1
    assert found == orphans
    assert told["payment.orphaned"] == len(orphans)
    assert late[-1] <= 90


def refused_and_unpaid(till: Till, name: str, signed: Authorization, paid: dict[str, str]) -> bool:
    """Say whether a payment was refused before anything was sent, and indeed never paid us."""
    return till.now(name).money is Money.REJECTED and paid.get(signed.nonce) != SHOP
