"""What one endpoint says about one payment, all of it from one block.

The rule that lives here: the state of the nonce, the time of the block and the logs belong to
one pinned block hash. A state read at one block beside a time read at a later one proves a
payment gone that was made in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bursar.x402 import evm, finality
from bursar.x402.finality import Finality
from bursar.x402.rpc import Block, Log, Receipt, Rpc, RpcError

MARGIN_S = 600
"""How long before its record a payment may have been made: clocks differ, payers are quick."""
LOG_CALLS_MAX = 200
LOG_SPAN_MIN = 64


@dataclass(frozen=True, slots=True)
class Question:
    """Which payment is asked about: the fields of its record that the chain knows.

    Attributes:
        chain_id: The chain that it was signed for.
        asset: The token contract, lower case.
        payer: Who signed.
        pay_to: Who is to be paid.
        value: How much, in the token's smallest unit.
        nonce: Its 32 bytes.
        valid_before: Seconds since 1970; no block from then on can hold it.
        since: When the record was written, in seconds since 1970.
        transaction: The transaction that somebody named, if anybody did.
        included: Our transfer was seen in a block that was not final.
        first_block: The newest block when the record was written, if somebody read it.
    """

    chain_id: int
    asset: str
    payer: str
    pay_to: str
    value: int
    nonce: str
    valid_before: int
    since: int
    transaction: str | None = None
    included: bool = False
    first_block: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What an endpoint said. `problem` is why the rest is not complete.

    Attributes:
        endpoint: The endpoint's name.
        final: The pinned final block.
        used: What `authorizationState` is there.
        ends: The logs that used or canceled the nonce, up to the final block, with receipts.
        head: The newest block, read while the payment may still be made.
        recent: The same logs up to the head, where the final block has none.
        named: The receipt of the transaction that somebody named, at the head.
        problem: What could not be read, and why.
    """

    endpoint: str
    final: Block | None = None
    used: bool | None = None
    ends: tuple[tuple[Log, Receipt], ...] = ()
    head: Block | None = None
    recent: tuple[tuple[Log, Receipt], ...] = ()
    named: Receipt | None = None
    problem: str = ""


@dataclass(slots=True)
class _Notes:
    """A reading while it is made."""

    endpoint: str
    final: Block | None = None
    used: bool | None = None
    ends: list[tuple[Log, Receipt]] = field(default_factory=list)
    head: Block | None = None
    recent: list[tuple[Log, Receipt]] = field(default_factory=list)
    named: Receipt | None = None

    def sealed(self, problem: str = "") -> Reading:
        return Reading(
            self.endpoint,
            self.final,
            self.used,
            tuple(self.ends),
            self.head,
            tuple(self.recent),
            self.named,
            problem,
        )


async def read(rpc: Rpc, question: Question, final: Finality = finality.DEFAULT) -> Reading:
    """Return what an endpoint says; it never raises, a problem is part of the reading."""
    notes = _Notes(rpc.name)
    try:
        return notes.sealed(await _fill(rpc, question, final, notes))
    except RpcError as wrong:
        return notes.sealed(wrong.reason)


async def _fill(rpc: Rpc, question: Question, said: Finality, notes: _Notes) -> str:
    """Ask step by step, and return the problem that ended it early, or nothing."""
    if (chain_id := await rpc.chain_id()) != question.chain_id:
        return f"it speaks for chain {chain_id}, and the payment is on {question.chain_id}"
    if (final := await finality.final_block(rpc, said)) is None:
        return f"it has no {finality.name_of(said)} yet"
    notes.final = final
    if (used := await nonce_used(rpc, question, final)) is None:
        return f"the asset {question.asset} has no code in block {final.number}"
    if used:
        notes.ends += await _ends(rpc, question, final)
    elif final.timestamp < question.valid_before:
        await _look_ahead(rpc, question, final, notes)
    again = await rpc.block(final.number)
    if again is None or again.hash != final.hash:
        return f"block {final.number} was replaced while it was read"
    notes.used = used
    return ""


async def nonce_used(rpc: Rpc, question: Question, block: Block) -> bool | None:
    """Return whether the nonce is used or canceled in a block; None without a contract."""
    data = evm.call(evm.AUTHORIZATION_STATE, question.payer, question.nonce)
    said = await rpc.call(question.asset, data, block.hash)
    if said == "0x":
        return None
    if len(said) != 66 or int(said, 16) > 1:
        raise RpcError(rpc.name, f"authorizationState is no boolean: {said[:70]}")
    return int(said, 16) == 1


