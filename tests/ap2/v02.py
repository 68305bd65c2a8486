"""Mandates of AP2 v0.2 for tests, as the documents that somebody signed."""

import base64
import hashlib
from typing import Any

from bursar.ap2.mandates import (
    Checkout,
    CheckoutMandate,
    OpenCheckoutMandate,
    OpenPaymentMandate,
    PaymentMandate,
)

NOW_MS = 1_790_000_000_000
NOW_S = NOW_MS // 1000
CNF = {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}
DIGEST = "FzLoxbbtgQGYZxoSM2NJYJtkFTSsdfUBoVEQ12k7JN8"
SHOP = {"id": "shop-1", "name": "The shop", "website": "https://shop.example"}
CARD = {"id": "card-1", "type": "card", "description": "ending 4242"}
REFERENCE = {"type": "payment.reference", "conditional_transaction_id": DIGEST}
HIDDEN = {"...": "y3aocAD2rhYpJQOUMN016faDFGkTBGEDVl1R1TRHdbw"}
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJpZCI6ImMxIn0.c2ln"


def b64_sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def amount(minor: int, currency: str = "USD") -> dict[str, Any]:
    return {"amount": minor, "currency": currency}


def opened(*constraints: dict[str, Any], reference: bool = True, **fields: Any) -> dict[str, Any]:
    """Return the document of an open payment mandate."""
    listed = [*constraints, *([REFERENCE] if reference else [])]
    return {"vct": "mandate.payment.open.1", "constraints": listed, "cnf": CNF, **fields}


def closed(**fields: Any) -> dict[str, Any]:
    """Return the document of a closed payment mandate over 199 dollars."""
    return {
        "vct": "mandate.payment.1",
        "transaction_id": "tx-1",
        "payee": SHOP,
        "payment_amount": amount(19_900),
        "payment_instrument": CARD,
        **fields,
    }


def open_payment(*constraints: dict[str, Any], **fields: Any) -> OpenPaymentMandate:
    return OpenPaymentMandate.read(opened(*constraints, **fields))


def payment(**fields: Any) -> PaymentMandate:
    return PaymentMandate.read(closed(**fields))


def open_checkout(*constraints: dict[str, Any], **fields: Any) -> OpenCheckoutMandate:
    document = {"vct": "mandate.checkout.open.1", "constraints": constraints, "cnf": CNF}
    return OpenCheckoutMandate.read({**document, **fields})


def checkout_mandate(**fields: Any) -> CheckoutMandate:
    document = {"vct": "mandate.checkout.1", "checkout_jwt": JWT, "checkout_hash": b64_sha256(JWT)}
    return CheckoutMandate.read({**document, **fields})


def checkout(*lines: tuple[str, int], merchant: Any = SHOP) -> Checkout:
    return Checkout.model_validate(
        {
            "merchant": merchant,
            "line_items": [
                {"id": f"l{n}", "item": {"id": article, "title": article}, "quantity": quantity}
                for n, (article, quantity) in enumerate(lines)
            ],
        }
    )


def recurring(frequency: str = "ON_DEMAND", **fields: Any) -> dict[str, Any]:
    return {"type": "payment.agent_recurrence", "frequency": frequency, **fields}


def budget(most: float, currency: str = "USD") -> dict[str, Any]:
    return {"type": "payment.budget", "max": most, "currency": currency}


def allowed(kind: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "allowed": list(entries)}


def needs(*requirements: tuple[int, tuple[str, ...]]) -> dict[str, Any]:
    return {
        "type": "checkout.line_items",
        "items": [
            {
                "id": f"r{n}",
                "quantity": quantity,
                "acceptable_items": [{"id": a, "title": a} for a in articles],
            }
            for n, (quantity, articles) in enumerate(requirements)
        ],
    }
