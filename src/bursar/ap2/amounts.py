"""Decimal text to integer microcents, exactly.

The rule that lives here: an amount is never rounded and never a float. What does not fit the
protocol's int64 of 10^-8 USD without rest is refused, before any number of its size exists.
"""

from __future__ import annotations

from decimal import Decimal, DecimalException

from bursar.ap2.errors import AP2MandateError
from bursar.vocabulary import AMOUNT_MAX

MICROCENT_DIGITS = 8
"""Decimal places of a microcent in US dollars."""

AMOUNT_CHARS_MAX = 64
DIGITS_MAX = len(str(AMOUNT_MAX))


def usd_microcents(value: str) -> int:
    """Return a decimal text in US dollars as microcents.

    Raises:
        AP2MandateError: it is no finite decimal, negative, finer than a microcent or too large.
    """
    coefficient, exponent = exact_decimal(value)
    if exponent < -MICROCENT_DIGITS:
        raise AP2MandateError(
            f"amount_value {value!r} has more than {MICROCENT_DIGITS} decimal places; "
            "sub-micro precision would be lost"
        )
    # "1E+1000000000000" is short text and an enormous number: count its digits, do not make it.
    digits = len(str(coefficient)) + max(0, exponent)
    if digits > DIGITS_MAX:
        raise AP2MandateError(
            f"amount_value {value!r} exceeds int64 USD micro-cent range "
            f"({digits} integer digits > {DIGITS_MAX} max)"
        )
    microcents = int(coefficient * 10 ** (exponent + MICROCENT_DIGITS))
    if microcents > AMOUNT_MAX:
        raise AP2MandateError(
            f"amount_value {value!r} exceeds int64 USD micro-cent max ({microcents} > {AMOUNT_MAX})"
        )
    return microcents


def exact_decimal(value: str) -> tuple[int, int]:
    """Return the coefficient and the exponent of a decimal text: `"1.50"` is (150, -2).

    Raises:
        AP2MandateError: it is no decimal, not finite, or negative.
    """
    # Anything longer is no amount that anybody means, and Python refuses to make ints of it.
    if not isinstance(value, str) or len(value) > AMOUNT_CHARS_MAX:
        raise AP2MandateError(
            f"amount_value must be a decimal as text of at most {AMOUNT_CHARS_MAX} characters"
        )
    try:
        number = Decimal(value)
    except (DecimalException, ValueError, TypeError) as error:
        raise AP2MandateError(f"amount_value {value!r} is not a valid decimal") from error
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):  # NaN and the infinities have letters here
        raise AP2MandateError(f"amount_value must be finite; got {value!r}")
    if sign:
        raise AP2MandateError("amount_value must be non-negative")
    return int("".join(map(str, digits))), exponent


def validate_micros(amount: object, *, field: str) -> int:
    """Return an amount in microcents that is one; a boolean is no amount.

    Raises:
        AP2MandateError: it is not an int64 of at least 0; the message names `field`.
    """
    if type(amount) is not int:
        raise AP2MandateError(f"{field} must be an int, got {type(amount).__name__}: {amount!r}")
    if amount < 0:
        raise AP2MandateError(f"{field} must be non-negative, got {amount}")
    if amount > AMOUNT_MAX:
        raise AP2MandateError(f"{field} {amount} exceeds int64 USD micro-cent max ({AMOUNT_MAX})")
    return amount
