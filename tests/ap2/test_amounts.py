"""Amounts are exact or refused; there is nothing in between."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ap2.mandates import mandate, official
from bursar.ap2 import AP2CurrencyError, AP2MandateError
from bursar.ap2.amounts import exact_decimal, usd_microcents, validate_micros
from bursar.vocabulary import AMOUNT_MAX

EXACT = {
    "0": 0,
    "0.00000001": 1,
    "1.12345678": 112_345_678,
    "199.00": 19_900_000_000,
    "92233720368.54775807": AMOUNT_MAX,
    "1E2": 10_000_000_000,
    "+5": 500_000_000,
    "007.50": 750_000_000,
    "1_000": 100_000_000_000,
    "\u0663.\u0665": 350_000_000,
}
REFUSED = {
    "": "not a valid decimal",
    "abc": "not a valid decimal",
    "1,000": "not a valid decimal",
    "0x10": "not a valid decimal",
    "NaN": "finite",
    "sNaN": "finite",
    "Infinity": "finite",
    "-Infinity": "finite",
    "-1": "non-negative",
    "-0": "non-negative",
    "-0.0": "non-negative",
    "0.000000001": "more than 8 decimal places",
    "1.000000000": "more than 8 decimal places",
    "0E-9": "more than 8 decimal places",
    "92233720368.54775808": "int64",
    "1E+1000000000000": "int64",
    "0E+1000000000000": "int64",
    "1E+99999999999999999999999": "not a valid decimal",
    "99999999999999999999": "int64",
}


@pytest.mark.parametrize(("text", "microcents"), EXACT.items())
def test_an_amount_is_exact(text: str, microcents: int) -> None:
    """What fits is converted without a rest."""
    assert usd_microcents(text) == microcents


@pytest.mark.parametrize(("text", "said"), REFUSED.items())
def test_an_amount_that_does_not_fit_is_refused(text: str, said: str) -> None:
    """The error is typed, is a ValueError too, and says what is wrong."""
    with pytest.raises(AP2MandateError, match=said) as refused:
        usd_microcents(text)
    assert isinstance(refused.value, ValueError)


@given(st.integers(0, 2 * AMOUNT_MAX))
def test_every_microcent_survives_the_way_through_text(microcents: int) -> None:
    """An int64 of microcents comes back as it was; a larger one is refused."""
    with localcontext(prec=60):
        text = str(Decimal(microcents).scaleb(-8))
    if microcents <= AMOUNT_MAX:
        assert usd_microcents(text) == microcents
    else:
        with pytest.raises(AP2MandateError, match="int64"):
            usd_microcents(text)


@given(st.decimals(allow_nan=True, allow_infinity=True) | st.text(max_size=20))
def test_every_text_means_what_it_means_to_the_official_guard(value: object) -> None:
    """The same amount, or the same kind of refusal in the same words."""
    text = str(value).strip()
    if not 1 <= len(text) <= 64:
        return
    found: list[object] = []
    for made in (mandate(amount_value=text), official(amount_value=text)):
        try:
            found.append(made.amount_micros())
        except ValueError as refused:
            found.append((type(refused).__name__, str(refused)))
    if found[0] != found[1]:  # it looks for a sign after the value, so it says "-NaN" otherwise
        assert isinstance(found[0], tuple)
        assert isinstance(found[1], tuple)
        assert found[0][0] == found[1][0]


def test_a_coefficient_and_an_exponent() -> None:
    """The two integers of a decimal, whatever the decimal context is."""
    with localcontext(prec=1):
        assert exact_decimal("123456789.50") == (12345678950, -2)


@pytest.mark.parametrize("bad", [True, False, 1.5, 1.0, "100", None, [100], -1, AMOUNT_MAX + 1])
def test_a_given_amount_is_a_whole_number(bad: object) -> None:
    """Anything but an int64 of at least 0 is refused by name."""
    with pytest.raises(AP2MandateError, match="actual amount"):
        validate_micros(bad, field="actual amount")


def test_the_largest_amount_is_one() -> None:
    """The limits themselves pass."""
    assert validate_micros(AMOUNT_MAX, field="x") == AMOUNT_MAX
    assert validate_micros(0, field="x") == 0


def test_another_currency_is_refused() -> None:
    """Without a rate there is no amount in dollars; the spelling of USD is free."""
    assert mandate(currency="usd").amount_micros() == 19_900_000_000
    with pytest.raises(AP2CurrencyError, match="USD only; got 'EUR'"):
        mandate(currency="EUR").amount_micros()
