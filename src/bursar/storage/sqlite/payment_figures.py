"""What the payments of a ledger file are like right now, for those who watch them.

The rule that lives here: asking costs no writer anything, and what is closed costs nothing,
however much of it there is: it is counted when it changes. A file of an older schema shows none.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bursar.payments.outcome import UNRESOLVED, Disposition, Money
from bursar.payments.ports import Tally
from bursar.payments.schedule import Pace
from bursar.storage.sqlite import connect as opening

ATTENTION = (Disposition.ORPHANED, Disposition.UNPAID_DELIVERY, Disposition.REFUND_DUE)
"""What is proved and still needs somebody."""
TALLIES = (
    "SELECT money, disposition, sum(count) FROM payment_tally GROUP BY money, disposition "
    "HAVING sum(count) > 0"
)
Open = tuple[Money, Disposition, str, str]
"""Money, disposition, network and asset of what is not closed."""


@dataclass(frozen=True, slots=True)
class PaymentFigures:
    """One moment's payments.

    Attributes:
        tallies: how many there are, by their states.
        values: what is not closed is worth, in the asset's smallest unit.
        ages_s: of each unresolved payment, in seconds since its record.
        late: unresolved payments whose authorization ended twice the finality ago.
        due: payments that should be looked at by now and that nobody has claimed.
        lag_s: since when the longest due of them waits, in seconds.
    """

    tallies: Sequence[Tally] = ()
    values: Mapping[Open, int] | None = None
    ages_s: Sequence[float] = ()
    late: int = 0
    due: int = 0
    lag_s: float = 0.0

    def count(self, *wanted: Money | Disposition) -> int:
        """Return how many payments have one of these states."""
        return sum(
            tally.count
            for tally in self.tallies
            if tally.money in wanted or tally.disposition in wanted
        )


def gather(path: Path, now_ms: int, pace: Pace) -> PaymentFigures:
    """Return the figures of a ledger file.

    Raises:
        StoreError: the file cannot be read.
    """
    with (
        opening.translated("reading the payments' figures"),
        # On its own connection, which cannot create the file if somebody has taken it away.
        closing(opening.connect(path, read_only=True, untouched=True)) as connection,
    ):
        if not knows(connection, "payment_tally"):
            return PaymentFigures()
        return _gather(connection, now_ms, pace)


def knows(connection: sqlite3.Connection, table: str) -> bool:
    """Return whether a file is of a schema that has a table."""
    sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
    return connection.execute(sql, (table,)).fetchone() is not None


def _gather(connection: sqlite3.Connection, now_ms: int, pace: Pace) -> PaymentFigures:
    tallies = [Tally(Money(m), Disposition(d), n) for m, d, n in connection.execute(TALLIES)]
    columns = "money, disposition, network, asset, value"
    values: Counter[Open] = Counter()
    ages, late = list[float](), 0
    limit_s = (now_ms - 2 * pace.finality_ms) / 1_000
    for *about, value, created_ms, before_s in connection.execute(
        f"SELECT {columns}, created_at_ms, valid_before_s FROM payment WHERE money IN "
        f"({_marks(UNRESOLVED)})",
        sorted(UNRESOLVED),
    ):
        values[_open(*about)] += int(value)
        ages.append(max(0, now_ms - created_ms) / 1_000)
        late += before_s is not None and before_s <= limit_s
    for *about, value in connection.execute(
        f"SELECT {columns} FROM payment INDEXED BY payment_by_disposition "
        f"WHERE disposition IN ({_marks(ATTENTION)})",
        ATTENTION,
    ):
        values[_open(*about)] += int(value)
    due, since_ms = connection.execute(
        "SELECT count(*), min(next_check_at_ms) FROM payment INDEXED BY payment_due "
        "WHERE next_check_at_ms <= ? AND lease_until_ms <= ?",
        (now_ms, now_ms),
    ).fetchone()
    lag_s = 0.0 if since_ms is None else (now_ms - since_ms) / 1_000
    return PaymentFigures(tallies, values, ages, late, due, lag_s)


def _marks(values: Sequence[str] | frozenset[Money]) -> str:
    return ", ".join("?" * len(values))


def _open(money: str, disposition: str, network: str, asset: str) -> Open:
    return Money(money), Disposition(disposition), network, asset.lower()
