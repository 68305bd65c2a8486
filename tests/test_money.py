"""Money is read exactly or refused, no conversion loses a fraction, and unknown stays unknown."""

from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bursar.invariant import InvariantBroken, require
from bursar.money import (
    USD,
    AmountError,
    Rounding,
    Unpriced,
    checked,
    parse,
    show,
    to_microcents,
    total,
)
from bursar.vocabulary import AMOUNT_MAX, Unit

AMOUNTS = st.integers(0, AMOUNT_MAX)


@pytest.mark.parametrize(
    ("written", "unit", "amount"),
    [
        ("20USD", Unit.USD_MICROCENTS, 20 * USD),
        ("$0.50", Unit.USD_MICROCENTS, USD // 2),
        ("$ 1,234.5", Unit.USD_MICROCENTS, 123_450_000_000),
        ("$5 usd", Unit.USD_MICROCENTS, 5 * USD),
        ("$1.5k", Unit.USD_MICROCENTS, 1_500 * USD),
        ("0.00000001 USD", Unit.USD_MICROCENTS, 1),
        ("100 microcents", Unit.USD_MICROCENTS, 100),
        ("100microcents", Unit.USD_MICROCENTS, 100),
        ("3m microcents", Unit.USD_MICROCENTS, 3_000_000),
        ("7 USD_MICROCENTS", Unit.USD_MICROCENTS, 7),
        ("1.5M tokens", Unit.TOKENS, 1_500_000),
        ("1.5mtokens", Unit.TOKENS, 1_500_000),
        ("2 b tokens", Unit.TOKENS, 2_000_000_000),
        ("1 token", Unit.TOKENS, 1),
        ("3 credits", Unit.CREDITS, 3),
        ("1k risk_points", Unit.RISK_POINTS, 1_000),
        ("12 points", Unit.RISK_POINTS, 12),
        ("  0 tokens \n", Unit.TOKENS, 0),
        ("1_000_000 tokens", Unit.TOKENS, 1_000_000),
        ("9007199254740993 tokens", Unit.TOKENS, 2**53 + 1),
        ("9223372036854775807 tokens", Unit.TOKENS, AMOUNT_MAX),
        ("10b usd", Unit.USD_MICROCENTS, 10**10 * USD),
        ("92233720368.54775807USD", Unit.USD_MICROCENTS, AMOUNT_MAX),
    ],
)
def test_parse_reads(written: str, unit: Unit, amount: int) -> None:
    """What people write for an amount is read as exactly that amount."""
    assert parse(written) == (unit, amount)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "cannot read '' as an amount"),
        ("twenty", "write it like 20USD"),
        ("-5USD", "is negative, and an amount is at least 0"),
        ("+5USD", "cannot read"),
        (".5USD", "cannot read"),
        ("5.USD", "cannot read"),
        ("1e9USD", "cannot read"),
        ("NaN USD", "cannot read"),
        ("0,50USD", "cannot read"),
        ("1,23,456 tokens", "cannot read"),
        ("1__000 tokens", "cannot read"),
        ("1_ tokens", "cannot read"),
        ("5 USD 6", "cannot read"),
        ("\u0665 tokens", "cannot read"),  # a digit, but not one of ours
        ("1" * 65, "cannot read"),
        ("5", "has no unit"),
        ("5k", "has no unit"),
        ("5 bananas", "unknown unit 'bananas'"),
        ("5 eur", "known units: credit, credits"),
        ("5 m eur", "unknown unit 'm eur'"),
        ("$5 tokens", "write either $ or tokens"),
        ("$5 microcents", "write either $ or microcents"),
        ("1.5 tokens", "finer than one TOKENS"),
        ("0.000000001USD", "finer than one USD_MICROCENTS"),
        ("1.0000000000000000000000000000000000001 tokens", "finer than one TOKENS"),
        ("9223372036854775808 tokens", "outside 0..9223372036854775807"),
        ("92233720368.54775808USD", "outside 0..9223372036854775807"),
        ("100b usd", "outside"),
    ],
)
def test_parse_refuses(written: str, says: str) -> None:
    """What is ambiguous, too fine or too large is refused, and the message says why."""
    with pytest.raises(AmountError) as refused:
        parse(written)
    assert says in str(refused.value)


@pytest.mark.parametrize("unit", Unit)
def test_bare_number_takes_the_default_unit(unit: Unit) -> None:
    """A bare number is read in the unit that the caller names; a written unit wins over it."""
    assert parse("12_000", default=unit) == (unit, 12_000)
    assert parse("1.2k", default=unit) == (unit, 1_200)
    assert parse("1 credit", default=unit) == (Unit.CREDITS, 1)
    assert parse("$1", default=unit) == (Unit.USD_MICROCENTS, USD)


@given(AMOUNTS, st.sampled_from(Unit))
def test_what_is_shown_can_be_read_back(amount: int, unit: Unit) -> None:
    """`parse(show(x))` is x for every amount of every unit."""
    assert parse(show(amount, unit)) == (unit, amount)


