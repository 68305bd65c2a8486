"""Integer amounts: parsing what people write, exact conversion, named rounding.

The rule that lives here: money is an integer of a `Unit` and nothing else. A cost that
is not known is `Unpriced`; a sum with an unpriced part is unpriced. It is never zero and
never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_HALF_UP, Context, Decimal
from enum import Enum
from typing import Final

from bursar.vocabulary import AMOUNT_MAX, Unit

USD: Final = 100_000_000
"""One US dollar in `USD_MICROCENTS`."""


class Rounding(Enum):
    """How a fraction of the smallest unit becomes an integer."""

    UP = ROUND_CEILING  # never charge less than the price: the default for estimates and costs
    HALF_UP = ROUND_HALF_UP


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A cost nobody knows yet, and why."""

    why: str


class AmountError(ValueError):
    """An amount that cannot be understood or does not fit; the message names the fix."""


def total(parts: Iterable[int | Unpriced]) -> int | Unpriced:
    """Add amounts of one unit; one unpriced part makes the sum unpriced."""
    result = 0
    for part in parts:
        if isinstance(part, Unpriced):
            return part
        result += part
    return result


def to_microcents(usd: Decimal, rounding: Rounding = Rounding.UP) -> int:
    """Convert US dollars to integer `USD_MICROCENTS` under a named rounding.

    Raises:
        AmountError: the value is negative, not finite, or above the int64 range.
    """
    if not usd.is_finite() or usd < 0:
        raise AmountError(f"amount must be a finite number of at least 0, not {usd}")
    if usd > _USD_MAX:  # before the conversion: 1E+999999 would become a million digits
        raise AmountError(f"amount {usd} USD is above the largest one, {_USD_MAX} USD")
    exact = _exact_context(len(usd.as_tuple().digits)).multiply(usd, USD)
    return checked(int(exact.to_integral_value(rounding=rounding.value)))


def _exact_context(digits: int) -> Context:
    """Return arithmetic that cannot round a product of `digits` digits and one of our factors."""
    return Context(prec=digits + 20, Emin=MIN_EMIN, Emax=MAX_EMAX)


def checked(amount: int) -> int:
    """Return `amount` if it fits a protocol amount (0 to 2**63-1), else raise `AmountError`."""
    if not 0 <= amount <= AMOUNT_MAX:
        raise AmountError(f"amount {amount} is outside 0..{AMOUNT_MAX}")
    return amount


# Commas separate groups of three and nothing else: `0,50USD` is half a dollar to some readers and
# fifty to a program that drops commas, so it is refused.
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?"
_WRITTEN = re.compile(rf"\s*(\$?)\s*({_NUMBER})\s*([A-Za-z][A-Za-z_ ]*)?")
_WRITTEN_LENGTH_MAX = 64
_USD_MAX = Decimal(f"{AMOUNT_MAX // USD}.{AMOUNT_MAX % USD:08d}")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_UNITS = {
    "usd": (Unit.USD_MICROCENTS, USD),
    "usd_microcents": (Unit.USD_MICROCENTS, 1),
    "microcents": (Unit.USD_MICROCENTS, 1),
    "token": (Unit.TOKENS, 1),
    "tokens": (Unit.TOKENS, 1),
    "credit": (Unit.CREDITS, 1),
    "credits": (Unit.CREDITS, 1),
    "risk_points": (Unit.RISK_POINTS, 1),
    "points": (Unit.RISK_POINTS, 1),
}


def parse(written: str, default: Unit | None = None) -> tuple[Unit, int]:
    """Read an amount as people write it: `20USD`, `$0.50`, `1.5M tokens`, `12_000`.

    Args:
        written: the text.
        default: the unit of a bare number; a bare number is refused without one.

    Raises:
        AmountError: not a number, an unknown unit, a fraction of the smallest unit, or
            outside int64. Nothing is ever rounded here.
    """
    if written.lstrip().startswith("-"):
        raise AmountError(
            f"{written[:_WRITTEN_LENGTH_MAX]!r} is negative, and an amount is at least 0; write it "
            "like 20USD or 1.5M tokens"
        )
    match = _WRITTEN.fullmatch(written.rstrip()) if len(written) <= _WRITTEN_LENGTH_MAX else None
    if match is None:
        raise AmountError(
            f"cannot read {written[:_WRITTEN_LENGTH_MAX]!r} as an amount; "
            "write it like 20USD, 1,500 or 1.5M tokens"
        )
    digits = match.group(2).replace(",", "").replace("_", "")
    scale, unit, factor = _scale_and_unit(written, match.group(1), match.group(3) or "", default)
    exact = _exact_context(len(digits)).multiply(Decimal(digits), scale * factor)
    if exact != exact.to_integral_value():
        raise AmountError(f"{written!r} is finer than one {unit.value}; use fewer decimals")
    return unit, checked(int(exact))


def _scale_and_unit(
    written: str, dollar: str, words: str, default: Unit | None
) -> tuple[int, Unit, int]:
    """Return the multiplier, the unit and the unit's factor that the words after a number mean."""
    name, scale = words.lower(), ""
    if name not in _UNITS and name[:1] in _SCALE and name[1:].strip() in (*_UNITS, ""):
        scale, name = name[:1], name[1:].strip()
    if dollar and name not in ("", "usd"):
        raise AmountError(f"{written!r} names two units; write either $ or {name}")
    if dollar:
        name = "usd"
    if name in _UNITS:
        unit, factor = _UNITS[name]
        return _SCALE[scale], unit, factor
    if name:
        known = ", ".join(sorted(_UNITS))
        raise AmountError(f"unknown unit {name!r} in {written!r}; known units: {known}")
    if default is None:
        raise AmountError(f"{written!r} has no unit; write it like 20USD or 1.5M tokens")
    return _SCALE[scale], default, 1


def show(amount_in_unit: int, unit: Unit) -> str:
    """Write an amount for people, exactly: `$12.50`, `1,500 tokens`."""
    if unit is not Unit.USD_MICROCENTS:
        return f"{amount_in_unit:,} {unit.value.lower()}"
    sign, size = ("-" if amount_in_unit < 0 else ""), abs(amount_in_unit)
    fraction = f"{size % USD:08d}".rstrip("0").ljust(2, "0")
    return f"{sign}${size // USD:,}.{fraction}"
