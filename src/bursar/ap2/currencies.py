"""Amounts in other currencies: exponents from a table, rates from the caller, never from us.

The rule that lives here: a currency is converted only by a rate that the caller gives, dated and
with an age at which it is too old; without one, every currency but the US dollar is refused. All
of it is integer arithmetic. What is not whole microcents is rounded up, so that a hold is never
less than the payment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from bursar.ap2.amounts import MICROCENT_DIGITS, exact_decimal, usd_microcents
from bursar.ap2.errors import AP2CurrencyError, AP2MandateError
from bursar.ap2.sendable import sendable_text
from bursar.vocabulary import AMOUNT_MAX

USD: Final = "USD"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
RATE_PART_MAX: Final = 10**18
"""The largest numerator or denominator of a rate."""

# ISO 4217: every active code of a currency with a minor unit, by the decimal places of that unit.
# A code that is not here is refused: precious metals, bond units, the codes for tests and for no
# currency have no minor unit, and withdrawn ones are no longer money.
_BY_EXPONENT: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD
        CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP
        GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK
        LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO
        NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS
        SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST
        XAD XCD XCG YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
EXPONENTS: Final = {
    code: places for places, codes in _BY_EXPONENT.items() for code in codes.split()
}
"""Currency code -> decimal places of its minor unit."""


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """What one `base` is worth in `quote`, when that was so, and who says so.

    Attributes:
        base: the currency of the payment, such as `EUR`.
        quote: the currency of the ledger; only `USD`.
        numerator: with `denominator`, the rate exactly: 1.0837 is 10837 / 10000.
        denominator: see `numerator`.
        as_of: when the rate held; with a time zone.
        source: who published it; it is kept with the reservation.
        max_age: how long after `as_of` it may be used.

    Raises:
        AP2CurrencyError: one of them is not usable.
    """

    base: str
    quote: str
    numerator: int
    denominator: int
    as_of: datetime
    source: str
    max_age: timedelta

    def __post_init__(self) -> None:
        """Refuse a rate that could not be applied, before anything depends on it."""
        exponent_of(self.base)
        if self.quote != USD:
            raise AP2CurrencyError(
                f"quote must be {USD}, the ledger's currency; got {self.quote!r}"
            )
        if self.base == self.quote:
            raise AP2CurrencyError(f"{USD} needs no rate: leave `rate` out")
        for name in ("numerator", "denominator"):
            part = getattr(self, name)
            if type(part) is not int or not 1 <= part <= RATE_PART_MAX:
                raise AP2CurrencyError(f"{name} must be an int from 1 to 10**18; got {part!r}")
        if not isinstance(self.as_of, datetime) or self.as_of.tzinfo is None:
            raise AP2CurrencyError("as_of must be a datetime with a time zone, such as UTC")
        if not isinstance(self.max_age, timedelta) or self.max_age <= timedelta(0):
            raise AP2CurrencyError("max_age must be a timedelta above 0")
        if not isinstance(self.source, str) or not 0 < len(self.source) <= 256:
            raise AP2CurrencyError("source must be text of 1 to 256 characters: who published it")
        if sendable_text(self.source) != self.source:
            raise AP2CurrencyError("source must not hold NUL or lone surrogates")

    @classmethod
    def quoted(
        cls, base: str, rate: str, *, as_of: datetime, source: str, max_age: timedelta
    ) -> ExchangeRate:
        """Return the rate of `base` in US dollars that is written as a decimal, such as `1.0837`.

        Raises:
            AP2CurrencyError: it is no decimal, or it is outside what a rate may be.
        """
        try:
            coefficient, exponent = exact_decimal(rate)
        except AP2MandateError as error:
            shown = repr(rate) if isinstance(rate, str) else type(rate).__name__
            raise AP2CurrencyError(
                f"rate must be a decimal above 0, as text such as '1.0837'; got {shown:.80}"
            ) from error
        if abs(exponent) > len(str(RATE_PART_MAX)):
            raise AP2CurrencyError(f"rate {rate!r} is outside 10**-18 to 10**18")
        numerator = coefficient * 10 ** max(0, exponent)
        return cls(base, USD, numerator, 10 ** max(0, -exponent), as_of, source, max_age)

    def document(self) -> dict[str, str]:
        """Return the rate as it is kept with a reservation."""
        return {
            "pair": f"{self.base}/{self.quote}",
            "rate": f"{self.numerator}/{self.denominator}",
            "as_of": self.as_of.astimezone(UTC).isoformat(timespec="milliseconds"),
            "source": self.source,
        }


def exponent_of(currency: str) -> int:
    """Return the decimal places of a currency's minor unit.

    Raises:
        AP2CurrencyError: it is no active currency of ISO 4217 that has one.
    """
    exponent = EXPONENTS.get(currency)
    if exponent is None:
        raise AP2CurrencyError(
            f"{currency!r} is not a currency of ISO 4217 with a minor unit; "
            "use its three capital letters, such as EUR"
        )
    return exponent


def minor_units(value: str, currency: str) -> int:
    """Return a decimal amount as an integer of the currency's minor unit, exactly.

    Raises:
        AP2CurrencyError: the currency is not known.
        AP2MandateError: it is no amount, finer than the minor unit, or above int64.
    """
    places = exponent_of(currency)
    coefficient, exponent = exact_decimal(value)
    # Zeros at the end add no precision: 5.000 EUR is 5 EUR.
    while exponent < -places and coefficient % 10 == 0 and coefficient:
        coefficient, exponent = coefficient // 10, exponent + 1
    if coefficient == 0:
        return 0
    if exponent < -places:
        raise AP2MandateError(
            f"amount_value {value!r} is finer than {currency}, which has {places} decimal places"
        )
    # Count digits first: "1E+1000000000" is short text and an enormous number.
    if len(str(coefficient)) + exponent + places > len(str(AMOUNT_MAX)):
        raise AP2MandateError(f"amount_value {value!r} {currency} exceeds int64 minor units")
    amount: int = coefficient * 10 ** (exponent + places)
    if amount > AMOUNT_MAX:
        raise AP2MandateError(f"amount_value {value!r} {currency} exceeds int64 minor units")
    return amount


def units_of(value: str, currency: str) -> int:
    """Return an amount as an integer that amounts of the same currency compare by.

    Raises:
        AP2CurrencyError: the currency is not known.
        AP2MandateError: it is no amount.
    """
    code = currency.upper()
    return usd_microcents(value) if code == USD else minor_units(value, code)


def decimal_text(amount_minor: int, currency: str) -> str:
    """Return an integer of the minor unit as decimal text: 19900 USD is `199.00`."""
    places = exponent_of(currency)
    digits = f"{amount_minor:0{places + 1}d}"
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def to_usd_microcents(value: str, currency: str, rate: ExchangeRate | None, *, now_ms: int) -> int:
    """Return an amount as USD microcents, rounded up to a whole one.

    Args:
        value: the amount as decimal text, in the currency's major unit.
        currency: its code; case does not matter.
        rate: what converts it; None for US dollars.
        now_ms: the time by which the rate's age is measured.

    Raises:
        AP2CurrencyError: no rate, a rate for another currency, or one that is too old or not yet
            in force.
        AP2MandateError: it is no amount, or it does not fit int64.
    """
    code = currency.upper()
    if code == USD:
        if rate is not None:
            raise AP2CurrencyError(f"{USD} needs no rate, and got {_pair(rate)}: leave `rate` out")
        return usd_microcents(value)
    exponent_of(code)
    if rate is None:
        raise AP2CurrencyError(
            f"the ledger counts {USD}, and the amount is in {code}: pass rate=ExchangeRate(...) "
            f"for {code}/{USD}, dated and with its source; without one nothing is converted"
        )
    _check(rate, code, now_ms)
    numerator = minor_units(value, code) * rate.numerator * 10**MICROCENT_DIGITS
    microcents: int = -(-numerator // (rate.denominator * 10 ** exponent_of(code)))
    if microcents > AMOUNT_MAX:
        raise AP2MandateError(
            f"amount_value {value!r} {code} at {_pair(rate)} {rate.numerator}/{rate.denominator} "
            f"exceeds int64 USD micro-cent max ({AMOUNT_MAX})"
        )
    return microcents


def _check(rate: ExchangeRate, currency: str, now_ms: int) -> None:
    """Refuse a rate for something else, of tomorrow, or of too long ago."""
    if rate.base != currency:
        raise AP2CurrencyError(
            f"the amount is in {currency}, and the rate is {_pair(rate)}: pass one for "
            f"{currency}/{USD}"
        )
    # To the millisecond, as clocks are read here: a rate of this very moment holds.
    as_of_ms = (rate.as_of - _EPOCH) // _MILLISECOND
    age = (now_ms - as_of_ms) * _MILLISECOND
    if age < timedelta(0):
        now = _EPOCH + now_ms * _MILLISECOND
        raise AP2CurrencyError(
            f"the rate {_pair(rate)} of {rate.source} is dated {rate.as_of.isoformat()}, after "
            f"now ({now.isoformat()}): use one that holds already, or set the clock"
        )
    if age > rate.max_age:
        raise AP2CurrencyError(
            f"the rate {_pair(rate)} of {rate.source} is {age} old, and may be {rate.max_age} at "
            "most: get a new one"
        )


def _pair(rate: ExchangeRate) -> str:
    return f"{rate.base}/{rate.quote}"
