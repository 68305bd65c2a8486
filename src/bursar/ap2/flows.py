"""One payment from its terms to its end, in flows that are written once for both shells.

The rule that lives here: the body runs at most once for a mandate, and what is unknown after it
ran stays held. What an answer means is decided in `enter` and `exits`; here those verdicts are
carried out.
"""

from __future__ import annotations

import time
from typing import Any

from bursar.ap2 import enter, exits
from bursar.ap2.desk import Attempt, Committing
from bursar.ap2.enter import Entry, Granted, Probed, Refused
from bursar.ap2.errors import (
    AP2DryRunResult,
    AP2GuardCommitFailed,
    AP2GuardCommitUncertain,
    AP2GuardDenied,
    AP2PaymentUnknown,
)
from bursar.ap2.exits import Ending, Hold, Release
from bursar.ap2.lease import keep
from bursar.ap2.mapping import build_receipt_policy_keys
from bursar.ap2.payment import Payment, log
from bursar.ap2.receipt import RuntimeAuthorityReceipt, build_runtime_authority_receipt
from bursar.ap2.sendable import told
from bursar.ap2.terms import REFUND_SCHEMA
from bursar.client.outcome import Expected, classify
from bursar.client.response import CyclesResponse
from bursar.client.shell import Flow
from bursar.vocabulary import ErrorCode


