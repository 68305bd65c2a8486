"""Mandates of AP2 v0.2: open and closed, for checkouts and for payments, as typed models.

The rule that lives here: a model holds exactly what the signed document said. Nothing is coerced,
defaulted or dropped, so the document and its hash can be had back from it; the type (`vct`) is
matched to the letter, version included; and what was not disclosed stands for nothing.

What a model does not do is check signatures: whoever unpacked the SD-JWT has done that.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from bursar.ap2.canonical import CanonicalError, read_json, sha256_hex
from bursar.ap2.currencies import decimal_text
from bursar.ap2.errors import AP2MandateError
from bursar.ap2.mandate import AP2Mandate
from bursar.vocabulary import AMOUNT_MAX

DISCLOSURE: Final = "..."
UNKNOWN: Final = "unknown"

Text = Annotated[str, Field(min_length=1, max_length=4096)]
Minor = Annotated[int, Field(ge=0, le=AMOUNT_MAX)]
Epoch = Annotated[int, Field(ge=0, le=253_402_300_799)]  # seconds, until the year 9999
Count = Annotated[int, Field(ge=1, le=AMOUNT_MAX)]


class Document(BaseModel):
    """Base of everything here: strict, unchangeable, and it keeps what it does not know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    def document(self) -> dict[str, Any]:
        """Return what was said, member by member, and nothing that was not."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Amount(Document):
    """An amount in the currency's minor unit: 27999 USD is $279.99."""

    amount: Minor
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class Merchant(Document):
    """Who is paid. `id` says who it is; name and website are for people."""

    id: str | None = None
    name: str | None = None
    website: str | None = None


class Instrument(Document):
    """What is paid with."""

    id: Text
    type: Text
    description: str | None = None


class Pisp(Document):
    """A payment initiation service provider."""

    legal_name: Text
    brand_name: Text
    domain_name: Text


class Undisclosed(Document):
    """An element of a list that the holder did not disclose: only its digest is there."""

    digest: Text = Field(alias=DISCLOSURE)


def _kind(value: Any) -> str:
    hidden = isinstance(value, Undisclosed) or (isinstance(value, Mapping) and DISCLOSURE in value)
    return "hidden" if hidden else "shown"


def _listed(model: Any) -> Any:
    """Return the type of a list whose elements may be undisclosed."""
    either = Annotated[
        Annotated[Undisclosed, Tag("hidden")] | Annotated[model, Tag("shown")],
        Discriminator(_kind),
    ]
    return Annotated[tuple[either, ...], Field(strict=False, max_length=10_000)]


class AgentRecurrence(Document):
    """The open mandate may be used several times; without this constraint, once."""

    type: Literal["payment.agent_recurrence"]
    frequency: Literal[
        "ON_DEMAND", "DAILY", "WEEKLY", "BIWEEKLY", "MONTHLY", "QUARTERLY", "ANNUALLY"
    ]
    max_occurrences: Count | None = None


class AllowedPayees(Document):
    """Only these may be paid."""

    type: Literal["payment.allowed_payees"]
    allowed: _listed(Merchant)  # type: ignore[valid-type]  # a type made by a function


class AllowedInstruments(Document):
    """Only with these may be paid."""

    type: Literal["payment.allowed_payment_instruments"]
    allowed: _listed(Instrument)  # type: ignore[valid-type]  # a type made by a function


class AllowedPisps(Document):
    """Only these may initiate the payment."""

    type: Literal["payment.allowed_pisps"]
    allowed: _listed(Pisp)  # type: ignore[valid-type]  # a type made by a function


class AmountRange(Document):
    """How much one payment may be, in the minor unit."""

    type: Literal["payment.amount_range"]
    currency: Text
    max: Minor
    min: Minor | None = None


class Budget(Document):
    """How much all payments together may be; `max` is in the MAJOR unit, as the standard has it."""

    type: Literal["payment.budget"]
    currency: Text
    max: Annotated[int | float, Field(ge=0, le=AMOUNT_MAX, allow_inf_nan=False)]

    @property
    def max_text(self) -> str:
        """The limit as decimal text: of a float, the shortest that means it."""
        return format(Decimal(repr(self.max)), "f")


