"""The guard around one payment, as a `with` block and as an `async with` block.

The rule that lives here: a flow of `flows` that has begun is finished. The blocking shell runs
it in one step; the asynchronous one finishes it whatever becomes of the caller, so that a
cancelled reservation is given back and a cancelled commit still arrives.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from bursar.ap2 import exits
from bursar.ap2.currencies import units_of
from bursar.ap2.errors import AP2GuardCommitUncertain, AP2MandateError
from bursar.ap2.exits import Commit
from bursar.ap2.flows import PaymentFlows
from bursar.ap2.mandate import AP2Mandate
from bursar.ap2.mapping import REFUND_KIND
from bursar.ap2.payment import log
from bursar.ap2.terms import check_refund_id
from bursar.client.aio import AsyncCyclesClient
from bursar.client.sync import CyclesClient
from bursar.flow import run_sync

P = ParamSpec("P")
T = TypeVar("T")


class GuardedPayment(PaymentFlows):
    """A `with` block around one payment under a mandate.

    Entering reserves the mandate's amount. Leaving commits it; if the body raised or called
    `abort`, it is released instead. The body runs at most once for a mandate, however many
    workers present it.

    Raises:
        AP2GuardDenied: entering: this payment must not be made.
        AP2DryRunResult: entering a dry run.
        AP2MandateError: entering: the amount or a dimension cannot be sent; nothing was.
        AP2CurrencyError: entering: the currency cannot be converted; nothing was sent.
        AP2GuardCommitUncertain: leaving: paid, and not known to be recorded; nothing released.
        AP2GuardCommitFailed: leaving: paid, and the ledger refused to record it.
    """

    foreign = AsyncCyclesClient

    def __enter__(self) -> Self:
        """Reserve."""
        self._start()
        self._admit(run_sync(self._ask()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, release or hold."""
        if self.reservation_id is not None and not self._inherited:
            run_sync(self._end(self.reservation_id, self._ending(raised), raised))


class AsyncGuardedPayment(PaymentFlows):
    """An `async with` block around one payment under a mandate; see `GuardedPayment`.

    Cancelled while it reserves, it gives back what was granted. Cancelled while it commits, it
    raises `AP2GuardCommitUncertain` with the code COMMIT_CANCELLED from the cancellation, and
    the commit still arrives. Closing the client waits for both.
    """

    foreign = CyclesClient

    async def __aenter__(self) -> Self:
        """Reserve."""
        self._start()
        self._admit(await self._tasks.finish_or(self._ask(), self._undo))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, release or hold."""
        if self.reservation_id is None or self._inherited:
            return
        ending = self._ending(raised)
        try:
            await self._tasks.finish(self._end(self.reservation_id, ending, raised))
        except asyncio.CancelledError as cancelled:
            if not isinstance(ending, Commit):
                raise
            said = exits.cancelled_message(self._terms.transaction)
            log.warning("%s", said)
            raise AP2GuardCommitUncertain(
                said,
                error_code="COMMIT_CANCELLED",
                reservation_id=self.reservation_id,
                journaled=self._committing is not None and self._committing.journaled,
            ) from cancelled


def _maker(kind: Callable[P, T], name: str, about: str) -> Callable[P, T]:
    """Return a function that makes a guard: the signature of the class, written once."""

    def make(*args: P.args, **kwargs: P.kwargs) -> T:
        return kind(*args, **kwargs)

    signature = inspect.signature(kind)
    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"{about}{TERMS}"
    vars(make)["__signature__"] = signature
    return make


TERMS = """