async def _look_ahead(rpc: Rpc, question: Question, final: Block, notes: _Notes) -> None:
    """Read the blocks that are not final: what is there is provisional, and says so."""
    if (head := await rpc.block("latest")) is None or head.number < final.number:
        return
    notes.head = head
    if question.transaction is not None:
        notes.named = await rpc.receipt(question.transaction)
    if head.number > final.number and await nonce_used(rpc, question, head):
        logs = await _logs(rpc, question, final.number + 1, head.number)
        notes.recent += await _with_receipts(rpc, logs)


async def _ends(rpc: Rpc, question: Question, final: Block) -> list[tuple[Log, Receipt]]:
    """Return the logs that ended the nonce, from the receipt that is known or by a search."""
    if question.transaction is not None:
        receipt = await rpc.receipt(question.transaction)
        if receipt is not None and receipt.block_number <= final.number:
            mine = [log for log in receipt.logs if _is_end(log, question)]
            if mine and await _canonical(rpc, receipt):
                return [(log, receipt) for log in mine]
    first = question.first_block
    if first is None or first > final.number:
        first = await _first_block(rpc, question.since - MARGIN_S, final)
    found = await _logs(rpc, question, first, final.number)
    if not found and first > 0:
        found = await _logs(rpc, question, 0, first - 1)
    return await _with_receipts(rpc, found)


async def _canonical(rpc: Rpc, receipt: Receipt) -> bool:
    there = await rpc.block(receipt.block_number)
    return there is not None and there.hash == receipt.block_hash


async def _with_receipts(rpc: Rpc, logs: list[Log]) -> list[tuple[Log, Receipt]]:
    """Return each log with the receipt that holds it, or raise if they disagree."""
    found = []
    for log in logs:
        receipt = await rpc.receipt(log.transaction)
        if receipt is None or receipt.block_hash != log.block_hash or log not in receipt.logs:
            raise RpcError(rpc.name, f"the log of {log.transaction} is not in its receipt")
        found.append((log, receipt))
    return found


async def _first_block(rpc: Rpc, since: int, final: Block) -> int:
    """Return a block at or before a time, by halving: no block's height tells its time."""
    low, high = 0, final.number
    while low < high:
        middle = (low + high) // 2
        block = await rpc.block(middle)
        # An endpoint may keep no old blocks; then later ones must do.
        if block is None or block.timestamp < since:
            low = middle + 1
        else:
            high = middle
    return max(0, low - 1)


def _is_end(log: Log, question: Question) -> bool:
    return (
        log.address == question.asset
        and len(log.topics) == 3
        and log.topics[0] in (evm.AUTHORIZATION_USED, evm.AUTHORIZATION_CANCELED)
        and log.topics[1] == evm.topic(question.payer)
        and log.topics[2] == question.nonce
    )


async def _logs(rpc: Rpc, question: Question, first: int, last: int) -> list[Log]:
    """Return the logs that ended the nonce, in ranges as wide as the endpoint allows."""
    kinds = [evm.AUTHORIZATION_USED, evm.AUTHORIZATION_CANCELED]
    topics = [kinds, evm.topic(question.payer), question.nonce]
    found: list[Log] = []
    calls, span, begin = 0, max(1, last - first + 1), first
    while first <= last:
        calls += 1
        end = min(last, first + span - 1)
        try:
            found += await rpc.logs(question.asset, topics, first, end)
        except RpcError as wrong:
            if not wrong.refused or span <= LOG_SPAN_MIN or calls >= LOG_CALLS_MAX:
                raise
            span = max(LOG_SPAN_MIN, span // 4)
            continue
        if calls >= LOG_CALLS_MAX and end < last:
            raise RpcError(rpc.name, f"its logs take more than {LOG_CALLS_MAX} calls")
        first = end + 1
    asked = range(begin, last + 1)
    strange = [log for log in found if not _is_end(log, question) or log.block_number not in asked]
    if strange:
        raise RpcError(rpc.name, "eth_getLogs answered with logs that nobody asked for")
    return found