class PaymentFlows(Payment):
    """A payment that can be entered and ended; the two shells differ in how they run this."""

    # Entering.

    def _monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    async def _ask(self) -> Entry:
        """Ask for the payment; nothing is granted to this object before `_admit`."""
        terms = self._terms
        self._created = body = terms.reservation(
            self._presenter, claim=self._claim, now_ms=time.time_ns() // 1_000_000
        )
        self._asked_ms = self._monotonic_ms()
        if self._resume:
            return await self._take_over(body)
        entry = enter.judge(await self._desk.create(body), terms.transaction, dry_run=terms.dry_run)
        if isinstance(entry, Refused):
            return await self._refused(entry, body)
        if isinstance(entry, Granted) and not entry.alive:
            found = await self._desk.look(entry.reservation_id)
            if found is not None and found.settled:
                return enter.replayed(terms.transaction, entry.reservation_id, found)
        return entry

    async def _refused(self, refused: Refused, body: dict[str, Any]) -> Refused:
        """Find out what an earlier attempt was, and give back what a bad answer left behind."""
        transaction = self._terms.transaction
        if refused.reason_code == ErrorCode.IDEMPOTENCY_MISMATCH:
            earlier = await self._desk.find(body["idempotency_key"])
            return enter.explain(refused, transaction, body, earlier)
        if refused.reason_code == enter.REPLAYED_SETTLED:
            earlier = await self._desk.find(body["idempotency_key"])
            if earlier is not None and earlier.settled:
                return enter.replayed(transaction, earlier.reservation_id, earlier)
        if refused.stray is not None:
            name = "InvalidResponse"
            await self._release(refused.stray, f"ap2_guard_failed:{name}", name)
        return refused

    async def _take_over(self, body: dict[str, Any]) -> Entry:
        """Claim the open reservation of an earlier instance."""
        terms = self._terms
        earlier = await self._desk.find(body["idempotency_key"])
        refused = enter.resumable(terms.transaction, body, earlier)
        if refused is not None or earlier is None:
            return refused or Refused("nothing to resume", enter.NOTHING_TO_RESUME)
        claim = terms.takeover(earlier.expires_at_ms, self._presenter)
        response = await self._desk.extend(earlier.reservation_id, claim)
        return enter.taken_over(response, terms.transaction, earlier)

    async def _undo(self, entry: Entry) -> None:
        """Give back what was granted to a caller who is gone before the body began."""
        if isinstance(entry, Granted) and not entry.resumed:
            name = "CancelledError"
            await self._release(entry.reservation_id, f"ap2_guard_failed:{name}", name)

    def _admit(self, entry: Entry) -> None:
        """Let the body run, or raise why it must not."""
        transaction = self._terms.transaction
        if isinstance(entry, Granted):
            self._granted, self._decision = entry, entry.decision
            log.info("AP2 reservation %s for transaction %s", entry.reservation_id, transaction)
            if self._beats is not None:
                now_ms = self._monotonic_ms()
                self._lease = keep(self._beats, self._created, entry, self._asked_ms, now_ms)
        elif isinstance(entry, Probed):
            answer = entry.answer
            self._decision = answer.decision
            raise AP2DryRunResult(
                entry.message,
                decision=str(answer.decision),
                reason_code=answer.reason_code,
                caps=answer.caps,
                balances=answer.balances,
                affected_scopes=answer.affected_scopes,
            )
        else:
            self._decision = entry.decision
            log.info("AP2 payment refused: %s", entry.message)
            denied = AP2GuardDenied(
                entry.message,
                reason_code=entry.reason_code,
                request_id=entry.request_id,
                earlier=entry.earlier,
            )
            if entry.told:
                denied.add_note(f"the ledger said: {entry.told}")
            raise denied

    # Leaving.

    def _ending(self, raised: BaseException | None) -> Ending:
        return exits.ending(
            raised, self._aborted, self._unknown_on, interruptible=self._interruptible
        )

    def _end(self, rid: str, ending: Ending, raised: BaseException | None) -> Flow[None]:
        """Return the flow that ends the payment; it raises only if a commit did not settle."""
        if self._lease is not None:
            self._lease.claim()
        if isinstance(ending, Release):
            return self._give_back(rid, ending)
        if isinstance(ending, Hold):
            return self._hold(rid, ending, raised)
        body = self._terms.commit(self._micros(), self._told)
        self._committing = self._desk.commit(rid, body, self._created)
        return self._commit(rid, body, self._committing)

    async def _give_back(self, rid: str, ending: Release) -> None:
        await self._release(rid, ending.reason, ending.suffix)

    async def _commit(self, rid: str, body: dict[str, Any], committing: Committing) -> None:
        attempt = await self._attempt(rid, committing)
        verdict = exits.judge(attempt.response, self._terms.transaction)
        if attempt.as_event:
            settled = classify(attempt.response, Expected.EVENT).settled
            verdict = exits.Settled() if settled else _expired(verdict, self._terms.transaction)
        match verdict:
            case exits.Settled():
                self._committed = True
                log.info("AP2 payment committed: %s, %s", rid, self._terms.transaction)
                if self._emit_receipt:
                    self._receipt = self._make_receipt(rid, body)
            case exits.Uncertain(code, because):
                log.warning("%s", because)
                raise AP2GuardCommitUncertain(
                    because,
                    error_code=code,
                    request_id=enter.request_id(attempt.response),
                    reservation_id=rid,
                    journaled=attempt.journaled,
                )
            case exits.Rejected(code):
                await self._rejected(rid, code, attempt.response)

    async def _attempt(self, rid: str, committing: Committing) -> Attempt:
        try:
            return await committing()
        except Exception as error:
            log.exception("AP2 commit raised: %s", self._terms.transaction)
            raise AP2GuardCommitUncertain(
                exits.raised_message(self._terms.transaction, error),
                error_code="COMMIT_RAISED",
                reservation_id=rid,
                journaled=committing.journaled,
            ) from error

    async def _rejected(self, rid: str, code: str, response: CyclesResponse) -> None:
        error = await self._release(rid, f"ap2_commit_rejected:{code}", "CommitRejected")
        said = exits.rejected_message(self._terms.transaction, code, error)
        log.error("%s", said)
        failed = AP2GuardCommitFailed(
            said,
            error_code=code,
            request_id=enter.request_id(response),
            reservation_id=rid,
            released=error is None,
            release_error=error,
        )
        if response.error_message:
            failed.add_note(f"the ledger said: {response.error_message}")
        raise failed

    async def _release(self, rid: str, reason: str, suffix: str) -> str | None:
        """Release, and return why it did not work, or None; never raises `Exception`."""
        try:
            response = await self._desk.release(rid, self._terms.release(reason, suffix))
            error = exits.release_error(response)
        except Exception as failed:  # noqa: BLE001 - the lease ends by itself; the cause goes on
            error = told(failed)
        if error is not None:
            log.warning("AP2 reservation %s was not released (%s)", rid, error)
        return error

    async def _hold(self, rid: str, ending: Hold, raised: BaseException | None) -> None:
        """Keep the budget held while nobody knows what became of the payment."""
        until_ms, error = None, None
        try:
            body = self._terms.hold(self._hold_ms, ending.reason, self._presenter)
            response = await self._desk.extend(rid, body)
            if classify(response, Expected.EXTEND).settled:
                until_ms = response.get_body_attribute("expires_at_ms")
            else:
                error = response.error_code or response.error_message or f"{response.status}"
        except Exception as failed:  # noqa: BLE001 - the hold lasts as long as its lease anyway
            error = told(failed)
        how = f"until {until_ms}" if error is None else f"until its lease ends ({error})"
        said = (
            f"whether transaction {self._terms.transaction} was paid is unknown; reservation "
            f"{rid} stays held {how}. Ask the payment service about {self.payment_key}, then "
            "settle it with resume=True"
        )
        log.error("AP2: %s", said)
        if raised is not None:
            raised.add_note(said)
            for one in exits.unknown_in(raised, ()):
                if isinstance(one, AP2PaymentUnknown):
                    one.reservation_id, one.payment_key = rid, self.payment_key
                    one.held_until_ms = until_ms

    def _micros(self) -> int:
        return (
            self._created["estimate"]["amount"]
            if self._actual_micros is None
            else (self._actual_micros)
        )

    def _make_receipt(self, rid: str, body: dict[str, Any]) -> RuntimeAuthorityReceipt:
        # What was sent, and not what was attached: a receipt can always be written and signed.
        terms, said = self._terms, dict(body.get("metadata", {}))
        reference = said.pop("psp_ref", None)
        reference = reference if isinstance(self._said.get("psp_ref"), str) else None
        made = build_runtime_authority_receipt(
            terms.mandate,
            decision=str(self._decision),
            reservation_id=rid,
            tenant=terms.levels["tenant"],
            agent=terms.levels["agent"],
            action_kind=terms.action_kind,
            policy_keys=build_receipt_policy_keys(terms.mandate),
            amount_micros=body["actual"]["amount"],
            committed=True,
            psp_ref=reference,
            extra=said or None,
        )
        return (
            made if terms.refund is None else made.model_copy(update={"schema_name": REFUND_SCHEMA})
        )


def _expired(verdict: exits.Verdict, transaction: str) -> exits.Verdict:
    """Return what an unsettled event means: the lease is over, whatever the event met."""
    if isinstance(verdict, exits.Uncertain):
        return exits.Uncertain(ErrorCode.RESERVATION_EXPIRED, verdict.because)
    return exits.Uncertain(
        ErrorCode.RESERVATION_EXPIRED,
        f"AP2 reservation of transaction {transaction} expired before the commit, and the event "
        "that accounts for it instead was refused; the payment is not recorded.",
    )
