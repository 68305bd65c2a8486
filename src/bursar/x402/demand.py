"""What a 402 asks for, and how a payment and its answer are written.

The rule that lives here: a demand is read as data from a stranger. What cannot be understood is
no offer, and the offer that is taken goes back in the very words in which it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bursar.x402 import offers
from bursar.x402.authorization import Authorization, TokenDomain
from bursar.x402.facilitators.answer import reason_of, transaction_of
from bursar.x402.offers import Offer
from bursar.x402.strangers import read_json

HEADER_CHARS_MAX: Final = 64 * 1024
OFFERS_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Demand:
    """What a merchant asks for.

    Attributes:
        version: of the protocol, 1 or 2.
        offers: those that can be understood.
        spelled: each of them as it came.
        resource: what version 2 says of the thing that is sold, as it came.
        error: why it asks, in its words.
    """

    version: int
    offers: tuple[Offer, ...]
    spelled: tuple[Mapping[str, Any], ...]
    resource: Mapping[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An offer that was taken, as a record keeps it: enough to present the payment again."""

    version: int
    spelled: Mapping[str, Any]
    resource: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """Return canonical JSON."""
        kept = {"version": self.version, "accepted": self.spelled, "resource": self.resource}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Chosen:
        """Read what `to_json` wrote."""
        kept = json.loads(text)
        return cls(kept["version"], kept["accepted"], kept["resource"])

    def header(self, authorization: Authorization, signature: str) -> tuple[str, str]:
        """Return the header of a payment, name and value."""
        inner = {"signature": signature, "authorization": authorization.to_wire()}
        if self.version == 1:
            named = {"scheme": self.spelled["scheme"], "network": self.spelled["network"]}
            return offers.V1_PAYMENT_HEADER, offers.encode(
                {"x402Version": 1, **named, "payload": inner}
            )
        message = {"x402Version": 2, "accepted": dict(self.spelled), "payload": inner}
        if self.resource is not None:
            message["resource"] = dict(self.resource)
        return offers.PAYMENT_HEADER, offers.encode(message)


@dataclass(frozen=True, slots=True)
class Told:
    """What a merchant says became of a payment: a claim.

    Attributes:
        success: it says that it was paid.
        transaction: the transaction that it names.
        reason: its short reason.
    """

    success: bool = False
    transaction: str | None = None
    reason: str = field(default="")


def read_demand(headers: Mapping[str, str], body: bytes) -> Demand:
    """Return what a 402 asks for; without offers if nothing of it can be understood."""
    header = headers.get(offers.REQUIRED_HEADER)
    try:
        if header is not None and len(header) <= HEADER_CHARS_MAX:
            said = offers.decode(header)
        else:
            said = read_json(body[:HEADER_CHARS_MAX])
    except ValueError:
        return Demand(2, (), ())
    version = said.get("x402Version") if isinstance(said, Mapping) else None
    if isinstance(version, bool) or version not in (1, 2):
        return Demand(2, (), ())
    rows = said.get("accepts")
    known = [
        (offer, row)
        for row in (rows if isinstance(rows, list) else [])[:OFFERS_MAX]
        if (offer := read_offer(row)) is not None
    ]
    resource = said.get("resource")
    return Demand(
        version=version,
        offers=tuple(offer for offer, _ in known),
        spelled=tuple(row for _, row in known),
        resource=resource if isinstance(resource, Mapping) and version == 2 else None,
        error=str(said.get("error") or "")[:200],
    )


def read_offer(row: object) -> Offer | None:
    """Return an offer of either version, or None if it is not one that can be paid here."""
    if not isinstance(row, Mapping) or row.get("scheme") != offers.SCHEME:
        return None
    extra = row.get("extra")
    extra = extra if isinstance(extra, Mapping) else {}
    chain_id = offers.chain_of(row.get("network"))
    if chain_id is None or extra.get("assetTransferMethod", "eip3009") != "eip3009":
        return None
    amount = row.get("amount", row.get("maxAmountRequired"))
    window_s = row.get("maxTimeoutSeconds")
    if not isinstance(amount, str) or not (amount.isascii() and amount.isdigit()):
        return None
    if isinstance(window_s, bool) or not isinstance(window_s, int) or len(amount) > 78:
        return None
    try:
        asset = str(row.get("asset")).lower()
        domain = TokenDomain(
            str(extra.get("name", "")), str(extra.get("version", "")), chain_id, asset
        )
        return Offer(domain, int(amount), str(row.get("payTo")).lower(), window_s)
    except ValueError:
        return None


def read_told(headers: Mapping[str, str]) -> Told | None:
    """Return what a response says of its payment, or None if it says nothing readable."""
    header = headers.get(offers.RESPONSE_HEADER) or headers.get(offers.V1_RESPONSE_HEADER)
    if not header or len(header) > HEADER_CHARS_MAX:
        return None
    try:
        said = offers.decode(header)
    except ValueError:
        return None
    if not isinstance(said, Mapping):
        return None
    return Told(said.get("success") is True, transaction_of(said), reason_of(said))
