"""What is in a ledger file or a backup, and what is wrong with it.

The rule that lives here: the file is judged here, on this machine, from its own bytes, and
never changed: what is in use, or of an older schema, is copied first and the copy is judged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bursar.core.state import Head
from bursar.ledger.audit import audit
from bursar.ledger.ports import Reader, StoreError
from bursar.storage.sqlite import payment_audit
from bursar.storage.sqlite import snapshot as sqlite
from bursar.wire.timestamps import format_timestamp

Also = Callable[[str, Reader], Sequence[str]]
"""Looks for more in a ledger, given its identity and its reader; returns findings."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A ledger as its file shows it; `findings` is empty if it agrees with itself."""

    ledger: str
    schema: int
    schema_newest: int
    tenants: int
    budgets: int
    entries: int
    heads: Mapping[str, Head]
    findings: tuple[str, ...]
    payments: int = 0

    @property
    def newest_ms(self) -> int | None:
        """When the last entry was made, in epoch milliseconds; None in an empty ledger."""
        return max((head.at_ms for head in self.heads.values()), default=None)

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        newest = self.newest_ms
        return {
            "ledger": self.ledger,
            "schema": self.schema,
            "tenants": self.tenants,
            "budgets": self.budgets,
            "entries": self.entries,
            "payments": self.payments,
            "newest_entry_at": None if newest is None else format_timestamp(newest),
            "ok": not self.findings,
            "findings": list(self.findings),
        }

    def sentence(self) -> str:
        """Return what is in it, for people."""
        newest = self.newest_ms
        until = "" if newest is None else f", the last of {format_timestamp(newest)}"
        paid = f", {self.payments:,} payments" if self.payments else ""
        return (
            f"{self.tenants:,} tenants, {self.budgets:,} budgets, {self.entries:,} entries{until}"
            f"{paid}"
        )


def _nothing(ledger: str, reader: Reader) -> Sequence[str]:
    del ledger, reader
    return ()


def contents(path: Path, also: Also = _nothing) -> Contents:
    """Check a ledger file or a backup; safe while a server writes to it.

    Args:
        path: the file.
        also: looks for more than the audit does.

    Raises:
        StoreUnusable: it is not a ledger, or none that this program can read.
        StoreFull: it has to be copied first, and there is no space for that.
    """
    before = _mark(path)
    if not sqlite.in_use(path):
        found = _judge(path, also)
        # Somebody may have opened it meanwhile; then this was read from a moving file.
        if found is not None and _mark(path) == before and not sqlite.in_use(path):
            return found
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bursar-verify-"))
        copy = Path(folder) / "copy.db"
        sqlite.snapshot(path, copy)
        about = sqlite.examine(copy, quiet=True)
        if about.schema < about.schema_newest:
            sqlite.bring_up_to_date(copy)
        found = _judge(copy, also)
        if found is None:
            raise StoreError(f"{path} cannot be brought to schema {about.schema_newest}")
        return replace(found, schema=about.schema)


def _judge(path: Path, also: Also) -> Contents | None:
    """Check a file that nobody else has open; None if its schema is an older one."""
    about = sqlite.examine(path, quiet=True)
    if about.schema < about.schema_newest:
        return None
    with closing(sqlite.read_quiet(path)) as reader:
        heads = dict(reader.heads())
        report = audit(reader)
        more = tuple(also(about.ledger, reader))
    payments, parted = payment_audit.audit(path)
    damage = tuple(f"the file is damaged: {what}" for what in about.damage)
    return Contents(
        about.ledger,
        about.schema,
        about.schema_newest,
        report.tenants,
        report.budgets,
        report.entries,
        heads,
        damage + report.findings + tuple(parted) + more,
        payments,
    )


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what changes when somebody writes to a file; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
