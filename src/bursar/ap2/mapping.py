"""A mandate as the bodies of the protocol's requests.

The rule that lives here: building a body sends nothing, and what no server could accept is
refused here. What AP2 says about a payment travels as dimensions of the subject; a caller's own
dimensions never replace those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bursar.ap2.amounts import validate_micros
from bursar.ap2.errors import AP2MandateError
from bursar.ap2.keys import consume_once_input, idempotency_key
from bursar.ap2.mandate import AP2Mandate
from bursar.ap2.sendable import sendable_fields, sendable_text

__all__ = [
    "build_action",
    "build_commit_body",
    "build_estimate",
    "build_receipt_policy_keys",
    "build_release_body",
    "build_reservation_body",
    "build_subject",
    "consume_once_input",
    "idempotency_key",
]

ACTION_KIND, ACTION_NAME = "payment.charge", "ap2.payment_mandate.present"
REFUND_KIND, REFUND_NAME = "payment.refund", "ap2.payment_mandate.refund"
TTL_MS, OVERAGE_POLICY = 60_000, "REJECT"
UNIT, PROTOCOL = "USD_MICROCENTS", "ap2"
PRESENTER = "ap2_presenter"
"""The entry of a reservation's metadata that names the guard which made it."""
RATE = "ap2_exchange_rate"
"""The entry of metadata that tells at which rate an amount was converted."""

REASON_MAX = 256
DIMENSIONS_MAX, DIMENSION_CHARS_MAX, SHOWN_CHARS_MAX = 16, 256, 80
_UNSENDABLE = re.compile(r"[\x00\ud800-\udfff]")


def build_subject(
    mandate: AP2Mandate,
    *,
    run_id: str,
    tenant: str | None,
    workspace: str | None,
    app: str | None,
    workflow: str | None,
    agent: str | None,
    toolset: str | None,
    extra_dimensions: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return who pays, with what AP2 says about the payment.

    Raises:
        AP2MandateError: more than 16 dimensions, or one that is not text of at most 256.
    """
    levels = {
        "tenant": tenant,
        "workspace": workspace,
        "app": app,
        "workflow": workflow,
        "agent": agent,
        "toolset": toolset,
    }
    dimensions = {
        "run_id": run_id,
        "ap2_transaction_id": mandate.transaction_id,
        "payee_website": mandate.payee_website,
        "payment_currency": mandate.currency.upper(),
        "payment_protocol": PROTOCOL,
    }
    if mandate.checkout_hash:
        dimensions["checkout_hash"] = mandate.checkout_hash
    if mandate.open_mandate_hash:
        dimensions["open_mandate_hash"] = mandate.open_mandate_hash
    if extra_dimensions is not None and not isinstance(extra_dimensions, Mapping):
        raise AP2MandateError(
            f"extra_dimensions must be a mapping of names to text; got {shorten(extra_dimensions)}"
        )
    dimensions = {**(extra_dimensions or {}), **dimensions}
    _check_dimensions(dimensions)
    return {**{name: value for name, value in levels.items() if value}, "dimensions": dimensions}


def build_action(mandate: AP2Mandate, *, action_kind: str) -> dict[str, Any]:
    """Return what is done; `mandate` does not matter, but the builders have one shape."""
    return {"kind": action_kind, "name": ACTION_NAME}


def build_receipt_policy_keys(mandate: AP2Mandate) -> dict[str, Any]:
    """Return whom the payment went to, as a receipt says it."""
    return {
        "host": mandate.payee_website,
        "custom": {
            "payment_protocol": PROTOCOL,
            "payment_currency": mandate.currency.upper(),
        },
    }


def build_estimate(mandate: AP2Mandate) -> dict[str, Any]:
    """Return what is held: the mandate's amount in microcents."""
    return {"unit": UNIT, "amount": mandate.amount_micros()}


def build_reservation_body(
    mandate: AP2Mandate,
    *,
    run_id: str,
    tenant: str | None,
    workspace: str | None,
    app: str | None,
    workflow: str | None,
    agent: str | None,
    toolset: str | None,
    action_kind: str,
    ttl_ms: int,
    overage_policy: str,
    dry_run: bool,
    metadata: dict[str, Any] | None = None,
    extra_dimensions: dict[str, str] | None = None,
    amount_micros: int | None = None,
) -> dict[str, Any]:
    """Return the body that reserves `amount_micros`, or the mandate's amount in dollars."""
    body: dict[str, Any] = {
        "idempotency_key": idempotency_key(mandate, "reserve"),
        "subject": build_subject(
            mandate,
            run_id=run_id,
            tenant=tenant,
            workspace=workspace,
            app=app,
            workflow=workflow,
            agent=agent,
            toolset=toolset,
            extra_dimensions=extra_dimensions,
        ),
        "action": build_action(mandate, action_kind=action_kind),
        "estimate": (
            build_estimate(mandate)
            if amount_micros is None
            else {"unit": UNIT, "amount": validate_micros(amount_micros, field="amount_micros")}
        ),
        "ttl_ms": ttl_ms,
        "overage_policy": overage_policy,
    }
    if dry_run:
        body["dry_run"] = True
    if metadata:
        body["metadata"] = metadata
    return body


def build_commit_body(
    mandate: AP2Mandate,
    *,
    actual_micros: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the body that commits `actual_micros`, or the mandate's amount."""
    if actual_micros is None:
        amount = mandate.amount_micros()
    else:
        amount = validate_micros(actual_micros, field="actual_micros")
    body: dict[str, Any] = {
        "idempotency_key": idempotency_key(mandate, "commit"),
        "actual": {"unit": UNIT, "amount": amount},
    }
    if metadata:
        body["metadata"] = sendable_fields(metadata)
    return body


def build_release_body(
    mandate: AP2Mandate,
    *,
    reason: str,
    exception_type: str | None = None,
) -> dict[str, Any]:
    """Return the body that releases; each type of exception has a key of its own."""
    return {
        "idempotency_key": idempotency_key(mandate, "release", exception_type),
        "reason": sendable_text(reason)[:REASON_MAX],
    }


def _check_dimensions(dimensions: dict[str, str]) -> None:
    if len(dimensions) > DIMENSIONS_MAX:
        raise AP2MandateError(
            f"extra_dimensions: {len(dimensions)} dimensions, with those of the mandate, are more "
            f"than the {DIMENSIONS_MAX} that the protocol allows; pass fewer"
        )
    for name, value in dimensions.items():
        if not isinstance(name, str) or _UNSENDABLE.search(name):
            raise AP2MandateError(
                "extra_dimensions: names must be text without NUL or lone surrogates; got "
                f"{shorten(name)}"
            )
        if not isinstance(value, str) or len(value) > DIMENSION_CHARS_MAX:
            raise AP2MandateError(
                f"{name} must be text of at most {DIMENSION_CHARS_MAX} characters, because it "
                f"becomes a dimension; got {shorten(value)}"
            )
        if _UNSENDABLE.search(value):
            raise AP2MandateError(f"{name} must not hold NUL or lone surrogates; got {value!r}")


def shorten(value: object) -> str:
    """Return how a value is shown in a message."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN_CHARS_MAX else f"{shown[:SHOWN_CHARS_MAX]}…"
