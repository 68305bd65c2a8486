"""What happened to a payment: the states, and the only table that says how they change.

The rule that lives here: money follows facts about the rail and nothing else. A state that is
final is left by one trigger alone, evidence that contradicts it; and a refusal after an
earlier send proves nothing, so it closes nothing. Everything else that is said of a payment
(what is owed, what its budget must do, what the wire shows) is computed from these axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, unique
from typing import Final


@unique
class Money(StrEnum):
    """What is known of the money, from before the send to the final proof."""

    RECORDED = "RECORDED"  # written down; nothing was sent
    SUBMITTING = "SUBMITTING"  # about to be sent, or on its way
    PENDING = "PENDING"  # somebody named a transaction
    UNKNOWN = "UNKNOWN"  # sent, and no answer that proves anything
    PROVISIONAL = "PROVISIONAL"  # our transfer is in a block that is not final yet
    PARKED = "PARKED"  # unknown for too long: an operator was told
    SETTLED = "SETTLED"  # final: paid to whom it was meant for
    REJECTED = "REJECTED"  # final: never sent, or refused before anything could move
    EXPIRED = "EXPIRED"  # final: unused when its time was over
    VOIDED = "VOIDED"  # final: the payer cancelled it
    MISDIRECTED = "MISDIRECTED"  # final: used by a transfer to somebody else or of another value


@unique
class Trigger(StrEnum):
    """What can be said of a payment: by who sends it, by an answer, by the chain, by a clock."""

    REFUSED = "REFUSED"  # this call provably moved nothing
    SENDING = "SENDING"  # the request leaves next; stored before it does
    RESENDING = "RESENDING"  # the same authorization is presented again
    ACKNOWLEDGED = "ACKNOWLEDGED"  # an answer that names a transaction
    LOST = "LOST"  # no answer, or one that proves nothing; also the sender's death
    INCLUDED = "INCLUDED"  # our transfer is in a block that is not final
    REVERTED = "REVERTED"  # the named transaction failed; another one may still succeed
    REORGED = "REORGED"  # the block that held our transfer is gone
    UNDECIDED = "UNDECIDED"  # the chain answered, and it is not decided
    UNREACHABLE = "UNREACHABLE"  # the chain did not answer, or contradicted itself
    OVERDUE = "OVERDUE"  # too many failures to ask, or the hard deadline
    SETTLED = "SETTLED"
    EXPIRED = "EXPIRED"
    VOIDED = "VOIDED"
    MISDIRECTED = "MISDIRECTED"
    CONTRADICTED = "CONTRADICTED"  # evidence against a final state: the reopen rule


@unique
class Work(StrEnum):
    """What the payer got for it."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


@unique
class Remedy(StrEnum):
    """What an operator did about a payment without a deliverable, or the reverse."""

    NONE = "NONE"
    REFUND_DUE = "REFUND_DUE"
    REFUNDED = "REFUNDED"
    DELIVERED_LATE = "DELIVERED_LATE"
    WRITTEN_OFF = "WRITTEN_OFF"


@unique
class Disposition(StrEnum):
    """What is left to do: a function of money, work and remedy, stored so that it can be found."""

    OPEN = "OPEN"  # nothing was sent yet, or the work goes on
    HELD = "HELD"  # the outcome is unknown: nothing may be given back
    ORPHANED = "ORPHANED"  # paid, and nothing was delivered
    UNPAID_DELIVERY = "UNPAID_DELIVERY"  # delivered, and never paid
    REFUND_DUE = "REFUND_DUE"
    REFUNDED = "REFUNDED"
    DELIVERED_LATE = "DELIVERED_LATE"
    WRITTEN_OFF = "WRITTEN_OFF"
    CLOSED = "CLOSED"


@unique
class BudgetState(StrEnum):
    """Where the reservation stands that a payment is made under."""

    NONE = "NONE"  # the payment has no reservation
    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    EXPIRED_UNSETTLED = "EXPIRED_UNSETTLED"
    UNKNOWN = "UNKNOWN"


