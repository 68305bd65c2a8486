"""The words of a payer: what is bought, on which terms, and how a purchase may end.

The rule that lives here: an ending says whether anything was signed. `PaymentRefused` is a
purchase that may simply be made again; after `PaymentUnknown` only the same intent may be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx2

from bursar.client.response import CyclesResponse
from bursar.payments.outcome import Money
from bursar.payments.records import PaymentRecord

T = TypeVar("T")


class PaymentError(Exception):
    """A purchase did not come to its end.

    Attributes:
        record: the payment as it is; None if there is none.
        response: the merchant's last answer, if there was one.
    """

    def __init__(
        self,
        message: str,
        record: PaymentRecord | None = None,
        response: httpx2.Response | None = None,
    ) -> None:
        """Keep what is known."""
        super().__init__(message)
        self.record = record
        self.response = response


class PaymentRefused(PaymentError):
    """Nothing was paid for this request, and nothing can be: what was reserved is given back."""


class PaymentUnknown(PaymentError):
    """It may have been paid. The budget is held; the same intent presents the same payment."""


class AlreadyBought(PaymentError):
    """The intent was paid for and delivered; another purchase needs another intent."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is bought: the same request is sent with and without its payment."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def buys(self) -> str:
        """What it is for, to the letter: the same payment is for nothing else."""
        name = f"{self.method} {self.url}"
        body = self.content
        return name if not body else f"{name} sha256:{hashlib.sha256(body).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Bought:
    """What came of a purchase.

    Attributes:
        response: the merchant's answer.
        record: the payment; None where nothing had to be paid.
    """

    response: httpx2.Response
    record: PaymentRecord | None = None

    @property
    def proved(self) -> bool:
        """Whether the chain has proved the payment; until then the merchant's word is all."""
        return self.record is not None and self.record.money is Money.SETTLED


@dataclass(frozen=True, slots=True)
class Terms:
    """Who buys, and how long it is tried.

    Attributes:
        tenant: whose payments these are.
        subject: of the reservation.
        ttl_ms: the lease of the reservation, and what each extension adds. It is lengthened
            where a payment could be unknown for longer.
        tries_max: how often the same payment is presented in one call.
        pause_s_max: the longest pause between two of them, whatever `Retry-After` says.
        delivery_ms: how long what is paid may stay undelivered before the payment is an orphan,
            and somebody is told; it begins when the payment is final.
    """

    tenant: str
    subject: Mapping[str, Any]
    ttl_ms: int = 86_400_000
    tries_max: int = 3
    pause_s_max: float = 10.0
    delivery_ms: int = 3_600_000


class Hands(Protocol):
    """What a flow does in the world, blocking or not."""

    async def send(self, request: Request) -> httpx2.Response:
        """Send a request, once."""
        ...

    async def ledger(self, method: str, *arguments: Any) -> CyclesResponse:
        """Call the ledger."""
        ...

    async def write(self, step: Callable[[], T]) -> T:
        """Make a short transaction in the payment store."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
