"""Other currencies: exact, dated, and refused by default."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bursar.ap2 import AP2CurrencyError, AP2MandateError, ExchangeRate
from bursar.ap2.currencies import (
    EXPONENTS,
    decimal_text,
    exponent_of,
    minor_units,
    to_usd_microcents,
)

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
MAX = 2**63 - 1
HOUR = timedelta(hours=1)


def rate(base: str = "EUR", numerator: int = 10_837, denominator: int = 10_000) -> ExchangeRate:
    return ExchangeRate(base, "USD", numerator, denominator, NOW, "the bank", HOUR)


def convert(value: str, currency: str, by: ExchangeRate | None, now_ms: int = NOW_MS) -> int:
    return to_usd_microcents(value, currency, by, now_ms=now_ms)


@pytest.mark.parametrize(
    ("currency", "places"),
    [
        *(("USD", 2), ("EUR", 2), ("JPY", 0), ("KRW", 0), ("ISK", 0), ("KWD", 3), ("BHD", 3)),
        *(("TND", 3), ("CLF", 4), ("UYW", 4), ("CLP", 0), ("HUF", 2), ("IDR", 2), ("XOF", 0)),
        *(("MGA", 2), ("MRU", 2), ("XCG", 2), ("ZWG", 2), ("VED", 2), ("UGX", 0), ("VND", 0)),
    ],
)
def test_exponent(currency: str, places: int) -> None:
    assert exponent_of(currency) == places


def test_the_table_is_well_formed() -> None:
    """Three capital letters each, 0 to 4 decimal places."""
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in EXPONENTS)
    assert set(EXPONENTS.values()) == {0, 2, 3, 4}
    assert len(EXPONENTS) > 150


@pytest.mark.parametrize("code", ["XAU", "XDR", "XTS", "ANG", "HRK", "BGN", "eur", "", "E"])
def test_what_is_no_currency_is_refused(code: str) -> None:
    """Metals, units of account, withdrawn codes, and text."""
    with pytest.raises(AP2CurrencyError, match="not a currency of ISO 4217"):
        exponent_of(code)


@pytest.mark.parametrize(
    ("value", "currency", "by", "microcents"),
    [
        ("1", "EUR", rate(), 108_370_000),
        ("199.00", "eur", rate(), 21_565_630_000),
        ("5.000", "EUR", rate(), 541_850_000),
        ("0", "EUR", rate(), 0),
        ("0.00000000", "EUR", rate(), 0),
        ("0E+999999999", "EUR", rate(), 0),
        ("1000", "JPY", rate("JPY", 643, 100_000), 643_000_000),
        ("1.001", "KWD", rate("KWD", 326, 100), 326_326_000),
        ("0.0001", "CLF", rate("CLF", 40, 1), 400_000),
        # A third of a cent is 333,333.33 microcents: the hold is never less than the payment.
        ("0.01", "EUR", rate("EUR", 1, 3), 333_334),
        ("0.01", "EUR", rate("EUR", 1, 10**18), 1),
        ("12.34", "USD", None, 1_234_000_000),
        ("0.00000001", "usd", None, 1),
    ],
)
def test_conversion(value: str, currency: str, by: ExchangeRate | None, microcents: int) -> None:
    assert convert(value, currency, by) == microcents


CODES = st.sampled_from(sorted(set(EXPONENTS) - {"USD"}))
PARTS = st.integers(1, 10**18)


@given(CODES, st.integers(0, MAX), PARTS, PARTS)
def test_conversion_is_what_decimal_says(
    code: str, minor: int, numerator: int, denominator: int
) -> None:
    """The same as arithmetic with 200 digits, rounded up; or refused because it is above int64."""
    exact = Context(prec=200)
    text = decimal_text(minor, code)
    dollars = exact.multiply(Decimal(text), Decimal(numerator))
    rounded = exact.divide_int(exact.multiply(dollars, Decimal(10**8)), Decimal(denominator))
    rest = exact.multiply(dollars, Decimal(10**8)) - exact.multiply(rounded, Decimal(denominator))
    expected = int(rounded) + (1 if rest else 0)
    by = rate(code, numerator, denominator)
    if expected > MAX:
        with pytest.raises(AP2MandateError, match="int64"):
            convert(text, code, by)
    else:
        assert convert(text, code, by) == expected


@given(CODES, st.integers(0, 10**7), st.decimals("0.000001", "1000", places=6))
def test_a_quoted_rate_is_exact(code: str, minor: int, quoted: Decimal) -> None:
    """A rate written as a decimal gives what multiplying with that decimal gives."""
    by = ExchangeRate.quoted(code, str(quoted), as_of=NOW, source="x", max_age=HOUR)
    text = decimal_text(minor, code)
    exact = Decimal(text) * quoted * 10**8
    assert convert(text, code, by) == int(exact.to_integral_value(ROUND_CEILING))


@given(CODES, st.integers(0, MAX))
def test_text_and_minor_units_are_the_same_amount(code: str, minor: int) -> None:
    assert minor_units(decimal_text(minor, code), code) == minor


@given(CODES, st.integers(0, 10**15), st.integers(0, 10**15), PARTS, PARTS)
def test_conversion_is_monotone_and_never_less_in_parts(
    code: str, one: int, other: int, numerator: int, denominator: int
) -> None:
    """More is never held as less, and two halves are never held as less than the whole."""
    by = rate(code, numerator, denominator)
    assume((one + other) * numerator * 10**8 // denominator < MAX // 2)
    both, first, second = (
        convert(decimal_text(amount, code), code, by) for amount in (one + other, one, other)
    )
    assert max(first, second) <= both <= first + second <= both + 1


@pytest.mark.parametrize(
    ("value", "currency", "by", "said"),
    [
        ("1", "EUR", None, r"in EUR: pass rate=ExchangeRate.*EUR/USD"),
        ("1", "ABC", None, "'ABC' is not a currency"),
        ("1", "EUR", rate("GBP"), r"rate is GBP/USD: pass one for EUR/USD"),
        ("1", "USD", rate(), "USD needs no rate"),
    ],
)
def test_without_the_right_rate_nothing_is_converted(
    value: str, currency: str, by: ExchangeRate | None, said: str
) -> None:
    with pytest.raises(AP2CurrencyError, match=said):
        convert(value, currency, by)


def test_a_rate_is_used_while_it_is_young_enough() -> None:
    """To the millisecond: from its date until `max_age` later, both included."""
    hour_ms = 3_600_000
    for later in (0, 1, hour_ms):
        assert convert("1", "EUR", rate(), NOW_MS + later) == 108_370_000
    with pytest.raises(AP2CurrencyError, match=r"1:00:00.001000 old, and may be 1:00:00 at most"):
        convert("1", "EUR", rate(), NOW_MS + hour_ms + 1)
    with pytest.raises(AP2CurrencyError, match=r"after now .*set the clock"):
        convert("1", "EUR", rate(), NOW_MS - 1)


def test_a_rate_of_this_very_moment_holds() -> None:
    """A clock that is read in milliseconds is behind one that is read in microseconds."""
    moment = replace(rate(), as_of=NOW + timedelta(microseconds=999))
    assert convert("1", "EUR", moment) == 108_370_000
    with pytest.raises(AP2CurrencyError, match=r"after now"):
        convert("1", "EUR", replace(rate(), as_of=NOW + timedelta(microseconds=1_000)))


def test_a_time_zone_is_only_a_way_to_write_a_time() -> None:
    elsewhere = replace(rate(), as_of=NOW.astimezone(timezone(timedelta(hours=9))))
    assert convert("1", "EUR", elsewhere) == 108_370_000
    assert elsewhere.document() == {
        "pair": "EUR/USD",
        "rate": "10837/10000",
        "as_of": "2026-11-21T08:00:00.000+00:00",
        "source": "the bank",
    }


@pytest.mark.parametrize(
    ("value", "currency", "said"),
    [
        ("1.001", "EUR", "finer than EUR, which has 2 decimal places"),
        ("1.5", "JPY", "finer than JPY, which has 0"),
        ("1.00001", "CLF", "finer than CLF, which has 4"),
        ("-1", "EUR", "non-negative"),
        ("-0", "EUR", "non-negative"),
        ("NaN", "EUR", "finite"),
        ("sNaN", "EUR", "finite"),
        ("Infinity", "EUR", "finite"),
        ("1,000", "EUR", "not a valid decimal"),
        ("", "EUR", "not a valid decimal"),
        ("92233720368547758.08", "EUR", "int64"),
        ("1E+1000000000", "EUR", "int64"),
        ("9223372036854775807", "JPY", "int64"),
    ],
)
def test_what_is_no_amount_is_refused(value: str, currency: str, said: str) -> None:
    """The last is an amount in yen, and none in microcents."""
    with pytest.raises(AP2MandateError, match=said):
        convert(value, currency, rate(currency, 1, 1))


def test_the_largest_amount() -> None:
    """int64 is reached exactly, and not passed."""
    by = rate("EUR", 1, 10**6)  # a cent is one microcent
    assert convert("92233720368547758.07", "EUR", by) == MAX
    with pytest.raises(AP2MandateError, match="int64"):
        convert("92233720368547758.07", "EUR", rate("EUR", 1, 10**6 - 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": "XAU"}, "not a currency"),
        ({"base": "USD"}, "USD needs no rate"),
        ({"quote": "GBP"}, "quote must be USD"),
        ({"numerator": 0}, "numerator must be an int from 1"),
        ({"numerator": -1}, "numerator must be an int from 1"),
        ({"numerator": 1.08}, "numerator must be an int"),
        ({"numerator": True}, "numerator must be an int"),
        ({"denominator": 0}, "denominator must be an int from 1"),
        ({"denominator": 10**18 + 1}, r"denominator must be an int from 1 to 10\*\*18"),
        ({"as_of": NOW.replace(tzinfo=None)}, "time zone"),
        ({"as_of": "2026-11-21"}, "time zone"),
        ({"max_age": timedelta(0)}, "max_age"),
        ({"max_age": 3600}, "max_age"),
        ({"source": ""}, "source"),
        ({"source": None}, "source"),
    ],
)
def test_a_rate_that_cannot_be_used_is_never_made(change: dict[str, Any], said: str) -> None:
    with pytest.raises(AP2CurrencyError, match=said):
        replace(rate(), **change)


@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "NaN", "Infinity", "1E+99999999", "1E-99"])
def test_a_quote_that_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(AP2CurrencyError, match=r"rate|numerator"):
        ExchangeRate.quoted("EUR", text, as_of=NOW, source="x", max_age=HOUR)
