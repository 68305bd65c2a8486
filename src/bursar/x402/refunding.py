"""Which transfers of a transaction pay a payment back.

The rule that lives here: a refund is the whole value, of the same token, from the payee to the
payer, and it comes after the payment: what was transferred before cannot be for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from bursar.x402 import evm
from bursar.x402.reading import Question
from bursar.x402.rpc import Block, Receipt


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands on a chain: a block's height, and the index of a log in it."""

    block_number: int
    log_index: int


def paid_at(asked: Question, receipt: Receipt | None) -> Place | None:
    """Return where a payment was made, by the receipt of its transaction; None if it was not."""
    if receipt is None or not receipt.succeeded:
        return None
    topics = (evm.TRANSFER, evm.topic(asked.payer), evm.topic(asked.pay_to))
    ours = _transfers(asked, receipt, topics)
    return Place(receipt.block_number, ours[0]) if ours else None


def refunds(asked: Question, receipt: Receipt, block: Block, paid: Place | None) -> tuple[int, ...]:
    """Return the indices of the logs that pay a payment back.

    Args:
        asked: the payment.
        receipt: of the transaction that is said to refund it.
        block: which holds that transaction.
        paid: where the payment was made; None where nobody knows, and then it counts from when
            it was put on record.
    """
    if not receipt.succeeded:
        return ()
    topics = (evm.TRANSFER, evm.topic(asked.pay_to), evm.topic(asked.payer))
    found = _transfers(asked, receipt, topics)
    if paid is None:
        return found if block.timestamp >= asked.since else ()
    return tuple(index for index in found if Place(receipt.block_number, index) > paid)


def _transfers(asked: Question, receipt: Receipt, topics: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(
        log.index
        for log in receipt.logs
        if log.address == asked.asset
        and log.topics == topics
        and len(log.data) == 66
        and int(log.data, 16) == asked.value
    )