@unique
class Duty(StrEnum):
    """What the outcome asks of the budget."""

    NONE = "NONE"
    HOLD = "HOLD"  # keep the reservation alive; never give it back
    COMMIT = "COMMIT"
    RELEASE = "RELEASE"
    POST_EVENT = "POST_EVENT"  # spent, and the reservation is gone: account for it as an event
    READ = "READ"  # ask the ledger what became of the reservation
    ALERT = "ALERT"  # the ledger and the rail disagree


@unique
class WireStatus(StrEnum):
    """The value of `x402.payment.status`; the last one is ours, the others are the protocol's."""

    REQUIRED = "payment-required"
    SUBMITTED = "payment-submitted"
    VERIFIED = "payment-verified"
    REJECTED = "payment-rejected"
    COMPLETED = "payment-completed"
    FAILED = "payment-failed"
    ORPHANED = "payment-orphaned"


@unique
class WireOutcome(StrEnum):
    """The value of `x402.payment.outcome`, which says what a status cannot."""

    SETTLED = "settled"
    NEVER = "never"
    UNKNOWN = "unknown"
    PENDING = "pending"


class IllegalTransition(ValueError):
    """The table has no such row; whoever asked believes something that cannot be."""

    def __init__(self, state: StrEnum, trigger: StrEnum) -> None:
        """Say which row is missing."""
        super().__init__(f"nothing leads from {state.value} by {trigger.value}")
        self.state = state
        self.trigger = trigger


NEVER: Final = frozenset({Money.REJECTED, Money.EXPIRED, Money.VOIDED, Money.MISDIRECTED})
"""Final states in which the payee was not paid."""
TERMINAL: Final = NEVER | {Money.SETTLED}
UNRESOLVED: Final = frozenset(
    {Money.SUBMITTING, Money.PENDING, Money.UNKNOWN, Money.PROVISIONAL, Money.PARKED}
)
"""Something may have left: no budget is given back, no fresh payment is asked for."""
OPEN: Final = UNRESOLVED | {Money.RECORDED}
"""Not final: a reservation is kept for it."""
UNDELIVERED: Final = frozenset({Work.FAILED, Work.CANCELED})
FINAL_PROOFS: Final = frozenset(
    {Trigger.SETTLED, Trigger.EXPIRED, Trigger.VOIDED, Trigger.MISDIRECTED}
)

_P, _U, _V, _K = Money.PENDING, Money.UNKNOWN, Money.PROVISIONAL, Money.PARKED
_SENT: Final = (_P, _U, _V, _K)


def _all(
    *, to: Money | None = None, but: Mapping[Money, Money] | None = None
) -> dict[Money, Money]:
    """Return a row for each state after a send: to one state, or staying where it is."""
    return {state: to or state for state in _SENT} | dict(but or {})


_BY_TRIGGER: Final[Mapping[Trigger, Mapping[Money, Money]]] = {
    # An earlier send may have moved money, so a refusal closes only what was never sent before.
    Trigger.REFUSED: {
        Money.RECORDED: Money.REJECTED,
        Money.SUBMITTING: Money.REJECTED,
        **_all(),
    },
    Trigger.SENDING: {Money.RECORDED: Money.SUBMITTING},
    # Who presents it beside the first sender cannot know what that one sent, nor it of this one:
    # from here on the refusal of one call closes nothing.
    Trigger.RESENDING: {Money.SUBMITTING: _U, **_all()},
    Trigger.ACKNOWLEDGED: {Money.SUBMITTING: _P, **_all(but={_U: _P})},
    Trigger.LOST: {Money.SUBMITTING: _U, **_all()},
    # A parked record leaves by final proof alone, or it would be parked again and again.
    Trigger.INCLUDED: {Money.SUBMITTING: _V, **_all(to=_V, but={_K: _K})},
    Trigger.REVERTED: _all(to=_U, but={_K: _K}),
    Trigger.REORGED: _all(but={_V: _U}),
    Trigger.UNDECIDED: _all(),
    Trigger.UNREACHABLE: _all(),
    Trigger.OVERDUE: _all(to=_K),
    # The answer of who sends may be proved at once; every other proof comes after the answer.
    Trigger.SETTLED: {Money.SUBMITTING: Money.SETTLED, **_all(to=Money.SETTLED)},
    Trigger.EXPIRED: _all(to=Money.EXPIRED),
    Trigger.VOIDED: _all(to=Money.VOIDED),
    Trigger.MISDIRECTED: _all(to=Money.MISDIRECTED),
    Trigger.CONTRADICTED: dict.fromkeys(sorted(TERMINAL), _U),
}

