"""What one payment was asked for, and what its body may ask and say.

The rule that lives here: everything that cannot work is refused when the guard is made, before
anything is sent, and what the body says only adds to the terms: it never changes them.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from bursar.ap2 import exits
from bursar.ap2.amounts import validate_micros
from bursar.ap2.currencies import ExchangeRate
from bursar.ap2.desk import Committing, desk, engine_of
from bursar.ap2.enter import Granted
from bursar.ap2.mandate import AP2Mandate
from bursar.ap2.mapping import (
    ACTION_KIND,
    OVERAGE_POLICY,
    TTL_MS,
    shorten,
)
from bursar.ap2.receipt import RuntimeAuthorityReceipt
from bursar.ap2.sendable import sendable_text
from bursar.ap2.terms import Terms, check_refund_id
from bursar.client.context import is_interruptible
from bursar.client.held import Held
from bursar.client.shell import Supervisor
from bursar.client.validation import validate_extend_by_ms
from bursar.vocabulary import TTL_MS_MAX, Decision

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
        unknown_on: exits.Kinds = (),
        hold_ms: int = TTL_MS_MAX,
        rate: ExchangeRate | None = None,
        heartbeat: bool = False,
    ) -> None:
        """Plan a payment; nothing is sent before the block is entered."""
        if isinstance(client, self.foreign):
            raise TypeError(f"{type(self).__name__} does not take a {type(client).__name__}")
        if settlement not in SETTLEMENTS:
            raise ValueError(f"settlement must be one of {', '.join(SETTLEMENTS)}; {settlement!r}")
        validate_extend_by_ms(hold_ms)
        self._unknown_on, self._hold_ms = exits.unknown_kinds(unknown_on), hold_ms
        _check_kinds(mandate, metadata, rate)
        levels = {
            "tenant": tenant,
            "workspace": workspace,
            "app": app,
            "workflow": workflow,
            "agent": agent,
            "toolset": toolset,
        }
        asked = (action_kind, ttl_ms, overage_policy, dry_run, metadata, extra_dimensions)
        if refund_id is not None:
            check_refund_id(refund_id)
        self._terms = Terms(mandate.model_copy(), run_id, levels, *asked, refund_id, rate)
        self._desk = desk(client, journal=settlement == "journal")
        self._beats = engine_of(client, "heartbeat=True") if heartbeat else None
        self._emit_receipt = emit_receipt
        self._claim, self._resume = claim, resume
        own = getattr(client, "_supervisor", None)
        self._tasks = own if isinstance(own, Supervisor) else _supervisor
        self._actual_micros: int | None = None
        self._said: dict[str, Any] = {}
        self._aborted: str | None = None
        self._start()

    def _start(self) -> None:
        """Know of no reservation: before the guard is entered, also if it is once more."""
        self._presenter = uuid.uuid4().hex
        self._process = os.getpid()
        self._interruptible = is_interruptible()
        self._created: dict[str, Any] = {}
        self._committing: Committing | None = None
        self._lease: Held | None = None
        self._asked_ms = 0
        self._granted: Granted | None = None
        self._decision: Decision | None = None
        self._receipt: RuntimeAuthorityReceipt | None = None
        self._committed = False

    # What the body may ask and say.

    @property
    def _inherited(self) -> bool:
        """Whether this process is a fork of the one that reserved, which will settle it."""
        return self._process != os.getpid()

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
        self._aborted = sendable_text(reason)[: exits.ABORT_REASON_MAX]

    @property
    def _told(self) -> dict[str, Any]:
        """What was attached; the rate is not the body's to change."""
        return {**self._said, **self._terms.rate_told}


def _check_kinds(mandate: object, metadata: object, rate: object) -> None:
    """Refuse what is no term of a payment at all, with what would be one."""
    if not isinstance(mandate, BaseModel):
        raise TypeError(
            f"mandate must be an AP2Mandate, got {shorten(mandate)}; make one with AP2Mandate(...) "
            "or AP2Mandate.from_ap2(...)"
        )
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping of names to values, got {shorten(metadata)}")
    if rate is not None and not isinstance(rate, ExchangeRate):
        raise TypeError(f"rate must be an ExchangeRate, got {shorten(rate)}")
