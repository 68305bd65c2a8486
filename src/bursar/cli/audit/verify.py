"""`bursar audit verify`: does a ledger agree with itself, and with what was noted of it?

The rule that lives here: the verdict is made on this machine. Of a server a backup is taken,
so that what is audited is not what answers for it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.text import Text

from bursar.cli.audit import heads as noted
from bursar.cli.copies.backup import fetch
from bursar.cli.copies.contents import Contents, contents
from bursar.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_STORE, CommandError
from bursar.cli.remote.options import HERE, Remote
from bursar.cli.remote.show import Column, Show
from bursar.ledger.ports import Reader, StoreError

_HEADS = (
    Column("tenant", lambda row: row["tenant"]),
    Column("last entry", lambda row: f"{row['seq']:,}", number=True),
    Column("hash", lambda row: row["hash"]),
)


def verify(
    file: Path | None = None,
    /,
    *,
    heads: Path | None = None,
    save_heads: Path | None = None,
    remote: Remote = HERE,
) -> int:
    """Check every hash of every tenant's log, and every balance against the log.

    With FILE: a ledger or a backup, without a server; a ledger that is being served is copied
    first. Without: a backup of the server is taken over HTTP and checked here. Exit code 1 if
    anything is found. Only noted heads show that entries at the end of a log are missing.

    Example: bursar audit verify backup.db --heads monday.json

    Parameters
    ----------
    file
        The ledger file or backup; by default the server is asked for a backup.
    heads
        Compare with the ends of the logs that --save-heads noted earlier.
    save_heads
        Note where each log ends, for a later --heads; only if nothing is found.
    """
    note = None if heads is None else noted.load(heads)

    def also(ledger: str, reader: Reader) -> list[str]:
        return [] if note is None else noted.compare(note, ledger, reader)

    try:
        if file is not None:
            found = contents(file, also)
        else:
            with tempfile.TemporaryDirectory(prefix="bursar-verify-") as folder:
                copy = Path(folder) / "backup.db"
                with remote.connected() as caller:
                    fetch(caller, copy, replacing=False, quiet=remote.as_json)
                found = contents(copy, also)
    except StoreError as error:
        raise CommandError(EXIT_STORE, str(error)) from error
    if save_heads is not None and not found.findings:
        noted.save(save_heads, found.ledger, found.heads)
    _tell(found, remote.show, compared=note is not None)
    return EXIT_FAILED if found.findings else EXIT_OK


def _tell(found: Contents, show: Show, *, compared: bool) -> None:
    """Show the verdict, and where each log ends."""
    document: dict[str, Any] = found.document() | {
        "heads": noted.document(found.heads),
        "heads_compared": compared,
    }
    count = len(found.findings)
    verdict = "no findings" if not count else f"{count} finding{'s' if count > 1 else ''}"
    facts: list[tuple[str, str | Text]] = [
        ("ledger", found.ledger),
        ("holds", found.sentence()),
        ("schema", str(found.schema)),
    ]
    show.result(document, f"Audit: {verdict}", facts)
    if show.as_json:
        return
    for finding in found.findings:
        show.text(f"  {finding}", style="red")
    rows = [
        {"tenant": tenant, "seq": head.seq, "hash": head.entry_hash}
        for tenant, head in sorted(found.heads.items())
    ]
    if rows:
        show.console.print(show.table(rows, _HEADS))
