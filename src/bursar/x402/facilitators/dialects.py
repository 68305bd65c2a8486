"""Where facilitators differ from the reference, one small class each.

The rule that lives here: a dialect may only know more about an answer, or trust it less. It
never makes a refusal out of what the reference would leave unknown, unless its own documents
say that such an answer comes before anything was sent. As documented in November 2026:

    reference   200 `settlement_pending` with the transaction; no status
    cdp         HTTP 500 with the same JSON; a false success proves nothing; no status
    circle      `paymentId`, also with 202; 4xx and 5xx carry no outcome; a status by that id
    celo        a status by nonce: unspent, consumed, expired, settled, pending
    payai       a 503 that is not JSON comes from its edge: the facilitator never saw it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote, urlencode

from bursar.payments.outcome import Trigger
from bursar.x402.facilitators import answer
from bursar.x402.facilitators.answer import SettleAnswer, StatusAnswer
from bursar.x402.reading import Question


class Dialect:
    """The reference facilitator: 200 for every outcome, and the reason in the body."""

    name = "reference"

    def settle(
        self, status: int, headers: Mapping[str, str], body: object, raw: str
    ) -> SettleAnswer:
        """Read an answer to a settle request."""
        return answer.read_settle(status, headers, body, raw)

    def status_path(self, question: Question, payment_id: str | None) -> str | None:
        """Return the path that answers what became of a payment, if there is one."""
        return None

    def status(self, status: int, body: object) -> StatusAnswer:
        """Read an answer about a payment."""
        return StatusAnswer(Trigger.UNDECIDED, f"http_{status}")


class Cdp(Dialect):
    """Coinbase: pending comes as HTTP 500, and a failure without a proof is not one."""

    name = "cdp"

    def settle(
        self, status: int, headers: Mapping[str, str], body: object, raw: str
    ) -> SettleAnswer:
        """Trust no `success: false` without a proof: its documents say not to."""
        read = answer.read_settle(status, headers, body, raw)
        said_false = isinstance(body, Mapping) and "success" in body
        if read.trigger is Trigger.REFUSED and (status == 200 or said_false):
            proved = read.reason.startswith(("invalid_", "unsupported_", "network_mismatch"))
            return read if proved else replace(read, trigger=Trigger.LOST)
        return read


class Circle(Dialect):
    """Circle: payments have an id in its own books, and only a status tells their outcome."""

    name = "circle"
    _DONE: Final = {"completed": Trigger.ACKNOWLEDGED, "failed": Trigger.UNDECIDED}

    def settle(
        self, status: int, headers: Mapping[str, str], body: object, raw: str
    ) -> SettleAnswer:
        """Keep the id of a 202, and learn nothing from an error's status."""
        read = answer.read_settle(status, headers, body, raw)
        if status == 202 and read.payment_id is not None:
            return replace(read, trigger=Trigger.ACKNOWLEDGED, reason="settlement_pending")
        if read.trigger is Trigger.REFUSED and status >= 400:
            return replace(read, trigger=Trigger.LOST)
        return read

    def status_path(self, question: Question, payment_id: str | None) -> str | None:
        """Return the path of a payment's status."""
        return f"/x402/status/{quote(payment_id, safe='')}" if payment_id else None

    def status(self, status: int, body: object) -> StatusAnswer:
        """Read `pending`, `completed`, `failed` or `outcome_unknown`."""
        if status != 200 or not isinstance(body, Mapping):
            return super().status(status, body)
        said = str(body.get("status", "unknown"))[:40]
        named = answer.transaction_of(body)
        trigger = Trigger.ACKNOWLEDGED if named else self._DONE.get(said, Trigger.UNDECIDED)
        return StatusAnswer(trigger, said, named)


class Celo(Dialect):
    """Celo: a status by nonce, whose `expired` comes 5 s after validBefore, so it is a hint."""

    name = "celo"

    def status_path(self, question: Question, payment_id: str | None) -> str | None:
        """Return the path of a nonce's status."""
        asked = {
            "network": f"eip155:{question.chain_id}",
            "asset": question.asset,
            "payer": question.payer,
            "nonce": question.nonce,
        }
        return f"/settle/status?{urlencode(asked)}"

    def status(self, status: int, body: object) -> StatusAnswer:
        """Read `unspent`, `consumed`, `expired`, `settled` or `pending`."""
        if status != 200 or not isinstance(body, Mapping):
            return super().status(status, body)
        said = str(body.get("status", "unknown"))[:40]
        named = answer.transaction_of(body)
        return StatusAnswer(Trigger.ACKNOWLEDGED if named else Trigger.UNDECIDED, said, named)


class PayAi(Dialect):
    """PayAI: what its edge rejects never reached the facilitator."""

    name = "payai"

    def settle(
        self, status: int, headers: Mapping[str, str], body: object, raw: str
    ) -> SettleAnswer:
        """Take a 503 without JSON for the refusal that it is, unless it tells of a lost answer."""
        read = answer.read_settle(status, headers, body, raw)
        if status == 503 and body is None and not answer.tells_of_paying(raw):
            return replace(read, trigger=Trigger.REFUSED, reason="edge_rejected")
        return read


DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect for dialect in (Dialect(), Cdp(), Circle(), Celo(), PayAi())
}
"""The dialects by name."""
