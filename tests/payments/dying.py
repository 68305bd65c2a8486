"""Processes that are killed in the middle of a payment: a worker, and a sender.

    python dying.py worker LEDGER RPC TOKEN NOW_MS STEP    ends itself by SIGKILL at STEP
    python dying.py send LEDGER RPC TOKEN URL              sends what stdin holds

STEP is one of `STEPS`, or `none`; which they are is a table in `test_worker_killed`.
"""

import asyncio
import json
import os
import random
import signal
import sys
from typing import Any

from bursar.payments import worker as working
from bursar.payments.ports import PaymentStore
from bursar.payments.records import Finding, PaymentRecord
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.storage.sqlite import payments as kept
from bursar.testing import FakeClock
from bursar.x402.authorization import Authorization
from bursar.x402.facilitators import Facilitator
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc

CHAIN_ID = 31337
STEPS = (
    *("claiming", "claim", "read", "prove", "saving", "noting", "posting", "save"),
    *("notices", "giving", "given"),
)
HANGS = ("giving", "given")


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingStore:
    """A store whose process dies right after a step; everything else is the store's."""

    def __init__(self, store: PaymentStore, step: str) -> None:
        self._store, self._step = store, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def claim(self, *arguments: Any) -> Any:
        claimed = self._store.claim(*arguments)
        if claimed and self._step == "claim":
            die()
        return claimed

    def give_back(self, leases: Any) -> None:
        if self._step == "giving":
            die()
        self._store.give_back(leases)
        if self._step == "given":
            die()

    def save(self, changes: Any) -> Any:
        saved = self._store.save(changes)
        if self._step == "save":
            die()
        return saved


class DyingProver(ChainProver):
    """A prover whose process dies when it has its proof."""

    step = "none"
    asked = asyncio.Event()

    async def prove(self, record: PaymentRecord) -> Finding:
        self.asked.set()
        if self.step in HANGS:
            await asyncio.Event().wait()
        found = await super().prove(record)
        if self.step == "prove":
            die()
        return found


def arm(step: str) -> None:
    """Have the process die inside a transaction, between two questions, or after the telling."""
    places: dict[str, tuple[Any, str]] = {
        "claiming": (kept, "_one"),  # leased, and not committed yet
        "read": (Rpc, "call"),
        "saving": (kept, "_append"),
        "noting": (kept, "_append"),
        "posting": (kept, "post"),
        "notices": (working, "tell"),
    }
    if step not in places:
        return
    owner, name = places[step]
    real, before = getattr(owner, name), step == "saving"

    def dying(*arguments: Any, **more: Any) -> Any:
        if not before:
            real(*arguments, **more)
        die()

    async def asked(*arguments: Any) -> Any:
        await real(*arguments)
        die()

    setattr(owner, name, asked if step == "read" else dying)


async def work(ledger: str, rpc: str, now_ms: str, step: str) -> None:
    """Look once at what is due, or work until the step."""
    store: Any = DyingStore(open_payments(ledger), step)
    prover = DyingProver({f"eip155:{CHAIN_ID}": [Rpc(rpc)]}, clock=FakeClock(int(now_ms)))
    prover.step = step
    arm(step)
    settings = WorkerSettings(poll_s=0.01, start_s=0.0, stop_s=0.1 if step in HANGS else 5.0)
    clock = FakeClock(int(now_ms))
    made = PaymentWorker(
        store, prover, owner=step, clock=clock, rng=random.Random(1), settings=settings
    )
    if step == "none":
        await made.sweep()
    else:
        async with made:
            async with asyncio.timeout(60):
                await prover.asked.wait()
            if step not in HANGS:
                await asyncio.sleep(60)  # it does not get that far
    await prover.aclose()


async def send(ledger: str, rpc: str, token: str, url: str) -> None:
    """Record, note and send a payment, as a shop does."""
    from payments.till import Till

    given = json.loads(sys.stdin.read())
    remote: Any = Remote(rpc, token)
    till = Till(open_payments(ledger), remote)
    signed = Authorization.parse(given["authorization"])
    client = Facilitator(url, settle_timeout_s=60)
    await till.send(client, signed, given["signature"])


class Remote:
    """What a till asks of its token, where the chain belongs to another process."""

    def __init__(self, rpc: str, token: str) -> None:
        from bursar.testing.chain.dollar import NAME, VERSION
        from bursar.x402.authorization import TokenDomain

        self.address, self.chain, self.url = token, self, rpc
        self.chain_id = CHAIN_ID
        self.domain = TokenDomain(NAME, VERSION, CHAIN_ID, token)

    def now(self) -> int:
        """Return the time of the newest block."""
        import httpx2

        asked = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber"}
        answer = httpx2.post(self.url, json=asked | {"params": ["latest", False]})
        return int(answer.json()["result"]["timestamp"], 16)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    asyncio.run({"worker": work, "send": send}[what](*arguments))
