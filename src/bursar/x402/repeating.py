"""What whoever presents a payment again gets: the first time's answer, or what the record says.

The rule that lives here: nothing is worked for twice because an answer is gone, and nothing that
an operator has closed is delivered. An answer that is kept was whole, so the work is done even if
the process died before it could write that down.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from bursar.payments.book import Book
from bursar.payments.outcome import Disposition, IllegalTransition, Money, Remedy, Work
from bursar.payments.ports import PaymentStoreError
from bursar.payments.records import Evidence, PaymentRecord
from bursar.x402 import answers
from bursar.x402.answers import Reply, Send
from bursar.x402.results import Results, StoredAnswer
from bursar.x402.till import MERCHANT

CLOSED: Final = frozenset({Remedy.REFUNDED, Remedy.WRITTEN_OFF, Remedy.REFUND_DUE})
"""What an operator did about a payment, after which nothing is delivered for it."""
_log = logging.getLogger("bursar.x402")


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer that was given before, with the receipt as it is now."""

    answer: StoredAnswer
    receipt: answers.Header

    async def send(self, send: Send) -> None:
        """Send it."""
        headers = [*self.answer.headers, self.receipt]
        await send(
            {"type": "http.response.start", "status": self.answer.status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": self.answer.body})


class Repeats:
    """Answers that were given, and the records of what they were given for.

    Args:
        book: where payments are written.
        results: where answers are kept.
    """

    def __init__(self, book: Book, results: Results) -> None:
        self._book, self._results = book, results

    async def keep(self, payment_id: str, answer: StoredAnswer) -> None:
        """Keep an answer; where that fails it is delivered all the same, and not kept."""
        try:
            await asyncio.to_thread(self._results.put, payment_id, answer)
        except Exception as error:  # noqa: BLE001  # the work is done all the same
            _log.error("%s: its answer was not kept: %s", payment_id, type(error).__name__)

    async def was_done(self, record: PaymentRecord) -> bool:
        """Return whether the work is done, though the record may not say so yet; then it does.

        Raises:
            PaymentStoreError: it cannot be written down now.
        """
        if record.remedy in CLOSED or _is_delivered(record):
            return False
        if await asyncio.to_thread(self._kept, record) is None:
            return False
        said = Evidence(MERCHANT, "its answer is kept")
        try:
            await asyncio.to_thread(self._book.work, record.payment_id, Work.DELIVERED, said)
        except IllegalTransition:  # somebody else was faster, and the record says what is true
            return False
        return True

    async def retold(self, record: PaymentRecord, version: int) -> Reply | Stored:
        """Return what became of a payment that is not what is asked now; nothing is begun."""
        try:
            if await self.was_done(record):
                record = await asyncio.to_thread(self._book.get, record.payment_id)
        except PaymentStoreError:
            return answers.at_work(record, version, self._book.clock.now_ms())
        if _is_delivered(record) or record.remedy in CLOSED or record.work is Work.RUNNING:
            return await self.reply(record, version)
        if record.money is Money.SETTLED:
            return answers.outdated(record, version)
        return answers.pending(record, version, self._book.clock.now_ms())

    async def reply(self, record: PaymentRecord, version: int) -> Reply | Stored:
        """Return the answer to a payment whose work somebody has or had."""
        delivered = _is_delivered(record)
        kept = await asyncio.to_thread(self._kept, record) if delivered else None
        if kept is not None:
            return Stored(kept, answers.receipt(record, version))
        if delivered or record.remedy in CLOSED:
            return answers.over(record, version)
        now_ms = self._book.clock.now_ms()
        if record.disposition is Disposition.HELD and record.work is not Work.RUNNING:
            return answers.pending(record, version, now_ms)
        return answers.at_work(record, version, now_ms)

    def _kept(self, record: PaymentRecord) -> StoredAnswer | None:
        try:
            return self._results.get(record.payment_id)
        except Exception as error:  # noqa: BLE001  # without it the record decides
            name = type(error).__name__
            _log.error("%s: its answer was not found: %s", record.payment_id, name)
            return None


def _is_delivered(record: PaymentRecord) -> bool:
    return record.work is Work.DELIVERED or record.remedy is Remedy.DELIVERED_LATE
