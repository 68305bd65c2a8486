"""Does a closed mandate keep to its open one? Everything that a runtime can check, as findings.

The rule that lives here: what is not understood is a finding, never ignored. A constraint of an
unknown type, a member of a known one that nobody here knows, a list of which nothing was
disclosed, a date that cannot be read: each of them may have narrowed what the user allowed.
All functions are pure; time and what was spent before are arguments.

Signatures and the chain of keys are not looked at: that is the work of whoever unpacked the
mandates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from bursar.ap2.currencies import decimal_text, minor_units
from bursar.ap2.dates import DateError, moment_of, next_at, span_of
from bursar.ap2.errors import AP2CurrencyError, AP2MandateError
from bursar.ap2.findings import UNUSED, Finding, FindingCode, Usage, check_count
from bursar.ap2.mandates import (
    AgentRecurrence,
    AllowedInstruments,
    AllowedMerchants,
    AllowedPayees,
    AllowedPisps,
    Amount,
    AmountRange,
    Budget,
    Checkout,
    CheckoutMandate,
    Document,
    ExecutionDate,
    LineItems,
    Mandate,
    Merchant,
    OpenCheckoutMandate,
    OpenPaymentMandate,
    PaymentMandate,
    Reference,
    Undisclosed,
    UnknownConstraint,
)
from bursar.ap2.matching import most_assigned

CLOCK_SKEW_MS: Final = 60_000
"""How far another clock may be ahead: an `iat` within it is not in the future."""


def check_payment(
    open_mandate: OpenPaymentMandate,
    payment: PaymentMandate,
    *,
    now_ms: int,
    usage: Usage = UNUSED,
    open_checkout_digest: str | None = None,
) -> tuple[Finding, ...]:
    """Return every reason why this payment is not what the user allowed; none means it is.

    Args:
        open_mandate: what the user allowed.
        payment: what the agent is about to do.
        now_ms: the time, in milliseconds of the Unix epoch.
        usage: what was presented under the open mandate before.
        open_checkout_digest: of the open checkout mandate in the chain of the checkout, which
            `payment.reference` names.

    Raises:
        AP2MandateError: `now_ms` is no time.
    """
    check_count(now_ms, field="now_ms")
    return (
        *_times(open_mandate, now_ms),
        *_times(payment, now_ms),
        *_presets(open_mandate, payment),
        *_required(open_mandate.constraints, Reference, "payment.reference"),
        *(
            finding
            for where, constraint in _each(open_mandate.constraints)
            for finding in _payment(where, constraint, payment, now_ms, open_checkout_digest)
        ),
        *check_usage(open_mandate, payment, usage, now_ms=now_ms),
    )


def check_usage(
    open_mandate: OpenPaymentMandate, payment: PaymentMandate, usage: Usage, *, now_ms: int
) -> tuple[Finding, ...]:
    """Return what speaks against one more payment under this open mandate.

    Without `payment.agent_recurrence` an open mandate is used up by its first payment, whatever
    became of that. With it, payments must be a calendar period apart (counted in UTC from the
    latest one; `ON_DEMAND` any time) and at most `max_occurrences`. Their sum is at most the
    `payment.budget`, over all merchants.
    """
    found: list[Finding] = []
    if usage.occurrences and not open_mandate.recurring:
        found.append(
            Finding(
                FindingCode.CONSUMED,
                "the open mandate",
                "it was presented before, and without payment.agent_recurrence it may be once",
            )
        )
    for where, constraint in _each(open_mandate.constraints):
        if isinstance(constraint, AgentRecurrence):
            found += _recurrence(where, constraint, usage, now_ms)
        elif isinstance(constraint, Budget):
            found += _budget(where, constraint, payment.payment_amount, usage)
    return tuple(found)


def check_checkout(
    open_mandate: OpenCheckoutMandate | None,
    mandate: CheckoutMandate,
    checkout: Checkout,
    *,
    now_ms: int,
) -> tuple[Finding, ...]:
    """Return every reason why this checkout is not what the user allowed.

    Args:
        open_mandate: what the user allowed; None if the user signed the closed one.
        mandate: the closed checkout mandate.
        checkout: the payload of its `checkout_jwt`, whose signature was checked.
        now_ms: the time, in milliseconds of the Unix epoch.

    Raises:
        AP2MandateError: `now_ms` is no time.
    """
    check_count(now_ms, field="now_ms")
    found = [*_times(mandate, now_ms)]
    if mandate.checkout_hash != mandate.computed_hash:
        found.append(
            Finding(
                FindingCode.CHECKOUT,
                "checkout_hash",
                f"it is {mandate.checkout_hash!r}, and the hash of checkout_jwt is "
                f"{mandate.computed_hash!r}",
            )
        )
    if open_mandate is None:
        return tuple(found)
    found += _times(open_mandate, now_ms)
    found += _required(open_mandate.constraints, LineItems, "checkout.line_items")
    for where, constraint in _each(open_mandate.constraints):
        found += _checkout(where, constraint, checkout)
    return tuple(found)


def check_pair(payment: PaymentMandate, checkout: CheckoutMandate) -> tuple[Finding, ...]:
    """Return why this payment is not the one for this checkout."""
    if payment.transaction_id == checkout.computed_hash:
        return ()
    said = f"it is {payment.transaction_id!r}, and the hash of checkout_jwt is "
    return (Finding(FindingCode.CHECKOUT, "transaction_id", f"{said}{checkout.computed_hash!r}"),)


def _each(constraints: Iterable[Document]) -> Iterator[tuple[str, Document]]:
    for number, constraint in enumerate(constraints):
        yield f"constraints[{number}] {getattr(constraint, 'type', '')}", constraint


def _times(mandate: Mandate, now_ms: int) -> Iterator[Finding]:
    name = type(mandate).__name__
    if mandate.exp is not None and now_ms >= mandate.exp * 1000:
        yield Finding(FindingCode.EXPIRED, f"{name}.exp", f"expired at {moment_of(mandate.exp)}")
    if mandate.iat is not None and now_ms + CLOCK_SKEW_MS < mandate.iat * 1000:
        said = f"it is from {moment_of(mandate.iat)}, which is in the future"
        yield Finding(FindingCode.NOT_YET_VALID, f"{name}.iat", said)


def _required(
    constraints: Iterable[Document], kind: type[Document], name: str
) -> Iterator[Finding]:
    if not any(isinstance(one, kind) for one in constraints):
        yield Finding(
            FindingCode.CONSTRAINT_MISSING,
            "constraints",
            f"an open mandate holds {name}, and this one does not",
        )


def _presets(open_mandate: OpenPaymentMandate, payment: PaymentMandate) -> Iterator[Finding]:
    """What the user fixed must be what the payment says, member by member."""
    for name in ("payee", "payment_amount", "payment_instrument", "pisp", "execution_date"):
        fixed, given = _plain(getattr(open_mandate, name)), _plain(getattr(payment, name))
        if fixed is not None and fixed != given:
            yield Finding(FindingCode.PRESET, name, f"the user fixed {fixed!r}; it is {given!r}")


def _plain(value: Any) -> Any:
    return value.document() if isinstance(value, Document) else value


def _understood(where: str, constraint: Document) -> Iterator[Finding]:
    if isinstance(constraint, UnknownConstraint):
        said = "nobody here knows how to check it, so what it forbids is not known"
        yield Finding(FindingCode.UNKNOWN_CONSTRAINT, where, said)
    elif constraint.model_extra:
        names = ", ".join(sorted(constraint.model_extra))
        said = f"it has members that nobody here knows: {names}"
        yield Finding(FindingCode.UNKNOWN_MEMBER, where, said)


def _payment(
    where: str, constraint: Document, payment: PaymentMandate, now_ms: int, digest: str | None
) -> Iterator[Finding]:
    yield from _understood(where, constraint)
    match constraint:
        case AmountRange():
            yield from _amount(where, constraint, payment.payment_amount)
        case AllowedPayees():
            yield from _allowed(where, constraint.allowed, payment.payee, FindingCode.PAYEE)
        case AllowedInstruments():
            used = payment.payment_instrument
            yield from _allowed(where, constraint.allowed, used, FindingCode.INSTRUMENT)
        case AllowedPisps():
            yield from _allowed(where, constraint.allowed, payment.pisp, FindingCode.PISP)
        case ExecutionDate():
            yield from _execution(where, constraint, payment.execution_date, now_ms)
        case Reference():
            if digest != constraint.conditional_transaction_id:
                said = f"it names {constraint.conditional_transaction_id!r}; the open checkout "
                said += "mandate was not given" if digest is None else f"mandate is {digest!r}"
                yield Finding(FindingCode.REFERENCE, where, said)
        case _:
            return  # unknown ones are found above, recurrence and budget need the usage


def _checkout(where: str, constraint: Document, checkout: Checkout) -> Iterator[Finding]:
    yield from _understood(where, constraint)
    if isinstance(constraint, AllowedMerchants):
        yield from _allowed(where, constraint.allowed, checkout.merchant, FindingCode.MERCHANT)
    elif isinstance(constraint, LineItems):
        yield from _line_items(where, constraint, checkout)


def _amount(where: str, limits: AmountRange, amount: Amount) -> Iterator[Finding]:
    if amount.currency != limits.currency:
        said = f"the payment is in {amount.currency}, and {limits.currency} is allowed"
        yield Finding(FindingCode.CURRENCY, where, said)
        return
    least = 0 if limits.min is None else limits.min
    if not least <= amount.amount <= limits.max:
        yield Finding(
            FindingCode.AMOUNT,
            where,
            f"{amount.amount} is outside {least} to {limits.max} (minor units of "
            f"{limits.currency})",
        )


def _allowed(
    where: str, allowed: Iterable[Document], given: Document | None, code: FindingCode
) -> Iterator[Finding]:
    shown = [one for one in allowed if not isinstance(one, Undisclosed)]
    if not shown:
        yield Finding(FindingCode.NOTHING_DISCLOSED, where, "no element of `allowed` is disclosed")
    elif given is None:
        yield Finding(code, where, "the mandate names none")
    elif not any(_same(one, given) for one in shown):
        yield Finding(code, where, f"{given.document()!r} is not allowed")


def _same(allowed: Document, given: Document) -> bool:
    """Say whether two entries are the same party or thing.

    A merchant without an id is nobody: names and websites can be written by anyone, so they only
    ever narrow, and where the user named a website the payee's must be that one.
    """
    if isinstance(allowed, Merchant) and isinstance(given, Merchant):
        same_place = allowed.website is None or allowed.website == given.website
        return bool(allowed.id) and allowed.id == given.id and same_place
    said, meant = given.document(), allowed.document()
    names = [name for name in meant if name != "description"]  # for people to read
    return all(name in said and said[name] == meant[name] for name in names)


def _execution(
    where: str, limits: ExecutionDate, given: str | None, now_ms: int
) -> Iterator[Finding]:
    try:
        begin, end = (now_ms, now_ms) if given is None else span_of(given)
        earliest = None if limits.not_before is None else span_of(limits.not_before)[0]
        latest = None if limits.not_after is None else span_of(limits.not_after)[1]
    except DateError as error:
        yield Finding(FindingCode.EXECUTION_DATE, where, str(error))
        return
    if (earliest is not None and begin < earliest) or (latest is not None and end > latest):
        window = f"{limits.not_before or 'any time'} to {limits.not_after or 'any time'}"
        said = f"{'now' if given is None else given} is not within {window}"
        yield Finding(FindingCode.EXECUTION_DATE, where, said)


def _recurrence(
    where: str, limits: AgentRecurrence, usage: Usage, now_ms: int
) -> Iterator[Finding]:
    most = limits.max_occurrences
    if most is not None and usage.occurrences >= most:
        said = f"{usage.occurrences} payments were presented, and {most} are allowed"
        yield Finding(FindingCode.RECURRENCE, where, said)
    if usage.last_at_ms is None:
        return
    earliest = next_at(usage.last_at_ms, limits.frequency)
    if earliest is not None and now_ms < earliest:
        said = f"{limits.frequency}: the next payment may be at {moment_of(earliest / 1000)}"
        yield Finding(FindingCode.RECURRENCE, where, said)


def _budget(where: str, limits: Budget, amount: Amount, usage: Usage) -> Iterator[Finding]:
    if amount.currency != limits.currency:
        said = f"the payment is in {amount.currency}, and the budget in {limits.currency}"
        yield Finding(FindingCode.CURRENCY, where, said)
        return
    try:
        most = minor_units(limits.max_text, limits.currency)
    except (AP2CurrencyError, AP2MandateError) as error:
        yield Finding(FindingCode.CONSTRAINT_UNUSABLE, where, str(error))
        return
    spent = usage.spent_minor.get(amount.currency, 0)
    if spent + amount.amount > most:
        spent_text, more, most_text = (
            decimal_text(value, amount.currency) for value in (spent, amount.amount, most)
        )
        said = f"{spent_text} spent or held and {more} more is above {most_text} {amount.currency}"
        yield Finding(FindingCode.BUDGET, where, said)


def _line_items(where: str, limits: LineItems, checkout: Checkout) -> Iterator[Finding]:
    required = [
        (
            one.quantity,
            frozenset(i.id for i in one.acceptable_items if not isinstance(i, Undisclosed)),
        )
        for one in limits.items
    ]
    for requirement, (_, acceptable) in zip(limits.items, required, strict=True):
        if requirement.model_extra or not acceptable:
            code = (
                FindingCode.UNKNOWN_MEMBER
                if requirement.model_extra
                else FindingCode.NOTHING_DISCLOSED
            )
            said = f"requirement {requirement.id!r}: members that nobody here knows, or nothing "
            yield Finding(code, where, f"{said}disclosed")
    available: Counter[str] = Counter()
    for line in checkout.line_items:
        available[line.item.id] += line.quantity
    wanted, there = sum(quantity for quantity, _ in required), available.total()
    if not wanted == there == most_assigned(required, available):
        yield Finding(
            FindingCode.LINE_ITEMS,
            where,
            f"{wanted} pieces are required and {there} are in the checkout; "
            f"{most_assigned(required, available)} of them can be assigned",
        )