TRANSITIONS: Final[Mapping[tuple[Money, Trigger], Money]] = {
    (state, trigger): after for trigger, row in _BY_TRIGGER.items() for state, after in row.items()
}
"""Every legal transition of money. What is not here cannot happen."""

WORK_TRANSITIONS: Final[Mapping[Work, frozenset[Work]]] = {
    Work.NOT_STARTED: frozenset({Work.RUNNING, Work.DELIVERED, Work.FAILED, Work.CANCELED}),
    Work.RUNNING: frozenset({Work.DELIVERED, Work.FAILED, Work.CANCELED}),
    Work.DELIVERED: frozenset(),
    Work.FAILED: frozenset(),
    Work.CANCELED: frozenset(),
}

BUDGET_TRANSITIONS: Final[Mapping[BudgetState, frozenset[BudgetState]]] = {
    BudgetState.NONE: frozenset(),
    BudgetState.RESERVED: frozenset(
        {
            *(BudgetState.COMMITTED, BudgetState.RELEASED),
            *(BudgetState.EXPIRED_UNSETTLED, BudgetState.UNKNOWN),
        }
    ),
    BudgetState.UNKNOWN: frozenset(
        {
            *(BudgetState.RESERVED, BudgetState.COMMITTED),
            *(BudgetState.RELEASED, BudgetState.EXPIRED_UNSETTLED),
        }
    ),
    BudgetState.EXPIRED_UNSETTLED: frozenset({BudgetState.COMMITTED}),  # by an event
    BudgetState.COMMITTED: frozenset(),
    BudgetState.RELEASED: frozenset(),
}


def advance(money: Money, trigger: Trigger) -> Money:
    """Return the state that a trigger leads to.

    Raises:
        IllegalTransition: the table has no such row.
    """
    try:
        return TRANSITIONS[money, trigger]
    except KeyError:
        raise IllegalTransition(money, trigger) from None


def read_evidence(money: Money, said: Trigger) -> Trigger | None:
    """Return what evidence means in a state; None where a final state needs no change.

    Evidence contradicts a final state if it disagrees about one thing: whether the payee was
    paid. A nonce that is cancelled after its time was over contradicts nothing.
    """
    if money not in TERMINAL:
        return said
    pays = said in (Trigger.SETTLED, Trigger.INCLUDED)
    if pays and money in NEVER:
        return Trigger.CONTRADICTED
    if said in FINAL_PROOFS and not pays and money is Money.SETTLED:
        return Trigger.CONTRADICTED
    return None


def advance_work(work: Work, after: Work) -> Work:
    """Return `after`, if work may go there (staying is always allowed).

    Raises:
        IllegalTransition: it may not.
    """
    if after is not work and after not in WORK_TRANSITIONS[work]:
        raise IllegalTransition(work, after)
    return after


def advance_budget(budget: BudgetState, after: BudgetState) -> BudgetState:
    """Return `after`, if a budget may go there (staying is always allowed).

    Raises:
        IllegalTransition: it may not.
    """
    if after is not budget and after not in BUDGET_TRANSITIONS[budget]:
        raise IllegalTransition(budget, after)
    return after


