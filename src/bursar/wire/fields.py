"""Field types and base classes that every wire model is made of.

The rule that lives here: strict in what a value may be, open in how Python writes it.
Numbers are never coerced, unknown fields are refused, and an enum may be given as a
member or as its wire spelling. In Python `None` means "absent"; on the wire an absent
field is left out, and `codec.decode` refuses an explicit `null`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from bursar.vocabulary import (
    AMOUNT_MAX,
    BudgetStatus,
    Decision,
    Every,
    ExpiryPolicy,
    FundOperation,
    KeyStatus,
    OveragePolicy,
    Permission,
    PolicyStatus,
    ReservationStatus,
    RolloverPolicy,
    TenantAction,
    TenantStatus,
    Unit,
)
from bursar.wire.timestamps import format_timestamp, parse_timestamp

INT64_MIN, INT64_MAX = -(2**63), AMOUNT_MAX
FREE_INT_MAX = 2**64 - 1
FREE_DEPTH_MAX = 32

# No text may hold U+0000: PostgreSQL cannot store it, so a key with one would be accepted
# by one store and break another. These patterns are read by Rust's regex engine, where `$`
# never matches before a trailing newline.
TEXT = r"^[^\x00]*$"
NOT_BLANK = r"^[^\x00]*[^\s\x00][^\x00]*$"
SUBJECT_NAME = r"^[a-zA-Z0-9_.-]+$"
TENANT_ID = r"^[a-z0-9-]+$"
TRACE_ID = r"^[0-9a-f]{32}$"
EVIDENCE_ID = r"^[0-9a-f]{64}$"


class Wire(BaseModel):
    """Base of every model whose schema is closed: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenWire(BaseModel):
    """Base of the few answers whose schema is open: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Request(Wire):
    """Base of every request body.

    `IMPLIED` names the values that the protocol implies for optional fields which a model
    must still tell apart from absent ones, because a tenant may have its own default.
    `codec.payload_of` treats a field that spells its implied value out as absent.
    """

    IMPLIED: ClassVar[Mapping[str, object]] = MappingProxyType({})


class _Unfit(Exception):
    """A value that a free object must not hold; `steps` leads to it, innermost first."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []


def checked_object(value: dict[str, Any]) -> dict[str, Any]:
    """Return a free object (metadata, custom metrics) that every store and peer can hold.

    Allowed are JSON values nested at most `FREE_DEPTH_MAX` deep, integers from -2**63 to
    2**64-1, finite numbers, and text without U+0000 or lone surrogates. The number of
    members is bounded by the size of the body.
    """
    try:
        _check_value(value, 1)
    except _Unfit as unfit:
        # The path travels in the context so that `explain` can append it to the field's own.
        path = "".join(reversed(unfit.steps))
        raise PydanticCustomError(
            "free_object", "{problem}", {"path": path, "problem": unfit.problem}
        ) from None
    return value


def _check_value(value: object, depth: int) -> None:
    # The commonest types come first: this runs for every member of every metadata object.
    if isinstance(value, str):
        _check_text(value)
    elif value is None or isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if not INT64_MIN <= value <= FREE_INT_MAX:
            raise _Unfit(f"must be an integer between {INT64_MIN} and {FREE_INT_MAX}")
    elif isinstance(value, float):
        if not isfinite(value):
            raise _Unfit("must be a finite number; NaN and Infinity are not JSON")
    elif isinstance(value, (dict, list)):
        if depth > FREE_DEPTH_MAX:
            raise _Unfit(f"must not be nested more than {FREE_DEPTH_MAX} levels deep")
        _check_members(value, depth)
    else:
        raise _Unfit(f"must be a JSON value, got a Python {type(value).__name__}")


def _check_members(value: dict[Any, Any] | list[Any], depth: int) -> None:
    # A path is built only on the way out of a refusal; building it ahead doubles the cost.
    if isinstance(value, list):
        for index, item in enumerate(value):
            try:
                _check_value(item, depth + 1)
            except _Unfit as unfit:
                unfit.steps.append(f"[{index}]")
                raise
        return
    for key, item in value.items():
        if not isinstance(key, str):
            raise _Unfit(f"must have strings as keys, got a Python {type(key).__name__}")
        _check_text(key)
        try:
            _check_value(item, depth + 1)
        except _Unfit as unfit:
            unfit.steps.append(f".{key}")
            raise


def _check_text(value: str) -> None:
    if "\x00" in value:
        raise _Unfit("must not contain the NUL character (U+0000)")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _Unfit("must not contain a lone surrogate") from None


def checked_timestamp(value: str) -> str:
    """Return `value` if it is a date-time that can be shown again in UTC, else raise.

    Raises:
        ValueError: it is not a date-time, or its offset takes it out of the years 1 to 9999.
    """
    format_timestamp(parse_timestamp(value))
    return value


# Enums accept a member or its wire spelling; everything else in a model stays strict.
WireUnit = Annotated[Unit, Field(strict=False)]
WireDecision = Annotated[Decision, Field(strict=False)]
WireOveragePolicy = Annotated[OveragePolicy, Field(strict=False)]
WireReservationStatus = Annotated[ReservationStatus, Field(strict=False)]
WireBudgetStatus = Annotated[BudgetStatus, Field(strict=False)]
WireTenantAction = Annotated[TenantAction, Field(strict=False)]
WireTenantStatus = Annotated[TenantStatus, Field(strict=False)]
WireKeyStatus = Annotated[KeyStatus, Field(strict=False)]
WirePolicyStatus = Annotated[PolicyStatus, Field(strict=False)]
WireExpiryPolicy = Annotated[ExpiryPolicy, Field(strict=False)]
WireRolloverPolicy = Annotated[RolloverPolicy, Field(strict=False)]
WireEvery = Annotated[Every, Field(strict=False)]
WireFundOperation = Annotated[FundOperation, Field(strict=False)]
WirePermission = Annotated[Permission, Field(strict=False)]

Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
"""An int64 of at least 0."""

Signed = Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)]
"""Any int64."""

PlainText = Annotated[str, Field(pattern=TEXT)]
"""Text of any length; the size limit of the body bounds it."""

IdempotencyKey = Annotated[str, Field(min_length=1, max_length=256, pattern=TEXT)]
"""What makes a retry a retry: 1 to 256 characters."""

Timestamp = Annotated[
    str,
    AfterValidator(checked_timestamp),
    Field(json_schema_extra={"format": "date-time"}),
]
"""An RFC 3339 date-time with an offset, kept as written; see `timestamps`."""

FreeObject = Annotated[dict[str, Any], AfterValidator(checked_object)]
"""A JSON object of the caller's own making; see `checked_object`."""
