"""Settled, never, or unknown: what the readings of a chain prove about a payment.

The rule that lives here: a final verdict needs a proof that no later block can take back, and
what is not proved is unknown, with the reason. `authorizationState` alone proves nothing: a
payer's cancel sets it too, and so does another transfer with the same nonce.

    final block, nonce used, by our transfer        SETTLED
    final block, nonce used, by another transfer    MISDIRECTED
    final block, nonce canceled                     VOIDED
    final block and our clock at or after
    validBefore, unused                             EXPIRED
    our transfer in a block that is not final       INCLUDED
    ... and was there before, and is gone           REORGED
    the named transaction failed                    REVERTED
    unused, and its time is not over                UNDECIDED
    no reading, or one that contradicts itself      UNREACHABLE
    endpoints disagree about a final block          UNREACHABLE, and somebody is told

One reading with a receipt is enough for SETTLED, unless another endpoint contradicts it: a
nonce that is used stays used, so whoever has a final block as new and says unused is on another
chain. A verdict that the payee was not paid needs every endpoint that is configured: an
endpoint that lags or lies shows less than there is. And it needs our clock: an endpoint that
invents a block of the future ends no window before its time, and a clock that is slow only
makes us wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bursar.payments.outcome import Trigger
from bursar.x402 import evm
from bursar.x402.reading import Question, Reading
from bursar.x402.rpc import Block, Log, Receipt

FUTURE_S = 900
"""A block this far ahead of our clock is a lie; by less, our clock may be wrong."""

NEGATIVE = (Trigger.EXPIRED, Trigger.VOIDED, Trigger.MISDIRECTED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was proved, and by what.

    Attributes:
        trigger: What it means for the outcome machine.
        reason: One sentence for an operator.
        endpoint: Who says so.
        block: The block that it was read at.
        transaction: The transaction that proves it, where one does.
        log_index: The log in it that does.
        used_at: The block in which the nonce was used or canceled, where one is shown.
        disagreement: Endpoints contradict each other; an operator is told.
    """

    trigger: Trigger
    reason: str
    endpoint: str
    block: Block | None = None
    transaction: str | None = None
    log_index: int | None = None
    used_at: int | None = None
    disagreement: bool = False


def decide(question: Question, readings: Sequence[Reading], now: int) -> Verdict:
    """Return what the readings of all endpoints prove together.

    Args:
        question: the payment.
        readings: one for each endpoint that is configured for its chain.
        now: our clock, in seconds since 1970; it ends no window, and none ends before it.
    """
    if not readings:
        reason = f"no endpoint is known for chain {question.chain_id}"
        return Verdict(Trigger.UNREACHABLE, reason, "nobody")
    single = [_one(question, reading, now) for reading in readings]
    settled = [verdict for verdict in single if verdict.trigger is Trigger.SETTLED]
    negative = [verdict for verdict in single if verdict.trigger in NEGATIVE]
    if (settled and negative) or len({verdict.trigger for verdict in negative}) > 1:
        return _disagree(single, "; ".join(f"{one.endpoint}: {one.trigger}" for one in single))
    if (forked := _forked(readings, single)) is not None:
        return _disagree(single, forked)
    if settled:
        return settled[0]
    if len(negative) == len(readings):
        return negative[0]
    return min((one for one in single if one not in negative), key=_rank)


def _disagree(single: Sequence[Verdict], what: str) -> Verdict:
    who = " and ".join(one.endpoint for one in single)
    return Verdict(Trigger.UNREACHABLE, f"endpoints disagree: {what}", who, disagreement=True)


def _forked(readings: Sequence[Reading], single: Sequence[Verdict]) -> str | None:
    """Return how two readings cannot be of one chain, if so: finality takes nothing back."""
    finals: dict[int, Block] = {}
    for reading in readings:
        if reading.used is None or reading.final is None:
            continue
        number = reading.final.number
        if finals.setdefault(number, reading.final).hash != reading.final.hash:
            return f"final block {number} has two hashes"
    unused = [
        (one.endpoint, one.final.number) for one in readings if one.used is False and one.final
    ]
    for reading, verdict in zip(readings, single, strict=True):
        used_at = verdict.used_at
        if used_at is None and reading.used and reading.final is not None:
            used_at = reading.final.number
        for name, number in unused:
            if used_at is not None and number >= used_at:
                used = f"{reading.endpoint} has the nonce used in block {used_at}"
                return f"{used}, and {name} unused in final block {number}"
    return None


def _rank(verdict: Verdict) -> int:
    """The most telling of what is not final comes first."""
    order = (Trigger.INCLUDED, Trigger.REVERTED, Trigger.REORGED, Trigger.UNDECIDED)
    return order.index(verdict.trigger) if verdict.trigger in order else len(order)


def _one(question: Question, reading: Reading, now: int) -> Verdict:
    """Return what one endpoint's reading proves."""
    final, name = reading.final, reading.endpoint
    if reading.problem or final is None or reading.used is None:
        return Verdict(Trigger.UNREACHABLE, reading.problem, name, final)
    if final.timestamp > now + FUTURE_S:
        reason = f"block {final.number} is {final.timestamp - now} s ahead of our clock"
        return Verdict(Trigger.UNREACHABLE, reason, name, final)
    if reading.used:
        return _ended(question, reading, final)
    if final.timestamp < question.valid_before:
        return _open(question, reading, final)
    if now < question.valid_before:
        left = question.valid_before - now
        reason = (
            f"final block {final.number} is past validBefore, which is in {left} s by our clock"
        )
        return Verdict(Trigger.UNDECIDED, reason, name, final)
    reason = f"unused in final block {final.number}, whose time is not before validBefore"
    return Verdict(Trigger.EXPIRED, reason, name, final)