class ExecutionDate(Document):
    """When the payment may be executed; both ends are included."""

    type: Literal["payment.execution_date"]
    not_before: Text | None = None
    not_after: Text | None = None


class Reference(Document):
    """The open checkout mandate that the payment belongs to, by its digest."""

    type: Literal["payment.reference"]
    conditional_transaction_id: Text


class AllowedMerchants(Document):
    """Only at these may be bought."""

    type: Literal["checkout.allowed_merchants"]
    allowed: _listed(Merchant)  # type: ignore[valid-type]  # a type made by a function


class Item(Document):
    """An article; `id` says which."""

    id: Text
    title: str


class LineItemRequirement(Document):
    """So many of any of these articles."""

    id: Text
    acceptable_items: _listed(Item)  # type: ignore[valid-type]  # a type made by a function
    quantity: Count


class LineItems(Document):
    """What the checkout must hold, all of it and nothing else."""

    type: Literal["checkout.line_items"]
    items: Annotated[
        tuple[LineItemRequirement, ...], Field(strict=False, min_length=1, max_length=1_000)
    ]


class UnknownConstraint(Document):
    """A constraint that nobody here can check; a mandate with one is not acted on."""

    type: str


_PAYMENT: Final = {
    "payment.agent_recurrence",
    "payment.allowed_payees",
    "payment.allowed_payment_instruments",
    "payment.allowed_pisps",
    "payment.amount_range",
    "payment.budget",
    "payment.execution_date",
    "payment.reference",
}
_CHECKOUT: Final = {"checkout.allowed_merchants", "checkout.line_items"}


def _type(known: set[str]) -> Discriminator:
    def of(value: Any) -> str:
        said = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
        return said if isinstance(said, str) and said in known else UNKNOWN

    return Discriminator(of)


PaymentConstraint = Annotated[
    Annotated[AgentRecurrence, Tag("payment.agent_recurrence")]
    | Annotated[AllowedPayees, Tag("payment.allowed_payees")]
    | Annotated[AllowedInstruments, Tag("payment.allowed_payment_instruments")]
    | Annotated[AllowedPisps, Tag("payment.allowed_pisps")]
    | Annotated[AmountRange, Tag("payment.amount_range")]
    | Annotated[Budget, Tag("payment.budget")]
    | Annotated[ExecutionDate, Tag("payment.execution_date")]
    | Annotated[Reference, Tag("payment.reference")]
    | Annotated[UnknownConstraint, Tag(UNKNOWN)],
    _type(_PAYMENT),
]
CheckoutConstraint = Annotated[
    Annotated[AllowedMerchants, Tag("checkout.allowed_merchants")]
    | Annotated[LineItems, Tag("checkout.line_items")]
    | Annotated[UnknownConstraint, Tag(UNKNOWN)],
    _type(_CHECKOUT),
]


class Mandate(Document):
    """What the four mandates share."""

    iat: Epoch | None = None
    exp: Epoch | None = None

    @classmethod
    def read(cls, said: str | bytes | Mapping[str, Any]) -> Self:
        """Return the mandate that a JSON text, or what was read from one, says.

        Raises:
            AP2MandateError: it is no mandate of this type; the message names the member.
        """
        try:
            document = dict(said) if isinstance(said, Mapping) else read_json(said)
            return cls.model_validate(document)
        except CanonicalError as error:
            raise AP2MandateError(f"{cls.__name__}: {error}") from error
        except ValidationError as error:
            raise AP2MandateError(f"{cls.__name__}: {_first(error)}") from error

    @property
    def mandate_hash(self) -> str:
        """SHA-256 of the RFC 8785 form of what was said, as `sha256:` and hexadecimal digits.

        Of an open mandate this is its `open_mandate_hash`.

        Raises:
            AP2MandateError: it holds something that has no such form.
        """
        try:
            return sha256_hex(self.document())
        except CanonicalError as error:
            raise AP2MandateError(f"{type(self).__name__} has no hash: {error}") from error


