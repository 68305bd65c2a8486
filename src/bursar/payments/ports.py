"""What payments need of a database and of a chain, in their own words.

The rule that lives here: a store decides nothing. It keeps a record, its history and what
others must be told in one transaction; it refuses a change of a version that is no longer
there, and a worker whose claim has passed to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Protocol

from bursar.payments.outcome import Disposition, Money
from bursar.payments.records import (
    Change,
    Finding,
    Notice,
    PaymentEvent,
    PaymentRecord,
    Topic,
)


class PaymentStoreError(Exception):
    """The database could not do its work; nothing of the transaction was saved."""


class PaymentConflict(Exception):
    """An authorization or an attempt that is on record already, for another purchase (409)."""

    def __init__(self, existing: PaymentRecord) -> None:
        """Keep the record that is there; it is not changed."""
        super().__init__(
            f"payment {existing.payment_id} has this authorization or attempt for another payee, "
            "value or resource; sign a new authorization for this purchase"
        )
        self.existing = existing


@unique
class Saved(StrEnum):
    """What became of a change."""

    SAVED = "SAVED"
    STALE = "STALE"  # the record has another version by now: read it again
    FENCED = "FENCED"  # the claim passed to another worker: drop what was found
    TAKEN = "TAKEN"  # every transfer that would pay it back pays another payment back


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one change, and which of its notices were new."""

    saved: Saved
    told: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class Posted:
    """A notice in the outbox.

    Attributes:
        number: its name there; a later notice has a higher one.
        notice: what is to be told.
        attempts: how often that was tried.
        parked_at_ms: when it was given up; None while it is tried.
        reason: why it was not accepted the last time.
    """

    number: int
    notice: Notice
    attempts: int
    parked_at_ms: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class NoticeQuery:
    """Which open entries of the outbox to list, the oldest first; `after` is the last number."""

    topic: Topic | None = None
    payment_id: str | None = None
    parked: bool | None = None
    after: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class PaymentQuery:
    """Which payments to list, the newest first; `before` is the last row of the page before."""

    tenant: str | None = None
    money: Money | None = None
    disposition: Disposition | None = None
    before: tuple[int, str] | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Tally:
    """How many payments have one pair of states."""

    money: Money
    disposition: Disposition
    count: int


@dataclass(frozen=True, slots=True)
class Whose:
    """One payer's payments, in a store that several may share.

    Attributes:
        tenant: whose payments they are.
        payer: the account that pays, as the records spell it.
    """

    tenant: str
    payer: str


class Outbox(Protocol):
    """What others must be told; an entry is open until it is marked or dismissed."""

    def outbox(
        self, topic: Topic, now_ms: int, limit: int, whose: Whose | None = None
    ) -> Sequence[Posted]:
        """Return what is to be told now, oldest first; its consumer marks it afterwards."""
        ...

    def lease_notices(
        self, topic: Topic, owner: str, now_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Posted]:
        """Lease what is to be told now: of each payment the first that is open, if it is due.

        What is parked is passed over and holds up nobody.
        """
        ...

    def mark_sent(self, number: int, now_ms: int) -> None:
        """Note that a notice was accepted; that stays so, whoever says otherwise later."""
        ...

    def put_off(self, number: int, until_ms: int, reason: str | None = None) -> None:
        """Note that a notice was not accepted, why, and when to try again; its lease ends."""
        ...

    def park(
        self, number: int, now_ms: int, reason: str, notices: Sequence[Notice] = ()
    ) -> Sequence[Notice]:
        """Give a notice up until somebody revives it; return which notices about that are new."""
        ...

    def give_back_notices(self, owner: str) -> None:
        """End the leases that somebody holds, without counting an attempt."""
        ...

    def notices(self, query: NoticeQuery) -> Sequence[Posted]:
        """Return open entries."""
        ...

    def revive(self, number: int, now_ms: int) -> bool:
        """Have an open entry tried again from now on; say whether there is one."""
        ...

    def dismiss(self, number: int, now_ms: int, reason: str) -> bool:
        """Close an open entry without telling it; say whether there was one."""
        ...


class PaymentStore(Outbox, Protocol):
    """Where payments are kept. Every method is one transaction, durable when it returns."""

    def add(
        self, record: PaymentRecord, event: PaymentEvent, notices: Sequence[Notice] = ()
    ) -> tuple[PaymentRecord, bool]:
        """Keep a new payment; return what is on record, and whether it is new.

        The same authorization, or the same attempt of an intent, for the same purchase is
        answered with what is there, unchanged.

        Raises:
            PaymentConflict: it is on record for another purchase.
        """
        ...

    def get(self, payment_id: str) -> PaymentRecord | None:
        """Return a payment."""
        ...

    def attempts(self, tenant: str, intent_id: str) -> Sequence[PaymentRecord]:
        """Return every attempt of an intent, in order."""
        ...

    def presented(self, network: str, payer: str, nonce: str) -> Sequence[PaymentRecord]:
        """Return the payments that a payer authorized with a nonce, one for each asset, by id.

        A chain lets a nonce happen once for each asset, so there are several only where a payer
        has signed several.
        """
        ...

    def claim(
        self, owner: str, now_ms: int, lease_ms: int, limit: int, whose: Whose | None = None
    ) -> Sequence[PaymentRecord]:
        """Lease what is due and not leased, the longest due first; each with a new fence."""
        ...

    def save(self, changes: Sequence[Change]) -> Sequence[Result]:
        """Save changes whose version (and fence, if given) still holds; refuse the others.

        A saved change under a fence ends that lease. A notice whose key is known is not new.
        """
        ...

    def give_back(self, leases: Sequence[tuple[str, int]]) -> None:
        """End leases, by payment and fence, without changing anything else."""
        ...

    def events(self, payment_id: str) -> Sequence[PaymentEvent]:
        """Return a payment's history, oldest first."""
        ...

    def page(self, query: PaymentQuery) -> Sequence[PaymentRecord]:
        """Return a page of payments."""
        ...

    def held(self, whose: Whose, after: str, limit: int) -> Sequence[PaymentRecord]:
        """Return a payer's open payments that hold a reservation, by id, those behind `after`."""
        ...

    def tallies(self) -> Sequence[Tally]:
        """Count payments by their states."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class Prover(Protocol):
    """Finds out what became of a payment, by reading; it never sends anything."""

    def endpoint(self, record: PaymentRecord) -> str:
        """Return who would be asked; failures are counted for each."""
        ...

    async def prove(self, record: PaymentRecord) -> Finding:
        """Return what can be seen of a payment now."""
        ...