def _ended(question: Question, reading: Reading, final: Block) -> Verdict:
    """The nonce is gone in a final block: by whom, and for what, only its logs say."""
    if not reading.ends:
        reason = "the nonce is used, and there is no log of that"
        return Verdict(Trigger.UNREACHABLE, reason, reading.endpoint, final)
    ends = [_end(question, log, receipt) for log, receipt in reading.ends]
    proved = next((end for end in ends if end[0] is Trigger.SETTLED), ends[0])
    trigger, reason, log = proved
    shown = (log.transaction, log.index, log.block_number)
    return Verdict(trigger, reason, reading.endpoint, final, *shown)


def _end(question: Question, log: Log, receipt: Receipt) -> tuple[Trigger, str, Log]:
    """Return what one log proves that used or canceled the nonce, why, and by which log."""
    if not receipt.succeeded:
        reason = f"{log.transaction} has a log and reverted: the endpoint contradicts itself"
        return Trigger.UNREACHABLE, reason, log
    if log.topics[0] == evm.AUTHORIZATION_CANCELED:
        return Trigger.VOIDED, "the payer canceled the nonce", log
    paid = transfer_of(log, receipt)
    if paid is None:
        reason = f"{log.transaction} used the nonce, and shows no transfer that belongs to it"
        return Trigger.UNREACHABLE, reason, log
    if _is_ours(paid, question):
        reason = f"{question.value} were transferred to {question.pay_to}"
        return Trigger.SETTLED, reason, paid
    if any(_is_ours(other, question) for other in receipt.logs):
        reason = f"{log.transaction} holds our transfer, and it belongs to another authorization"
        return Trigger.UNREACHABLE, reason, paid
    to, value = f"0x{paid.topics[2][-40:]}", int(paid.data, 16)
    reason = f"the nonce paid {value} to {to}, not {question.value} to {question.pay_to}"
    return Trigger.MISDIRECTED, reason, paid


def _open(question: Question, reading: Reading, final: Block) -> Verdict:
    """The nonce is unused in the final block and its time is not over: look at what is newer."""
    name = reading.endpoint
    for log, receipt in reading.recent:
        if log.topics[0] != evm.AUTHORIZATION_USED or not receipt.succeeded:
            continue
        paid = transfer_of(log, receipt)
        if paid is not None and _is_ours(paid, question):
            reason = f"paid in block {log.block_number}, which is not final"
            shown = (log.transaction, paid.index, log.block_number)
            return Verdict(Trigger.INCLUDED, reason, name, final, *shown)
    if question.included and reading.head is not None:
        return Verdict(Trigger.REORGED, "the block that held it is gone", name, final)
    if reading.named is not None and not reading.named.succeeded:
        failed = reading.named.transaction
        reason = f"{failed} reverted; another one may still use the nonce"
        return Verdict(Trigger.REVERTED, reason, name, final, failed)
    left = question.valid_before - final.timestamp
    reason = f"unused, and the final block is {left} s before validBefore"
    return Verdict(Trigger.UNDECIDED, reason, name, final)


def transfer_of(used: Log, receipt: Receipt) -> Log | None:
    """Return the transfer that belongs to the use of a nonce, or None where nobody can tell.

    A transaction may hold several authorizations of one payer, and only the order of its logs
    tells whose transfer is whose. A token writes it right after the use of the nonce or, if it
    moves first, right before; where both neighbours are transfers, the ends of the row show
    which kind of token it is.
    """
    row = [log for log in receipt.logs if log.address == used.address and _is_part(log)]
    at = row.index(used)
    after = _payment(row[at + 1 : at + 2], used)
    before = _payment(row[at - 1 : at] if at > 0 else [], used)
    if after is None or before is None:
        return after or before
    if (after.topics, after.data) == (before.topics, before.data):
        return after
    moves_first, moves_last = row[-1].topics[0] != evm.TRANSFER, row[0].topics[0] != evm.TRANSFER
    if moves_first == moves_last:
        return None
    return before if moves_first else after


def _is_part(log: Log) -> bool:
    return _is_transfer(log) or (len(log.topics) == 3 and log.topics[0] == evm.AUTHORIZATION_USED)


def _payment(beside: Sequence[Log], used: Log) -> Log | None:
    """Return the neighbour if it is a transfer of the same payer."""
    return next(
        (log for log in beside if _is_transfer(log) and log.topics[1] == used.topics[1]), None
    )


def _is_transfer(log: Log) -> bool:
    return len(log.topics) == 3 and log.topics[0] == evm.TRANSFER and len(log.data) == 66


def _is_ours(log: Log, question: Question) -> bool:
    return (
        log.address == question.asset
        and _is_transfer(log)
        and log.topics[1] == evm.topic(question.payer)
        and log.topics[2] == evm.topic(question.pay_to)
        and int(log.data, 16) == question.value
    )
