"""What was presented under open mandates, shared by all processes that hold the file.

The rule that lives here: an open mandate is used by claiming it before anything is paid. The
checks of its limits and the claim are one transaction, so of many that race at most as many get
through as the user allowed, and their sum stays within the budget. A claim whose payment may have
been made counts until somebody knows better: it is never given back by time.

Why not the ledger: a budget there counts US dollars at the rate of the day, and an operator makes
it; a mandate's limits are in the currency that the user signed, count payments and calendar
periods besides, and come with the mandate. So they have a small SQLite file of their own. The
ledger still sees every payment, and its key for an open mandate that may be used once holds
across machines; this file holds for the processes of one machine.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from bursar.ap2.constraints import check_payment
from bursar.ap2.errors import AP2MandateError
from bursar.ap2.findings import Finding, FindingCode, Usage, check_count
from bursar.ap2.mandates import OpenPaymentMandate, PaymentMandate
from bursar.ap2.sendable import sendable_text
from bursar.vocabulary import AMOUNT_MAX

APPLICATION_ID: Final = 0x62_61_70_32  # "bap2": no other program's file is taken for ours
VERSION: Final = 1
BUSY_S: Final = 30.0
HOLDER_CHARS_MAX: Final = 256

_SCHEMA: Final = """
CREATE TABLE claim (
    transaction_id TEXT PRIMARY KEY,
    open_mandate_hash TEXT NOT NULL,
    mandate_hash TEXT NOT NULL,
    holder TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('HELD', 'SPENT', 'RELEASED')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
    currency TEXT NOT NULL,
    claimed_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX claim_by_open_mandate ON claim (open_mandate_hash);
"""
_COLUMNS: Final = (
    "transaction_id, open_mandate_hash, mandate_hash, holder, state, amount_minor, currency, "
    "claimed_at_ms"
)


class ClaimState(StrEnum):
    """What became of a claim."""

    HELD = "HELD"
    SPENT = "SPENT"
    RELEASED = "RELEASED"


@dataclass(frozen=True, slots=True)
class Claim:
    """One payment under an open mandate.

    Attributes:
        transaction_id: of the closed payment mandate.
        open_mandate_hash: what it uses up.
        mandate_hash: of the closed payment mandate.
        holder: who presents it.
        state: held until it is known; a held claim counts as spent.
        amount_minor: how much, in the currency's minor unit.
        currency: its code.
        claimed_at_ms: when.
    """

    transaction_id: str
    open_mandate_hash: str
    mandate_hash: str
    holder: str
    state: ClaimState
    amount_minor: int
    currency: str
    claimed_at_ms: int


@dataclass(frozen=True, slots=True)
class Presented:
    """The answer to presenting a mandate.

    Attributes:
        claim: what may be paid now; None if there are findings.
        findings: why nothing may be paid.
        again: the same holder claimed it before, and does not know what became of it.
    """

    claim: Claim | None
    findings: tuple[Finding, ...] = ()
    again: bool = False


class Consumption:
    """The claims in one file. Objects may be shared by threads, and files by processes."""

    def __init__(self, path: Path | str) -> None:
        """Open the file; it is made, for its owner alone, if it is new.

        Raises:
            AP2MandateError: it cannot be opened, or it is something else.
        """
        self._path = Path(path)
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise AP2MandateError(f"{path}: {error.strerror}") from error
        with self._transaction() as database:
            found = database.execute("PRAGMA application_id").fetchone()[0]
            tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if not found and not tables:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {VERSION}")
                return
            version = database.execute("PRAGMA user_version").fetchone()[0]
        if (found, version) != (APPLICATION_ID, VERSION):
            raise AP2MandateError(
                f"{path}: not a file of claims of version {VERSION}; give it a file of its own"
            )

    def present(
        self,
        open_mandate: OpenPaymentMandate,
        payment: PaymentMandate,
        *,
        holder: str,
        now_ms: int,
        open_checkout_digest: str | None = None,
    ) -> Presented:
        """Claim a payment, if everything about it is what the user allowed.

        The same holder may present the same mandate again, as after a crash, and gets the claim
        that it has: `again` tells it to find out what became of the payment before it pays. That
        holds after the mandates expired, too: what was admitted in time may be finished.
        Anybody else, and another mandate for the same transaction, is refused.

        Args:
            open_mandate: what the user allowed.
            payment: the closed mandate to be paid.
            holder: a name of whoever presents, the same after a restart, and of nobody else.
            now_ms: the time, in milliseconds of the Unix epoch.
            open_checkout_digest: see `check_payment`.

        Raises:
            AP2MandateError: the holder has no name, `now_ms` is no time, or the file cannot be
                used.
        """
        _check_holder(holder)
        check_count(now_ms, field="now_ms")
        wanted = Claim(
            payment.transaction_id,
            open_mandate.mandate_hash,
            payment.mandate_hash,
            holder,
            ClaimState.HELD,
            payment.payment_amount.amount,
            payment.payment_amount.currency,
            now_ms,
        )
        with self._transaction() as database:
            earlier = _find(database, wanted.transaction_id)
            if earlier is not None and earlier.state is not ClaimState.RELEASED:
                refused = _not_again(earlier, wanted)
                if refused is not None:
                    return Presented(None, (refused,))
                return Presented(earlier, again=True)
            usage = _usage(database, wanted.open_mandate_hash)
            findings = check_payment(
                open_mandate,
                payment,
                now_ms=now_ms,
                usage=usage,
                open_checkout_digest=open_checkout_digest,
            )
            if findings:
                return Presented(None, findings)
            _save(database, wanted)
        return Presented(wanted)

    def settle(self, claim: Claim, *, amount_minor: int | None = None) -> Claim:
        """Note that the payment was made, with what it cost if that is not the mandate's amount.

        Raises:
            AP2MandateError: the claim was released, or settled with another amount.
        """
        amount = claim.amount_minor if amount_minor is None else amount_minor
        if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
            raise AP2MandateError(
                f"amount_minor must be an int from 0 to 2**63 - 1; got {amount!r}"
            )
        return self._end(claim, replace(claim, state=ClaimState.SPENT, amount_minor=amount))

    def release(self, claim: Claim) -> Claim:
        """Give a claim back. Only for a payment that certainly was not and will not be made.

        Raises:
            AP2MandateError: the payment was settled.
        """
        return self._end(claim, replace(claim, state=ClaimState.RELEASED))

    def usage(self, open_mandate: OpenPaymentMandate) -> Usage:
        """Return what was presented under an open mandate, held claims included."""
        with self._transaction() as database:
            return _usage(database, open_mandate.mandate_hash)

    def claims(self, open_mandate: OpenPaymentMandate) -> list[Claim]:
        """Return the claims under an open mandate, the oldest first."""
        with self._transaction() as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM claim WHERE open_mandate_hash = ? "
                "ORDER BY claimed_at_ms, transaction_id",
                (open_mandate.mandate_hash,),
            )
            return [_claim(row) for row in rows]

    def _end(self, claim: Claim, ended: Claim) -> Claim:
        with self._transaction() as database:
            known = _find(database, claim.transaction_id)
            if known is None or (known.open_mandate_hash, known.holder) != (
                claim.open_mandate_hash,
                claim.holder,
            ):
                raise AP2MandateError(f"transaction {claim.transaction_id} is not claimed by you")
            ended = replace(ended, claimed_at_ms=known.claimed_at_ms)
            if known.state is not ClaimState.HELD and known != ended:
                raise AP2MandateError(
                    f"transaction {claim.transaction_id} is {known.state} with "
                    f"{known.amount_minor} {known.currency} and stays so"
                )
            _save(database, ended)
        return ended

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the database to one writer at a time; what it did is on disk, or undone."""
        try:
            # A connection for each transaction: none is carried into a thread or a fork.
            database = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            with contextlib.closing(database):
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                try:
                    yield database
                except BaseException:
                    database.execute("ROLLBACK")
                    raise
                database.execute("COMMIT")
        except sqlite3.Error as error:
            raise AP2MandateError(f"{self._path}: {error}") from error


def _check_holder(holder: object) -> None:
    if not isinstance(holder, str) or not 0 < len(holder) <= HOLDER_CHARS_MAX:
        raise AP2MandateError(f"holder must be text of 1 to {HOLDER_CHARS_MAX} characters")
    if sendable_text(holder) != holder:
        raise AP2MandateError("holder must not hold NUL or lone surrogates")


def _not_again(earlier: Claim, wanted: Claim) -> Finding | None:
    """Say why a transaction that is claimed already is not this one's to pay."""
    same = (earlier.open_mandate_hash, earlier.mandate_hash) == (
        wanted.open_mandate_hash,
        wanted.mandate_hash,
    )
    if earlier.state is ClaimState.SPENT:
        said = f"{earlier.holder} paid it"
    elif not same:
        said = "it was presented under another mandate, and may have been paid"
    elif earlier.holder != wanted.holder:
        said = f"{earlier.holder} presented it and may be paying now"
    else:
        return None
    return Finding(FindingCode.CONSUMED, f"transaction {wanted.transaction_id}", said)


def _find(database: sqlite3.Connection, transaction_id: str) -> Claim | None:
    row = database.execute(
        f"SELECT {_COLUMNS} FROM claim WHERE transaction_id = ?", (transaction_id,)
    ).fetchone()
    return None if row is None else _claim(row)


def _claim(row: tuple[str, str, str, str, str, int, str, int]) -> Claim:
    transaction_id, opened, mandate, holder, state, amount, currency, at_ms = row
    return Claim(
        transaction_id, opened, mandate, holder, ClaimState(state), amount, currency, at_ms
    )


def _save(database: sqlite3.Connection, claim: Claim) -> None:
    database.execute(
        f"INSERT OR REPLACE INTO claim ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            claim.transaction_id,
            claim.open_mandate_hash,
            claim.mandate_hash,
            claim.holder,
            claim.state.value,
            claim.amount_minor,
            claim.currency,
            claim.claimed_at_ms,
        ),
    )


def _usage(database: sqlite3.Connection, open_mandate_hash: str) -> Usage:
    """Add up what counts; in Python, where a sum has no largest value."""
    rows = database.execute(
        "SELECT amount_minor, currency, claimed_at_ms FROM claim "
        "WHERE open_mandate_hash = ? AND state <> 'RELEASED'",
        (open_mandate_hash,),
    ).fetchall()
    spent: dict[str, int] = {}
    for amount, currency, _ in rows:
        spent[currency] = spent.get(currency, 0) + amount
    return Usage(len(rows), spent, max((at for _, _, at in rows), default=None))