Args:
    client: of the SDK, or any with its methods.
    mandate: who is paid how much; read now, changes of it later do not matter.
    run_id: the run of the agent; a mandate belongs to the run that presents it first.
    tenant: who pays, with the other five levels of a subject.
    workspace: a level of the subject.
    app: a level of the subject.
    workflow: a level of the subject.
    agent: a level of the subject.
    toolset: a level of the subject.
    action_kind: what policies and budgets are asked about.
    ttl_ms: the lease; without `heartbeat` the payment is to be made and committed within it.
    overage_policy: what happens if more is committed than was reserved.
    dry_run: ask only: entering raises `AP2DryRunResult`, the body never runs.
    emit_receipt: whether `receipt` is made after a commit.
    metadata: kept with the reservation.
    extra_dimensions: of the subject; those of the mandate win.
    refund_id: makes it a refund, whose keys are not those of the charge.
    claim: whether the reservation names this guard, so that nobody else who presents the
        mandate may pay. Without it the request is the official guard's to the byte, and a
        second presenter of the very same request cannot be told apart.
    resume: go on with the open reservation of an earlier instance that is known to be dead. The
        payment may have been made: give `payment_key` to the payment service.
    settlement: `"journal"` writes the commit into the SDK's journal before it is sent, and the
        SDK goes on with it until the ledger has it, also after a crash.
    unknown_on: an exception class or a tuple of them, after which money may have moved: the
        budget stays held, as for `AP2PaymentUnknown`, and the exception goes on. In a tool of
        an agent a cancellation is one of them, unless `abort` was called.
    hold_ms: how long the budget stays held then, 1 to 86400000.
    rate: converts a mandate that is not in dollars; it is kept with the reservation, the commit
        and the receipt. Presenting the mandate again needs the same rate.
    heartbeat: whether the lease is extended for as long as the body runs, so that a payment may
        take longer than `ttl_ms`. It needs a client of Bursar, and is off as with the official
        guard: an agent that hangs then holds the budget for as long as it hangs.

Raises:
    ValueError: `settlement` or `hold_ms` is none of these.
    TypeError: the client is one of the other kind.
"""

cycles_guard_payment = _maker(
    GuardedPayment,
    "cycles_guard_payment",
    "Return a guard around one payment under a mandate, for `with`; see `GuardedPayment`.",
)
cycles_guard_payment_async = _maker(
    AsyncGuardedPayment,
    "cycles_guard_payment_async",
    "Return a guard around one payment under a mandate, for `async with`.",
)


def cycles_guard_refund(
    client: Any,
    *,
    mandate: AP2Mandate,
    run_id: str,
    refund_id: str,
    amount_value: str | None = None,
    **terms: Any,
) -> GuardedPayment:
    """Return a guard around paying money of a mandate back, for `with`.

    The ledger sees an action `payment.refund` that costs what is paid back. It does not add to
    the budget of the charge: the protocol knows no negative spend.

    Args:
        client: as for `cycles_guard_payment`.
        mandate: the payment that is refunded.
        run_id: as for `cycles_guard_payment`.
        refund_id: names this refund among those of the transaction; the same name is the same
            refund, and is made at most once.
        amount_value: how much, in the mandate's currency; None is all of it.
        terms: the other terms of `cycles_guard_payment`.

    Raises:
        AP2MandateError: the amount is none, or more than was paid.
    """
    return GuardedPayment(client, **_refund(mandate, run_id, refund_id, amount_value, terms))


def cycles_guard_refund_async(
    client: Any,
    *,
    mandate: AP2Mandate,
    run_id: str,
    refund_id: str,
    amount_value: str | None = None,
    **terms: Any,
) -> AsyncGuardedPayment:
    """Return a guard around paying money of a mandate back, for `async with`.

    Args:
        client: as for `cycles_guard_payment_async`.
        mandate: the payment that is refunded.
        run_id: as for `cycles_guard_payment`.
        refund_id: names this refund; see `cycles_guard_refund`.
        amount_value: how much, in the mandate's currency; None is all of it.
        terms: the other terms of `cycles_guard_payment`.

    Raises:
        AP2MandateError: the amount is none, or more than was paid.
    """
    return AsyncGuardedPayment(client, **_refund(mandate, run_id, refund_id, amount_value, terms))


def _refund(
    mandate: AP2Mandate,
    run_id: str,
    refund_id: str,
    amount_value: str | None,
    terms: dict[str, Any],
) -> dict[str, Any]:
    check_refund_id(refund_id)
    paid_back = mandate
    if amount_value is not None:
        paid_back = mandate.model_copy(update={"amount_value": amount_value})
        if units_of(amount_value, mandate.currency) > units_of(
            mandate.amount_value, mandate.currency
        ):
            raise AP2MandateError(
                f"amount_value {amount_value!r} is more than the {mandate.amount_value!r} that "
                "was paid; a refund gives back at most that"
            )
    plain = {"action_kind": REFUND_KIND, **terms}
    return {**plain, "mandate": paid_back, "run_id": run_id, "refund_id": refund_id}