@given(
    st.decimals(min_value=0, max_value=10**12, allow_nan=False, allow_infinity=False, places=12),
    st.sampled_from([("", 1), ("k", 10**3), ("M", 10**6), ("b", 10**9)]),
    st.sampled_from([("usd", USD, Unit.USD_MICROCENTS), ("tokens", 1, Unit.TOKENS)]),
)
@example(Decimal("0.000000001"), ("k", 10**3), ("usd", USD, Unit.USD_MICROCENTS))
def test_parse_is_exact_or_refuses(
    number: Decimal, scale: tuple[str, int], unit: tuple[str, int, Unit]
) -> None:
    """A written number is read as the exact product, or refused where that is no int64."""
    exact = Fraction(number) * scale[1] * unit[1]
    written = f"{number:f}{scale[0]} {unit[0]}"
    if exact.denominator == 1 and exact <= AMOUNT_MAX:
        assert parse(written) == (unit[2], int(exact))
    else:
        with pytest.raises(AmountError):
            parse(written)


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (0, Unit.USD_MICROCENTS, "$0.00"),
        (1, Unit.USD_MICROCENTS, "$0.00000001"),
        (1_250_000_000, Unit.USD_MICROCENTS, "$12.50"),
        (-1_250_000_000, Unit.USD_MICROCENTS, "-$12.50"),
        (AMOUNT_MAX, Unit.USD_MICROCENTS, "$92,233,720,368.54775807"),
        (1_500, Unit.TOKENS, "1,500 tokens"),
        (-3, Unit.CREDITS, "-3 credits"),
        (7, Unit.RISK_POINTS, "7 risk_points"),
    ],
)
def test_show(amount: int, unit: Unit, text: str) -> None:
    """Amounts are shown exactly, debts included."""
    assert show(amount, unit) == text


@pytest.mark.parametrize(
    ("usd", "rounding", "microcents"),
    [
        ("0", Rounding.UP, 0),
        ("-0", Rounding.UP, 0),
        ("1E+9", Rounding.UP, 10**17),
        ("0.000000001", Rounding.UP, 1),
        ("0.000000001", Rounding.HALF_UP, 0),
        ("0.000000005", Rounding.HALF_UP, 1),
        ("0.0000000149999", Rounding.HALF_UP, 1),
        ("1E-2000000", Rounding.UP, 1),
        ("1E-2000000", Rounding.HALF_UP, 0),
        ("1." + "0" * 70 + "1", Rounding.UP, USD + 1),
        ("0.49" + "9" * 70 + "E-8", Rounding.HALF_UP, 0),
        ("92233720368.54775807", Rounding.UP, AMOUNT_MAX),
    ],
)
def test_to_microcents(usd: str, rounding: Rounding, microcents: int) -> None:
    """Dollars become microcents under the named rounding, however many digits they have."""
    assert to_microcents(Decimal(usd), rounding) == microcents


@pytest.mark.parametrize(
    "usd",
    ["-0.01", "NaN", "sNaN", "Infinity", "-Infinity", "92233720368.547758071", "1E+999999"],
)
def test_to_microcents_refuses(usd: str) -> None:
    """A price that is negative, not a number or beyond int64 is refused, never clamped."""
    with pytest.raises(AmountError):
        to_microcents(Decimal(usd))


def halves_up(value: Fraction) -> int:
    return int(value + Fraction(1, 2))


@pytest.mark.parametrize(
    ("rounding", "model"), [(Rounding.UP, ceil), (Rounding.HALF_UP, halves_up)], ids=["up", "half"]
)
@given(usd=st.decimals(0, 90_000_000_000, allow_nan=False, allow_infinity=False))
def test_to_microcents_agrees_with_fractions(
    rounding: Rounding, model: Callable[[Fraction], int], usd: Decimal
) -> None:
    """Conversion equals exact rational arithmetic, also where the caller's precision is small."""
    with localcontext() as context:
        context.prec = 3
        assert to_microcents(usd, rounding) == model(Fraction(usd) * USD)


@pytest.mark.parametrize("amount", [-1, AMOUNT_MAX + 1, -(2**63)])
def test_checked_refuses(amount: int) -> None:
    """An amount outside the protocol's range is named with the range."""
    with pytest.raises(AmountError, match=rf"amount {amount} is outside 0\.\.{AMOUNT_MAX}"):
        checked(amount)


@given(AMOUNTS)
@example(0)
@example(AMOUNT_MAX)
def test_checked_returns_what_fits(amount: int) -> None:
    """Every amount in the range passes unchanged."""
    assert checked(amount) == amount


@given(st.lists(AMOUNTS))
def test_total_is_the_exact_sum(parts: list[int]) -> None:
    """A sum of known amounts is exact, beyond int64 too."""
    assert total(parts) == sum(parts)


@given(st.lists(AMOUNTS), st.lists(AMOUNTS))
def test_one_unpriced_part_makes_the_sum_unpriced(before: list[int], after: list[int]) -> None:
    """An unknown cost is never zero and never skipped; the sum says the first reason."""
    unknown = Unpriced("no price for model x")
    assert total([*before, unknown, *after, Unpriced("another")]) == unknown


def test_require_raises_only_for_what_is_false() -> None:
    """`require` says what was believed, and it is not an assertion that -O could strip."""
    require(True, "one is one")
    with pytest.raises(InvariantBroken, match="invariant broken: one is two") as broken:
        require(False, "one is two")
    assert not isinstance(broken.value, AssertionError)
