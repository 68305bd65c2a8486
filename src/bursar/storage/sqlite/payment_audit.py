"""Do the payments of a file agree with their own history?

The rule that lives here: a payment changes only together with the line of history that says
why. So its version, its money and its disposition are those of its last line, and a file in
which they are not was changed by somebody else than Bursar.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bursar.storage.sqlite import connect as opening
from bursar.storage.sqlite.payment_figures import knows

FINDINGS_MAX = 20
_PARTED = (
    "SELECT p.payment_id, p.version, p.money, e.seq, e.money FROM payment p "
    "LEFT JOIN payment_event e ON e.tenant = p.tenant AND e.payment_id = p.payment_id "
    "AND e.seq = p.version "
    "WHERE e.seq IS NULL OR e.money <> p.money OR e.disposition <> p.disposition LIMIT ?"
)
_TORN = (
    "SELECT payment_id, count(*), max(seq) FROM payment_event GROUP BY tenant, payment_id "
    "HAVING count(*) <> max(seq) LIMIT ?"
)
_STRAY = (
    "SELECT payment_id FROM payment_authorization "
    "WHERE payment_id NOT IN (SELECT payment_id FROM payment) LIMIT ?"
)
_MISCOUNTED = (
    "SELECT tenant, money, disposition, sum(kept), sum(counted) FROM "
    "(SELECT tenant, money, disposition, count AS kept, 0 AS counted FROM payment_tally "
    "UNION ALL SELECT tenant, money, disposition, 0, count(*) FROM payment "
    "GROUP BY tenant, money, disposition) "
    f"GROUP BY tenant, money, disposition HAVING sum(kept) <> sum(counted) LIMIT {FINDINGS_MAX}"
)


def audit(path: Path) -> tuple[int, Sequence[str]]:
    """Return how many payments a file has, and what is wrong with them.

    Nobody else may have the file open.
    """
    with (
        opening.usable(path),
        closing(opening.connect(path, read_only=True, untouched=True, immutable=True)) as reading,
    ):
        if not knows(reading, "payment"):
            return 0, ()
        (count,) = reading.execute("SELECT count(*) FROM payment").fetchone()
        found = list[str]()
        for payment, version, money, seq, said in reading.execute(_PARTED, (FINDINGS_MAX,)):
            if seq is None:
                found.append(f"payment {payment} has version {version} and no history of it")
            else:
                found.append(
                    f"payment {payment} is {money}, and its history says {said}; or what is left "
                    "to do differs"
                )
        for payment, lines, last in reading.execute(_TORN, (FINDINGS_MAX,)):
            found.append(f"payment {payment} has {lines} lines of history, and the last is {last}")
        for (payment,) in reading.execute(_STRAY, (FINDINGS_MAX,)):
            found.append(f"an authorization belongs to payment {payment}, which is not there")
        if knows(reading, "payment_tally"):
            for tenant, money, about, kept, counted in reading.execute(_MISCOUNTED):
                found.append(
                    f"tenant {tenant} has {counted} payments that are {money} and {about}, and "
                    f"their tally says {kept}"
                )
    return count, found
