"""Opening the payments of a ledger file.

The rule that lives here: payments lie in the ledger's own file, so that one backup holds both,
and opening them never takes the file from a server that is running on it.
"""

from __future__ import annotations

import os
from pathlib import Path

from bursar.payments.ports import PaymentStore
from bursar.storage.sqlite.payments import SqlitePayments


def open_payments(
    path: str | os.PathLike[str], *, create: bool = True, migrate: bool = False
) -> PaymentStore:
    """Open the payments of a ledger file, beside a server or without one.

    Args:
        path: the ledger's file.
        create: whether a missing file is created.
        migrate: whether a file of an older schema is brought up to date; back it up first.

    Raises:
        StoreUnusable: the file is foreign, corrupt, or of another schema.
    """
    return SqlitePayments.open(Path(path), create=create, migrate=migrate)
