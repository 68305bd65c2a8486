"""Constraints of open mandates: each kept and each broken, and nothing unknown let through."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ap2.v02 import (
    CARD,
    DIGEST,
    HIDDEN,
    NOW_MS,
    NOW_S,
    SHOP,
    allowed,
    amount,
    budget,
    checkout,
    checkout_mandate,
    needs,
    open_checkout,
    open_payment,
    payment,
    recurring,
)
from bursar.ap2.constraints import check_checkout, check_pair, check_payment
from bursar.ap2.dates import DateError, next_at, span_of
from bursar.ap2.errors import AP2MandateError
from bursar.ap2.findings import Finding, FindingCode, Usage

PISP = {"legal_name": "Pay Ltd.", "brand_name": "Pay", "domain_name": "pay.example"}
RANGE = {"type": "payment.amount_range", "currency": "USD", "max": 20_000, "min": 100}
PAYEES, MERCHANTS = "payment.allowed_payees", "checkout.allowed_merchants"
INSTRUMENTS, PISPS = "payment.allowed_payment_instruments", "payment.allowed_pisps"
DATES = {"type": "payment.execution_date"}


def found(
    *constraints: dict[str, Any],
    fields: dict[str, Any] | None = None,
    now_ms: int = NOW_MS,
    usage: Usage | None = None,
    digest: str | None = DIGEST,
    **said: Any,
) -> tuple[Finding, ...]:
    """Return what is wrong with a payment under an open mandate of these constraints."""
    return check_payment(
        open_payment(*constraints, **(fields or {})),
        payment(**said),
        now_ms=now_ms,
        usage=usage or Usage(),
        open_checkout_digest=digest,
    )


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code.value for finding in findings]


KEPT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (RANGE, {}),
    (RANGE, {"payment_amount": amount(100)}),
    (RANGE, {"payment_amount": amount(20_000)}),
    ({"type": "payment.amount_range", "currency": "USD", "max": 0}, {"payment_amount": amount(0)}),
    (allowed(PAYEES, SHOP), {}),
    (allowed(PAYEES, HIDDEN, {"id": "other"}, SHOP), {}),
    (allowed(PAYEES, {"id": "shop-1"}), {}),
    (allowed(PAYEES, {**SHOP, "name": "Another name"}), {}),
    (allowed(INSTRUMENTS, CARD), {}),
    (allowed(INSTRUMENTS, {**CARD, "description": "Another"}), {}),
    (allowed(INSTRUMENTS, {"id": "card-1", "type": "card"}), {}),
    (allowed(PISPS, PISP), {"pisp": PISP}),
    (budget(199), {}),
    (budget(199.00), {}),
    (DATES, {}),
    ({**DATES, "not_before": "2026-01-01", "not_after": "2026-12-31"}, {}),
    ({**DATES, "not_after": "2026-12-31"}, {"execution_date": "2026-12-31"}),
    ({**DATES, "not_before": "2026-12-31"}, {"execution_date": "2026-12-31"}),
    ({**DATES, "not_after": "2026-12-31"}, {"execution_date": "2026-12-31T23:59:59Z"}),
    ({**DATES, "not_after": "2026-12-31"}, {"execution_date": "2027-01-01T00:30:00+01:00"}),
]


@pytest.mark.parametrize(("constraint", "said"), KEPT, ids=str)
def test_kept(constraint: dict[str, Any], said: dict[str, Any]) -> None:
    assert found(constraint, **said) == ()


BROKEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("amount", RANGE, {"payment_amount": amount(99)}),
    ("amount", RANGE, {"payment_amount": amount(20_001)}),
    ("currency", RANGE, {"payment_amount": amount(200, "EUR")}),
    ("payee", allowed(PAYEES, {"id": "other"}), {}),
    ("payee", allowed(PAYEES, SHOP), {"payee": {**SHOP, "id": "shop-2"}}),
    # A merchant that writes the shop's id, name and not its address is not the shop.
    ("payee", allowed(PAYEES, SHOP), {"payee": {**SHOP, "website": "https://evil.example"}}),
    ("payee", allowed(PAYEES, SHOP), {"payee": {"name": "The shop"}}),
    ("payee", allowed(PAYEES, {"name": "The shop"}), {"payee": {"name": "The shop"}}),
    ("payee", allowed(PAYEES, {"id": ""}), {"payee": {"id": ""}}),
    ("nothing_disclosed", allowed(PAYEES), {}),
    ("nothing_disclosed", allowed(PAYEES, HIDDEN), {}),
    ("instrument", allowed(INSTRUMENTS, {**CARD, "id": "card-2"}), {}),
    ("instrument", allowed(INSTRUMENTS, {**CARD, "type": "UPI"}), {}),
    ("instrument", allowed(INSTRUMENTS, {**CARD, "network": "n"}), {}),
    ("pisp", allowed(PISPS, PISP), {}),
    ("pisp", allowed(PISPS, PISP), {"pisp": {**PISP, "domain_name": "evil.example"}}),
    ("budget", budget(198.99), {}),
    ("currency", budget(500, "EUR"), {}),
    ("constraint_unusable", budget(500.005), {}),
    ("execution_date", {**DATES, "not_after": "2026-01-01"}, {}),
    ("execution_date", {**DATES, "not_before": "2027-01-01"}, {}),
    ("execution_date", {**DATES, "not_after": "2026-12-30"}, {"execution_date": "2026-12-31"}),
    (
        "execution_date",
        {**DATES, "not_before": "2026-12-31T12:00:00Z"},
        {"execution_date": "2026-12-31"},  # the whole day has to fit
    ),
    ("execution_date", {**DATES, "not_after": "soon"}, {}),
    ("execution_date", DATES, {"execution_date": "2026-12-31T12:00:00"}),
    ("unknown_constraint", {"type": "payment.mood", "mood": "good"}, {}),
    ("unknown_constraint", {"type": "payment.Budget", "max": 1, "currency": "USD"}, {}),
    ("unknown_constraint", needs((1, ("a",))), {}),
    ("unknown_member", {**RANGE, "per": "DAY"}, {}),
    ("unknown_member", {**budget(500), "note": None}, {}),
]


@pytest.mark.parametrize(("code", "constraint", "said"), BROKEN, ids=str)
def test_broken(code: str, constraint: dict[str, Any], said: dict[str, Any]) -> None:
    """Exactly one finding, and it says where."""
    findings = found(constraint, **said)
    assert codes(findings) == [code]
    assert findings[0].where == f"constraints[0] {constraint['type']}"
    assert str(findings[0]) == f"{findings[0].where}: {findings[0].message}"


def test_every_finding_is_told() -> None:
    """One does not hide another."""
    findings = found(RANGE, allowed(PAYEES, {"id": "x"}), payment_amount=amount(1), digest=None)
    assert codes(findings) == ["amount", "payee", "reference"]
    assert [finding.where for finding in findings] == [
        "constraints[0] payment.amount_range",
        "constraints[1] payment.allowed_payees",
        "constraints[2] payment.reference",
    ]


def test_the_reference_is_the_open_checkout_in_the_chain() -> None:
    assert found() == ()
    assert codes(found(digest="other")) == ["reference"]
    assert "was not given" in found(digest=None)[0].message
    assert codes(found(fields={"reference": False})) == ["constraint_missing"]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"exp": NOW_S + 1}, []),
        ({"exp": NOW_S}, ["expired"]),
        ({"exp": 0}, ["expired"]),
        ({"iat": NOW_S + 60}, []),
        ({"iat": NOW_S + 61}, ["not_yet_valid"]),
        ({"iat": NOW_S + 61, "exp": NOW_S}, ["expired", "not_yet_valid"]),
    ],
)
def test_times(times: dict[str, int], expected: list[str]) -> None:
    """Both mandates must be in force; a clock may be a minute ahead."""
    assert codes(found(fields=times)) == expected
    assert codes(found(**times)) == expected


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("payee", SHOP, {**SHOP, "name": "x"}),
        ("payment_amount", amount(19_900), amount(19_901)),
        ("payment_instrument", CARD, {**CARD, "id": "x"}),
        ("pisp", PISP, None),
        ("execution_date", "2026-12-31", "2026-12-30"),
    ],
)
def test_what_the_user_fixed_stays(name: str, value: Any, other: Any) -> None:
    """Member by member the same; a member that the payment lacks is not the same."""
    assert found(fields={name: value}, **{name: value}) == ()
    changed = {} if other is None else {name: other}
    assert codes(found(fields={name: value}, **changed)) == ["preset"]


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("frequency", "last", "next_one"),
    [
        ("DAILY", "2026-02-28T10:00:00", "2026-03-01T10:00:00"),
        ("WEEKLY", "2026-12-28T10:00:00", "2027-01-04T10:00:00"),
        ("BIWEEKLY", "2026-01-01T00:00:00", "2026-01-15T00:00:00"),
        ("MONTHLY", "2026-01-31T10:00:00", "2026-02-28T10:00:00"),
        ("MONTHLY", "2024-01-31T10:00:00", "2024-02-29T10:00:00"),
        ("MONTHLY", "2026-12-15T10:00:00", "2027-01-15T10:00:00"),
        ("QUARTERLY", "2026-11-30T10:00:00", "2027-02-28T10:00:00"),
        ("ANNUALLY", "2024-02-29T10:00:00", "2025-02-28T10:00:00"),
    ],
)
def test_payments_are_a_period_apart(frequency: str, last: str, next_one: str) -> None:
    """Allowed from that very millisecond on, and not before."""
    usage = Usage(1, {"USD": 1}, at(last))
    assert found(recurring(frequency), usage=usage, now_ms=at(next_one)) == ()
    assert codes(found(recurring(frequency), usage=usage, now_ms=at(next_one) - 1)) == [
        "recurrence"
    ]


def test_on_demand_has_no_period() -> None:
    """Nor has it an order: clocks of two processes may differ."""
    for last in (NOW_MS - 1, NOW_MS, NOW_MS + 1):
        assert found(recurring(), usage=Usage(1, {"USD": 1}, last)) == ()
        assert next_at(last, "ON_DEMAND") is None


def test_occurrences_are_limited() -> None:
    twice = recurring(max_occurrences=2)
    assert found(twice, usage=Usage(1, {}, 0)) == ()
    assert codes(found(twice, usage=Usage(2, {}, 0))) == ["recurrence"]
    assert found(recurring(), usage=Usage(10**6, {}, 0)) == ()


def test_without_recurrence_once_is_all() -> None:
    assert codes(found(usage=Usage(1, {}, 0))) == ["consumed"]
    assert codes(found(budget(10**6), usage=Usage(1, {"USD": 1}, 0))) == ["consumed"]


def test_the_budget_is_over_all_payments() -> None:
    """Its unit is the major one; what is held counts like what is spent."""
    both = (recurring(), budget(300.5))
    assert found(*both, usage=Usage(1, {"USD": 30_050 - 19_900}, 0)) == ()
    findings = found(*both, usage=Usage(1, {"USD": 30_050 - 19_900 + 1, "EUR": 5}, 0))
    assert codes(findings) == ["budget"]
    assert "101.51 spent or held and 199.00 more is above 300.50 USD" in findings[0].message


@pytest.mark.parametrize(
    ("most", "currency", "minor"),
    [(0.1, "USD", 10), (0.29, "USD", 29), (1000, "JPY", 1000), (1.005, "KWD", 1005)],
)
def test_a_budget_is_exact(most: float, currency: str, minor: int) -> None:
    """0.29 x 100 is 28.999... in floating point, and 29 cents here."""
    there = {"payment_amount": amount(minor, currency)}
    more = {"payment_amount": amount(minor + 1, currency)}
    assert found(budget(most, currency), **there) == ()
    assert codes(found(budget(most, currency), **more)) == ["budget"]


ITEMS = needs((2, ("a", "b")), (1, ("a",)))


def bought(constraint: dict[str, Any], *lines: tuple[str, int], merchant: Any = SHOP) -> list[str]:
    return codes(
        check_checkout(
            open_checkout(needs((1, ("a",))) if constraint is None else constraint, ITEMS)
            if constraint["type"] == MERCHANTS
            else open_checkout(constraint),
            checkout_mandate(),
            checkout(*lines, merchant=merchant),
            now_ms=NOW_MS,
        )
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((("a", 3),), []),
        ((("b", 2), ("a", 1)), []),
        ((("a", 1), ("a", 1), ("b", 1)), []),
        ((("b", 3),), ["line_items"]),
        ((("a", 2),), ["line_items"]),
        ((("a", 4),), ["line_items"]),
        ((("a", 3), ("c", 1)), ["line_items"]),
        ((), ["line_items"]),
    ],
)
def test_line_items(lines: tuple[tuple[str, int], ...], expected: list[str]) -> None:
    """All that is required, nothing else, and no piece twice."""
    assert bought(ITEMS, *lines) == expected


def test_merchants() -> None:
    here = allowed(MERCHANTS, SHOP, HIDDEN)
    lines = (("a", 3),)
    assert bought(here, *lines) == []
    assert bought(here, *lines, merchant={**SHOP, "id": "x"}) == ["merchant"]
    assert bought(here, *lines, merchant=None) == ["merchant"]
    assert bought(allowed(MERCHANTS, HIDDEN), *lines) == ["nothing_disclosed"]


def test_undisclosed_articles_are_not_acceptable() -> None:
    hidden = needs((1, ("a",)))
    hidden["items"][0]["acceptable_items"] = [HIDDEN]
    assert bought(hidden, ("a", 1)) == ["nothing_disclosed", "line_items"]
    more = needs((1, ("a",)))
    more["items"][0]["max_price"] = 5
    assert bought(more, ("a", 1)) == ["unknown_member"]


def test_unknown_checkout_constraints_are_refused() -> None:
    both = open_checkout(ITEMS, {"type": "checkout.colour", "colour": "red"})
    findings = check_checkout(both, checkout_mandate(), checkout(("a", 3)), now_ms=NOW_MS)
    assert codes(findings) == ["unknown_constraint"]
    none = open_checkout(allowed(MERCHANTS, SHOP))
    findings = check_checkout(none, checkout_mandate(), checkout(("a", 3)), now_ms=NOW_MS)
    assert codes(findings) == ["constraint_missing"]


def test_a_checkout_is_the_one_that_was_signed() -> None:
    """Its hash, its times, and the payment for it."""
    goods = checkout(("a", 3))
    right, wrong = checkout_mandate(), checkout_mandate(checkout_hash="x")
    assert check_checkout(None, right, goods, now_ms=NOW_MS) == ()
    assert codes(check_checkout(None, wrong, goods, now_ms=NOW_MS)) == ["checkout"]
    late = checkout_mandate(exp=NOW_S)
    assert codes(check_checkout(None, late, goods, now_ms=NOW_MS)) == ["expired"]
    assert check_pair(payment(transaction_id=right.computed_hash), right) == ()
    assert codes(check_pair(payment(), right)) == ["checkout"]
    assert codes(check_pair(payment(transaction_id="x"), wrong)) == ["checkout"]


def test_every_code_is_reached() -> None:
    """Each kind of finding has a case above."""
    reached = {code for code, _, _ in BROKEN} | {"reference", "constraint_missing", "expired"}
    reached |= {"not_yet_valid", "preset", "recurrence", "consumed", "line_items", "merchant"}
    assert reached | {"checkout"} == {code.value for code in FindingCode}


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "2026-02-30", "2026-01-01T25:00Z", "1"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(DateError, match="not an ISO 8601 date or time"):
        span_of(text)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), -1, 1.5, True, "1", None])
def test_a_time_or_a_count_that_is_none(bad: Any) -> None:
    """NaN is before every expiry and below every limit: it is refused, and so is its like."""
    with pytest.raises(AP2MandateError, match="now_ms must be an int"):
        found(now_ms=bad)
    with pytest.raises(AP2MandateError, match="occurrences must be an int"):
        Usage(occurrences=bad)
    with pytest.raises(AP2MandateError, match="spent_minor"):
        Usage(spent_minor={"USD": bad})
