"""The mandate as the guard sees it: who is paid, how much, and under which authority.

The rule that lives here: only what a reservation needs is taken over, as text, and what is
missing is refused instead of becoming the word "None".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from bursar.ap2.amounts import AMOUNT_CHARS_MAX, usd_microcents
from bursar.ap2.errors import AP2CurrencyError, AP2MandateError

CURRENCY = "USD"
_ABSENT = object()
_Id = Annotated[str, Field(min_length=1, max_length=256)]


class AP2Mandate(BaseModel):
    """A payment mandate of AP2, with the hash of its checkout and of its open mandate if any.

    An empty hash is refused: it would quietly make the transaction the unit of "once" where the
    open mandate has to be.
    """

    model_config = ConfigDict(populate_by_name=True, extra="forbid", str_strip_whitespace=True)

    transaction_id: _Id
    amount_value: Annotated[str, Field(min_length=1, max_length=AMOUNT_CHARS_MAX)]
    currency: Annotated[str, Field(min_length=3, max_length=3)]
    payee_website: Annotated[str, Field(min_length=1, max_length=253)]
    checkout_hash: _Id | None = None
    open_mandate_hash: _Id | None = None

    def amount_micros(self) -> int:
        """Return the amount in USD_MICROCENTS (10^-8 USD), exactly.

        Raises:
            AP2CurrencyError: the currency is not USD.
            AP2MandateError: the amount is not a non-negative decimal of at most 8 places that
                fits into int64.
        """
        if self.currency.upper() != CURRENCY:
            raise AP2CurrencyError(
                f"supports USD only; got {self.currency!r}. An amount in another currency needs "
                "an explicit, dated rate"
            )
        return usd_microcents(self.amount_value)

    @classmethod
    def from_ap2(
        cls,
        payment_mandate: Any,
        checkout_mandate: Any | None = None,
        *,
        open_mandate_hash: str | None = None,
    ) -> AP2Mandate:
        """Return the mandate in objects of an AP2 library, or in dictionaries of the same shape.

        Args:
            payment_mandate: has `transaction_id`, `payment_amount` with `value` and `currency`,
                and `payee` with `website` or `identifier`.
            checkout_mandate: has `hash` or `checkout_hash`.
            open_mandate_hash: of the open mandate that this payment uses up.

        Raises:
            AP2MandateError: a field is missing.
            pydantic.ValidationError: a field is empty, too long or of the wrong type.
        """
        amount = _required(payment_mandate, "payment_amount")
        payee = _required(payment_mandate, "payee")
        website = _read(payee, "website") or _read(payee, "identifier")
        fields = {
            "transaction_id": str(_required(payment_mandate, "transaction_id")),
            "amount_value": str(_required(amount, "value")),
            "currency": str(_required(amount, "currency")),
        }
        if not website:
            raise AP2MandateError("AP2 payee must expose `website` or `identifier`")
        checkout_hash = None
        if checkout_mandate is not None:
            # Only a hash that is not there gives way to the other name: an empty one is bad data.
            checkout_hash = _read(checkout_mandate, "hash")
            if checkout_hash is None:
                checkout_hash = _read(checkout_mandate, "checkout_hash")
        return cls(
            **fields,
            payee_website=str(website),
            checkout_hash=checkout_hash,
            open_mandate_hash=open_mandate_hash,
        )


def _read(holder: Any, name: str, default: Any = None) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(name, default)
    return getattr(holder, name, default)


def _required(holder: Any, name: str) -> Any:
    value = _read(holder, name, _ABSENT)
    if value is _ABSENT or value is None:
        kind = type(holder).__name__
        raise AP2MandateError(
            f"upstream PaymentMandate is missing a required field: {kind!r} has no {name!r}"
        )
    return value