def disposition(
    money: Money, work: Work, remedy: Remedy = Remedy.NONE, *, overdue: bool = False
) -> Disposition:
    """Return what is left to do about a payment.

    Args:
        money: what is known of the money.
        work: what the payer got.
        remedy: what an operator did; it stays true whatever is learned later.
        overdue: the time that the work was given is over.
    """
    if remedy is not Remedy.NONE:
        return Disposition(remedy.value)
    if money in UNRESOLVED:
        return Disposition.HELD
    if money is Money.RECORDED:
        return Disposition.OPEN
    late = overdue and work in (Work.NOT_STARTED, Work.RUNNING)
    if money is Money.SETTLED:
        if work is Work.DELIVERED:
            return Disposition.CLOSED
        return Disposition.ORPHANED if late or work in UNDELIVERED else Disposition.OPEN
    if work is Work.DELIVERED:
        return Disposition.UNPAID_DELIVERY
    # Work that has begun may still be delivered, and then it was unpaid.
    return Disposition.OPEN if work is Work.RUNNING and not late else Disposition.CLOSED


REMEDY_TRANSITIONS: Final[Mapping[Disposition, frozenset[Remedy]]] = {
    Disposition.ORPHANED: frozenset(
        {Remedy.REFUND_DUE, Remedy.REFUNDED, Remedy.DELIVERED_LATE, Remedy.WRITTEN_OFF}
    ),
    Disposition.REFUND_DUE: frozenset({Remedy.REFUNDED, Remedy.DELIVERED_LATE, Remedy.WRITTEN_OFF}),
    # A refund that the chain shows is a fact even while the payment itself is not proved.
    Disposition.HELD: frozenset({Remedy.REFUNDED}),
    Disposition.UNPAID_DELIVERY: frozenset({Remedy.WRITTEN_OFF}),
}


def advance_remedy(now: Disposition, remedy: Remedy) -> Remedy:
    """Return `remedy`, if a payment with this disposition may be given it.

    Raises:
        IllegalTransition: it may not.
    """
    if remedy not in REMEDY_TRANSITIONS.get(now, frozenset()):
        raise IllegalTransition(now, remedy)
    return remedy


def duty(money: Money, budget: BudgetState) -> Duty:
    """Return what the outcome asks of the budget: nothing is given back while it is unknown."""
    if budget in (BudgetState.NONE, BudgetState.COMMITTED):
        contradicted = budget is BudgetState.COMMITTED and money in NEVER
        return Duty.ALERT if contradicted else Duty.NONE
    if budget is BudgetState.UNKNOWN:
        return Duty.READ
    if money is Money.SETTLED:
        return {
            BudgetState.RESERVED: Duty.COMMIT,
            BudgetState.EXPIRED_UNSETTLED: Duty.POST_EVENT,
            BudgetState.RELEASED: Duty.ALERT,
        }[budget]
    if budget is not BudgetState.RESERVED:
        return Duty.NONE
    return Duty.RELEASE if money in NEVER else Duty.HOLD


def wire_outcome(money: Money) -> WireOutcome:
    """Return the value of `x402.payment.outcome`."""
    if money is Money.SETTLED:
        return WireOutcome.SETTLED
    if money in NEVER:
        return WireOutcome.NEVER
    return WireOutcome.UNKNOWN if money in (_U, _K) else WireOutcome.PENDING


def wire_status(
    money: Money,
    about: Disposition,
    *,
    provisional_completes: bool = False,
    unknown_is_failed: bool = False,
) -> WireStatus:
    """Return the value of `x402.payment.status`.

    Args:
        money: what is known of the money.
        about: the payment's disposition.
        provisional_completes: the policy for small sums: a block that is not final will do.
        unknown_is_failed: for a reader that knows no better; `x402.payment.outcome` corrects it.
    """
    if money in NEVER:
        return WireStatus.FAILED
    if money is Money.SETTLED:
        kept = about in (Disposition.CLOSED, Disposition.OPEN, Disposition.DELIVERED_LATE)
        return WireStatus.COMPLETED if kept else WireStatus.ORPHANED
    if money is Money.PROVISIONAL and provisional_completes:
        return WireStatus.COMPLETED
    if money in (_P, _U, _V, _K) and unknown_is_failed:
        return WireStatus.FAILED
    return WireStatus.VERIFIED if money is Money.SUBMITTING else WireStatus.SUBMITTED
