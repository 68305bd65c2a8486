"""What is to be told of the payments of a ledger file right now, for those who watch it.

The rule that lives here: asking costs no writer anything, and what was told costs nothing at
all, however much it is: only open entries are looked at, by the index that holds no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from bursar.storage.sqlite import connect as opening

_OPEN = (
    "SELECT topic, parked_at_ms IS NOT NULL, count(*), min(available_at_ms) "
    "FROM payment_outbox INDEXED BY payment_outbox_open WHERE sent_at_ms IS NULL GROUP BY 1, 2"
)
_KNOWN = "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = 'payment_outbox_open'"


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """One moment's outbox, by topic and whether entries are parked.

    Attributes:
        counts: how many entries are open.
        overdue_s: since when the longest due of those that are not parked could be told.
    """

    counts: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    overdue_s: Mapping[str, float] = field(default_factory=dict)


def gather(path: Path, now_ms: int) -> OutboxFigures:
    """Return the figures of a ledger file; one of an older schema has none.

    Raises:
        StoreError: the file cannot be read.
    """
    with (
        opening.translated("reading the outbox's figures"),
        closing(opening.connect(path, read_only=True, untouched=True)) as connection,
    ):
        if connection.execute(_KNOWN).fetchone() is None:
            return OutboxFigures()
        counts, overdue_s = dict[tuple[str, bool], int](), dict[str, float]()
        for topic, is_parked, count, since_ms in connection.execute(_OPEN):
            counts[topic, bool(is_parked)] = count
            if not is_parked:
                overdue_s[topic] = max(0, now_ms - since_ms) / 1_000
    return OutboxFigures(counts, overdue_s)
