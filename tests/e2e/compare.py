"""What clients were told against what is stored.

The rule that lives here: the comparison reads the file, not the server's word for it, and
names every difference.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import schemas
from bursar.core.entry import Entry
from bursar.ledger.audit import audit
from bursar.ledger.ports import BudgetQuery
from bursar.storage.sqlite.reader import SqliteReader
from e2e.load import Asked


def stored_balances(store: Path, tenant: str) -> dict[str, dict[str, int]]:
    """Return the amounts of every budget in the file, by the path below the tenant."""
    reader = SqliteReader(store)
    try:
        rows = reader.budgets(BudgetQuery(tenant=tenant, limit=200)).rows
    finally:
        reader.close()
    return {
        row.scope.removeprefix(f"tenant:{tenant}"): {
            "allocated": row.allocated,
            "remaining": row.remaining,
            "reserved": row.reserved,
            "spent": row.spent,
            "debt": row.debt,
        }
        for row in rows
    }


class Witness:
    """Follows the log of one tenant in a ledger file, also while a server writes to it."""

    def __init__(self, store: Path, tenant: str) -> None:
        self._store = store
        self._tenant = tenant
        self._seen = 0
        self._by_key: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)

    def entries(self, asked: Asked) -> list[Entry]:
        """Return the entries that `look` found for an operation."""
        return self._by_key.get((asked.endpoint, asked.key), [])

    def look(self) -> list[str]:
        """Read what is new in the log and audit the ledger; return what is wrong."""
        reader = SqliteReader(self._store)
        try:
            for entry in reader.entries(self._tenant, self._seen):
                self._seen = entry.seq
                if entry.endpoint is not None and entry.key is not None:
                    self._by_key[entry.endpoint, entry.key].append(entry)
            return list(audit(reader).findings)
        finally:
            reader.close()

    def differences(self, all_asked: Iterable[Asked]) -> list[str]:
        """Return where the log and the answers disagree, both ways."""
        found: list[str] = []
        expected = {(asked.endpoint, asked.key) for asked in all_asked if not asked.pending}
        found += [f"{key} is stored, nobody asked" for key in self._by_key.keys() - expected]
        for asked in all_asked:
            entries = self.entries(asked)
            if len(entries) != (not asked.pending):
                found.append(f"{asked.endpoint} {asked.key}: {len(entries)} entries")
                continue
            found += _broken(asked)
            for reply in asked.replies:
                stored = entries[0]
                if (reply.status, reply.lasting) != (stored.status, stored.body):
                    found.append(f"{asked.key}: told {reply.body!r}, stored {stored.body!r}")
        return found


def _broken(asked: Asked) -> list[str]:
    """Return where answers that were not looked at yet break the protocol."""
    found: list[str] = []
    for reply in asked.replies[asked.checked :]:
        found += schemas.problems("POST", asked.path, reply.status, reply.headers, reply.body)
    asked.checked = len(asked.replies)
    return found
