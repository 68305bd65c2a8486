"""One payment from its terms to its end, in flows that are written once for both shells.

The rule that lives here: the body runs at most once for a mandate, and what is unknown after it
ran stays held. What an answer means is decided in `enter` and `exits`; here those verdicts are
carried out.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any, ClassVar, Literal

from bursar.ap2 import enter, exits
from bursar.ap2.amounts import validate_micros
from bursar.ap2.currencies import ExchangeRate
from bursar.ap2.desk import Attempt, Committing, desk
from bursar.ap2.enter import Entry, Granted, Probed, Refused
from bursar.ap2.errors import (
    AP2DryRunResult,
    AP2GuardCommitFailed,
    AP2GuardCommitUncertain,
    AP2GuardDenied,
    AP2PaymentUnknown,
)
from bursar.ap2.exits import Ending, Hold, Release
from bursar.ap2.mandate import AP2Mandate
from bursar.ap2.mapping import ACTION_KIND, OVERAGE_POLICY, TTL_MS, build_receipt_policy_keys
from bursar.ap2.receipt import RuntimeAuthorityReceipt, build_runtime_authority_receipt
from bursar.ap2.terms import REFUND_SCHEMA, Terms
from bursar.client.outcome import Expected, classify
from bursar.client.response import CyclesResponse
from bursar.client.shell import Flow, Supervisor
from bursar.client.validation import validate_extend_by_ms
from bursar.vocabulary import TTL_MS_MAX, Decision, ErrorCode

SETTLEMENTS = ("raise", "journal")
log = logging.getLogger("bursar.ap2")
_supervisor = Supervisor()


class Payment:
    """One payment; the two shells differ in how they run its flows, and in whose client it is."""

    foreign: ClassVar[type] = type(None)
    """The kind of client that the other shell takes."""

    def __init__(
        self,
        client: Any,
        *,
        mandate: AP2Mandate,
        run_id: str,
        tenant: str | None = None,
        workspace: str | None = None,
        app: str | None = None,
        workflow: str | None = None,
        agent: str | None = None,
        toolset: str | None = None,
        action_kind: str = ACTION_KIND,
        ttl_ms: int = TTL_MS,
        overage_policy: str = OVERAGE_POLICY,
        dry_run: bool = False,
        emit_receipt: bool = True,
        metadata: dict[str, Any] | None = None,
        extra_dimensions: dict[str, str] | None = None,
        refund_id: str | None = None,
        claim: bool = True,
        resume: bool = False,
        settlement: Literal["raise", "journal"] = "raise",
        unknown_on: tuple[type[BaseException], ...] = (),
        hold_ms: int = TTL_MS_MAX,
        rate: ExchangeRate | None = None,
    ) -> None:
        """Plan a payment; nothing is sent before the block is entered."""
        if isinstance(client, self.foreign):
            raise TypeError(f"{type(self).__name__} does not take a {type(client).__name__}")
        if settlement not in SETTLEMENTS:
            raise ValueError(f"settlement must be one of {', '.join(SETTLEMENTS)}; {settlement!r}")
        validate_extend_by_ms(hold_ms)
        levels = {
            "tenant": tenant,
            "workspace": workspace,
            "app": app,
            "workflow": workflow,
            "agent": agent,
            "toolset": toolset,
        }
        asked = (action_kind, ttl_ms, overage_policy, dry_run, metadata, extra_dimensions)
        self._terms = Terms(mandate.model_copy(), run_id, levels, *asked, refund_id, rate)
        self._desk = desk(client, journal=settlement == "journal")
        self._journal = settlement == "journal"
        self._emit_receipt = emit_receipt
        self._claim, self._resume = claim, resume
        self._unknown_on, self._hold_ms = unknown_on, hold_ms
        own = getattr(client, "_supervisor", None)
        self._tasks = own if isinstance(own, Supervisor) else _supervisor
        self._actual_micros: int | None = None
        self._said: dict[str, Any] = self._terms.rate_told
        self._aborted: str | None = None
        self._start()

    def _start(self) -> None:
        """Know of no reservation: before the guard is entered, also if it is once more."""
        self._presenter = uuid.uuid4().hex
        self._created: dict[str, Any] = {}
        self._granted: Granted | None = None
        self._decision: Decision | None = None
        self._receipt: RuntimeAuthorityReceipt | None = None
        self._committed = False

    # What the body may ask and say.

    @property
    def reservation_id(self) -> str | None:
        """The server's id of the reservation; None before there is one."""
        return self._granted.reservation_id if self._granted else None

    @property
    def decision(self) -> Decision | None:
        """What the ledger decided; None before it was asked."""
        return self._decision

    @property
    def caps(self) -> Any:
        """The limits to keep within, if the decision has any."""
        return self._granted.caps if self._granted else None

    @property
    def payment_key(self) -> str:
        """An idempotency key for the payment service: the same for every attempt of a mandate."""
        return self._terms.key("charge")

    @property
    def resumed(self) -> bool:
        """Whether an earlier instance may have made the payment already."""
        return self._granted is not None and self._granted.resumed

    @property
    def receipt(self) -> RuntimeAuthorityReceipt | None:
        """The unsigned receipt, once the payment is committed."""
        return self._receipt

    @property
    def committed(self) -> bool:
        """Whether the ledger is known to have recorded the payment."""
        return self._committed

    def set_actual_micros(self, amount: int) -> None:
        """Commit another amount than the mandate's.

        Raises:
            AP2MandateError: it is not an int64 of at least 0.
        """
        self._actual_micros = validate_micros(amount, field="actual amount")

    def attach_receipt_fields(self, **fields: Any) -> None:
        """Keep fields with the commit and in the receipt, such as `psp_ref`."""
        self._said.update(fields)

    def abort(self, reason: str) -> None:
        """Release instead of committing when the block ends: the payment was not made."""
        self._aborted = reason[: exits.ABORT_REASON_MAX]

    # Entering.

    async def _ask(self) -> Entry:
        """Ask for the payment; nothing is granted to this object before `_admit`."""
        terms = self._terms
        self._created = body = terms.reservation(
            self._presenter, claim=self._claim, now_ms=time.time_ns() // 1_000_000
        )
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
            raise AP2GuardDenied(
                entry.message,
                reason_code=entry.reason_code,
                request_id=entry.request_id,
                earlier=entry.earlier,
            )

    # Leaving.

    def _ending(self, raised: BaseException | None) -> Ending:
        return exits.ending(raised, self._aborted, self._unknown_on)

    def _end(self, rid: str, ending: Ending, raised: BaseException | None) -> Flow[None]:
        """Return the flow that ends the payment; it raises only if a commit did not settle."""
        if isinstance(ending, Release):
            return self._give_back(rid, ending)
        if isinstance(ending, Hold):
            return self._hold(rid, ending, raised)
        body = self._terms.commit(self._micros(), self._said)
        return self._commit(rid, body, self._desk.commit(rid, body, self._created))

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
            ) from error

    async def _rejected(self, rid: str, code: str, response: CyclesResponse) -> None:
        error = await self._release(rid, f"ap2_commit_rejected:{code}", "CommitRejected")
        said = exits.rejected_message(self._terms.transaction, code, error)
        log.error("%s", said)
        raise AP2GuardCommitFailed(
            said,
            error_code=code,
            request_id=enter.request_id(response),
            reservation_id=rid,
            released=error is None,
            release_error=error,
        )

    async def _release(self, rid: str, reason: str, suffix: str) -> str | None:
        """Release, and return why it did not work, or None; never raises `Exception`."""
        try:
            response = await self._desk.release(rid, self._terms.release(reason, suffix))
            error = exits.release_error(response)
        except Exception as failed:  # noqa: BLE001 - the lease ends by itself; the cause goes on
            error = f"{type(failed).__name__}: {failed}"
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
            error = f"{type(failed).__name__}: {failed}"
        how = f"until {until_ms}" if error is None else f"until its lease ends ({error})"
        said = (
            f"whether transaction {self._terms.transaction} was paid is unknown; reservation "
            f"{rid} stays held {how}. Ask the payment service about {self.payment_key}, then "
            "settle it with resume=True"
        )
        log.error("AP2: %s", said)
        if raised is not None:
            raised.add_note(said)
        if isinstance(raised, AP2PaymentUnknown):
            raised.reservation_id, raised.payment_key = rid, self.payment_key
            raised.held_until_ms = until_ms

    def _micros(self) -> int:
        return (
            self._created["estimate"]["amount"]
            if self._actual_micros is None
            else (self._actual_micros)
        )

    def _make_receipt(self, rid: str, body: dict[str, Any]) -> RuntimeAuthorityReceipt:
        terms, reference = self._terms, self._said.get("psp_ref")
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
            psp_ref=reference if isinstance(reference, str) else None,
            extra={k: v for k, v in self._said.items() if k != "psp_ref"} or None,
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
