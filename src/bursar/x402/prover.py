"""Proves payments of x402 by their chain: from record to question, from verdict to finding.

The rule that lives here: the chain decides. A facilitator is asked only where to look, and
only by a request that cannot pay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bursar.clock import Clock, SystemClock
from bursar.payments.operate import Refund
from bursar.payments.outcome import Money, Trigger
from bursar.payments.records import Evidence, Finding, PaymentRecord, Transfer
from bursar.x402 import evm, offers
from bursar.x402.decide import Verdict, decide
from bursar.x402.facilitators import Facilitator
from bursar.x402.finality import DEFAULT, Finality, check, final_block, of
from bursar.x402.reading import Question, nonce_used, read
from bursar.x402.refunding import paid_at, refunds
from bursar.x402.rpc import Rpc, RpcError

_log = logging.getLogger("bursar.x402")


def question_of(record: PaymentRecord, hint: str | None = None) -> Question:
    """Return what a chain is asked about a payment.

    Args:
        record: the payment.
        hint: a transaction that a facilitator named since.

    Raises:
        ValueError: it is no payment by authorization on an EVM chain.
    """
    chain_id = offers.chain_of(record.network)
    if chain_id is None or record.nonce is None or record.valid_before_s is None:
        raise ValueError(f"{record.payment_id} on {record.network} has no EIP-3009 authorization")
    return Question(
        chain_id=chain_id,
        asset=record.asset.lower(),
        payer=record.payer.lower(),
        pay_to=record.pay_to.lower(),
        value=record.value,
        nonce=record.nonce.lower(),
        valid_before=record.valid_before_s,
        since=record.created_at_ms // 1000,
        first_block=record.from_block,
        transaction=hint or record.tx_hash,
        included=record.money is Money.PROVISIONAL,
    )


class ChainProver:
    """A `payments.ports.Prover` over one or two RPC endpoints for each chain.

    Args:
        endpoints: By CAIP-2 network. A verdict that nobody was paid needs all of them.
        facilitators: By the name in a record: asked for a hint where they can give one.
        finality: Which block counts as final, on every chain or by network: `finalized`, or sooner
            and at your own risk `safe` or one that has so many blocks after it.
        clock: The time. It ends no window, and before it no block does.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Sequence[Rpc]],
        *,
        facilitators: Mapping[str, Facilitator] | None = None,
        finality: Finality | Mapping[str, Finality] = DEFAULT,
        clock: Clock | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._facilitators = facilitators or {}
        for said in finality.values() if isinstance(finality, Mapping) else (finality,):
            check(said)
        self._finality: Finality | Mapping[str, Finality] = finality
        self._clock = clock or SystemClock()

    @property
    def networks(self) -> frozenset[str]:
        """The networks that can be asked."""
        return frozenset(name for name, some in self._endpoints.items() if some)

    def endpoint(self, record: PaymentRecord) -> str:
        """Return who is asked about a payment."""
        return " and ".join(one.name for one in self._endpoints.get(record.network, ())) or "nobody"

    async def prove(self, record: PaymentRecord) -> Finding:
        """Return what the chain proves of a payment now."""
        endpoints = self._endpoints.get(record.network, ())
        if not endpoints:
            reason = f"no RPC endpoint is configured for {record.network}"
            return Finding(Trigger.UNREACHABLE, Evidence("rpc:none", reason))
        asked = question_of(record, await self._hint(record))
        final = of(self._finality, record.network)
        readings = await asyncio.gather(*(read(one, asked, final) for one in endpoints))
        verdict = decide(asked, readings, self._clock.now_ms() // 1000)
        return Finding(verdict.trigger, evidence_of(verdict), disagreement=verdict.disagreement)

    async def newest(self, record: PaymentRecord) -> tuple[int, bool]:
        """Return the newest block's number, and whether a payment's nonce is used up in it.

        Raises:
            RpcError: no endpoint could say.
        """
        asked, problem = question_of(record), RpcError("rpc:none", "no endpoint is configured")
        for rpc in self._endpoints.get(record.network, ()):
            try:
                if await rpc.chain_id() != asked.chain_id:
                    raise RpcError(rpc.name, f"it does not speak for chain {asked.chain_id}")
                head = await rpc.block("latest")
                used = None if head is None else await nonce_used(rpc, asked, head)
                if head is None or used is None:
                    raise RpcError(rpc.name, f"it has no asset {asked.asset}, or no block")
                return head.number, used
            except RpcError as error:
                problem = error
        raise problem

    async def refund(self, record: PaymentRecord, tx_hash: str) -> Refund | None:
        """Return the proof that a final transaction pays a payment's value back to its payer.

        What was transferred before the payment is no refund of it.

        Raises:
            RpcError: an endpoint could not say.
            ValueError: the hash is none, or no endpoint is configured.
        """
        wanted = evm.bytes32(tx_hash, "transaction")
        endpoints = self._endpoints.get(record.network, ())
        if not endpoints:
            raise ValueError(f"no RPC endpoint is configured for {record.network}")
        asked = question_of(record)
        first = endpoints[0]
        if await first.chain_id() != asked.chain_id:
            raise RpcError(first.name, f"it does not speak for chain {asked.chain_id}")
        said = of(self._finality, record.network)
        final, receipt = await final_block(first, said), await first.receipt(wanted)
        if final is None or receipt is None or receipt.block_number > final.number:
            return None
        there = await first.block(receipt.block_number)
        if there is None or there.hash != receipt.block_hash:
            return None
        payment = None if record.tx_hash is None else await first.receipt(record.tx_hash)
        found = refunds(asked, receipt, there, paid_at(asked, payment))
        if not found:
            return None
        seen = (there.hash, there.number, there.timestamp)
        return Refund(
            Evidence(f"rpc:{first.name}", "refunded", *seen, tx_hash=wanted),
            tuple(Transfer(record.network, wanted, index) for index in found),
        )

    async def _hint(self, record: PaymentRecord) -> str | None:
        """Ask a facilitator that keeps books where to look, if nobody has said so yet."""
        facilitator = self._facilitators.get(record.facilitator or "")
        if facilitator is None or record.tx_hash is not None:
            return None
        asked = question_of(record)
        try:
            answer = await facilitator.status(asked, record.facilitator_ref)
        except Exception as error:  # noqa: BLE001  # without a hint the chain is asked all the same
            _log.warning("%s gave no hint: %s", record.facilitator, type(error).__name__)
            return None
        return None if answer is None else answer.transaction

    async def aclose(self) -> None:
        """Close the endpoints' connections."""
        for endpoints in self._endpoints.values():
            for endpoint in endpoints:
                await endpoint.aclose()


def evidence_of(verdict: Verdict) -> Evidence:
    """Return a verdict's evidence as it is stored."""
    block = verdict.block
    said = Evidence(f"rpc:{verdict.endpoint}", verdict.reason, tx_hash=verdict.transaction)
    if block is None:
        return said
    return replace(
        said, block_hash=block.hash, block_number=block.number, block_time_s=block.timestamp
    )