def _first(error: ValidationError) -> str:
    """Return where the first mistake is and what it is."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _TAGS)
    return f"{where or 'the document'}: {first['msg']}"


_TAGS: Final = {"hidden", "shown", UNKNOWN, *_PAYMENT, *_CHECKOUT}


class OpenPaymentMandate(Mandate):
    """What a user allows an agent to pay later, and under which constraints."""

    vct: Literal["mandate.payment.open.1"]
    constraints: Annotated[tuple[PaymentConstraint, ...], Field(strict=False, max_length=100)]
    cnf: dict[str, Any]
    payee: Merchant | None = None
    payment_amount: Amount | None = None
    payment_instrument: Instrument | None = None
    pisp: Pisp | None = None
    execution_date: Text | None = None
    risk_data: dict[str, Any] | None = None

    @property
    def recurring(self) -> bool:
        """Whether it may be presented more than once."""
        return any(isinstance(one, AgentRecurrence) for one in self.constraints)


class PaymentMandate(Mandate):
    """One payment for one checkout."""

    vct: Literal["mandate.payment.1"]
    transaction_id: Annotated[str, Field(min_length=1, max_length=256)]
    payee: Merchant
    payment_amount: Amount
    payment_instrument: Instrument
    pisp: Pisp | None = None
    execution_date: Text | None = None
    risk_data: dict[str, Any] | None = None

    def for_guard(self, open_mandate: OpenPaymentMandate | None = None) -> AP2Mandate:
        """Return the mandate that `cycles_guard_payment` takes.

        An open mandate that may be used once becomes the unit of "once" at the ledger. Under a
        recurring one each transaction is, and `Consumption` counts them.

        Raises:
            AP2MandateError: the payee has neither website nor id, or a text is too long.
            AP2CurrencyError: the currency is not one of ISO 4217.
        """
        once = open_mandate is not None and not open_mandate.recurring
        fields = {
            "transaction_id": self.transaction_id,
            "amount_value": decimal_text(self.payment_amount.amount, self.payment_amount.currency),
            "currency": self.payment_amount.currency,
            "payee_website": self.payee.website or self.payee.id or "",
            "checkout_hash": self.transaction_id,  # by definition the hash of the checkout
            "open_mandate_hash": open_mandate.mandate_hash if open_mandate and once else None,
        }
        if not fields["payee_website"]:
            raise AP2MandateError("payee: it has neither a website nor an id")
        try:
            return AP2Mandate.model_validate(fields)
        except ValidationError as error:
            raise AP2MandateError(f"the guard cannot take it: {_first(error)}") from error


class OpenCheckoutMandate(Mandate):
    """What a user allows an agent to buy later."""

    vct: Literal["mandate.checkout.open.1"]
    constraints: Annotated[tuple[CheckoutConstraint, ...], Field(strict=False, max_length=100)]
    cnf: dict[str, Any]


class CheckoutMandate(Mandate):
    """One checkout, as the merchant signed it."""

    vct: Literal["mandate.checkout.1"]
    checkout_jwt: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    checkout_hash: Annotated[str, Field(min_length=1, max_length=256)]

    @property
    def computed_hash(self) -> str:
        """What `checkout_hash` must be: SHA-256 of `checkout_jwt`, in base64url."""
        digest = hashlib.sha256(self.checkout_jwt.encode("utf-8")).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


class CheckoutLine(Document):
    """So many of one article."""

    id: Text
    item: Item
    quantity: Count


class Checkout(Document):
    """What is bought and from whom: the payload of a `checkout_jwt` whose signature was checked."""

    line_items: Annotated[tuple[CheckoutLine, ...], Field(strict=False, max_length=10_000)]
    merchant: Merchant | None = None


def open_mandate_hash(said: str | bytes | Mapping[str, Any] | Mandate) -> str:
    """Return the hash of an open mandate: of the claims as they were signed, not of their token.

    The order of members and white space do not count. The order of a list does, a member that is
    absent is not one that is null, and text is not normalized.

    Raises:
        AP2MandateError: it is not one JSON object, or it has no canonical form.
    """
    if isinstance(said, Mandate):
        return said.mandate_hash
    try:
        return sha256_hex(said if isinstance(said, Mapping) else read_json(said))
    except CanonicalError as error:
        raise AP2MandateError(f"the mandate has no hash: {error}") from error
