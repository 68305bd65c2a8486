"""Ends of logs, noted on one day and compared on another.

The rule that lives here: a hash chain cannot show that its newest links are missing. A note of
where each log ended, kept where the ledger's owner cannot reach it, can.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bursar.cli.exits import EXIT_USAGE, CommandError
from bursar.core.state import Head
from bursar.ledger.ports import Reader

NOTE_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Note:
    """Which ledger was looked at, and `(seq, hash)` of each tenant's last entry then."""

    ledger: str
    heads: Mapping[str, tuple[int, str]]


def save(path: Path, ledger: str, heads: Mapping[str, Head]) -> None:
    """Write a note to a new file, or over an older one, in one step."""
    text = json.dumps({"ledger": ledger, "heads": document(heads)}, indent=2) + "\n"
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise CommandError(EXIT_USAGE, f"--save-heads: {path}: {error.strerror}") from error


def document(heads: Mapping[str, Head]) -> dict[str, Any]:
    """Return heads as JSON shows them."""
    return {
        tenant: {"seq": head.seq, "hash": head.entry_hash} for tenant, head in sorted(heads.items())
    }


def load(path: Path) -> Note:
    """Read a note.

    Raises:
        CommandError: it is not one.
    """
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(NOTE_BYTES_MAX))
        heads = {
            str(tenant): (int(head["seq"]), str(head["hash"]))
            for tenant, head in said["heads"].items()
        }
        return Note(str(said["ledger"]), heads)
    except OSError as error:
        raise CommandError(EXIT_USAGE, f"--heads: {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CommandError(
            EXIT_USAGE, f"--heads: {path} is not a file that --save-heads wrote"
        ) from error


def compare(note: Note, ledger: str, reader: Reader) -> list[str]:
    """Return what a ledger lacks, or has otherwise, of what was noted of it."""
    if note.ledger != ledger:
        return [f"this is ledger {ledger}, but the heads were noted of ledger {note.ledger}"]
    found: list[str] = []
    now = reader.heads()
    for tenant, (seq, entry_hash) in sorted(note.heads.items()):
        where = f"log of tenant {tenant}"
        head = now.get(tenant)
        last = head.seq if head is not None else 0
        if last < seq:
            found.append(
                f"{where}: ends at entry {last}, but entry {seq} was noted; missing: {seq - last}"
            )
            continue
        entry = next(iter(reader.entries(tenant, seq - 1)), None) if seq else None
        if seq and (entry is None or entry.seq != seq or entry.entry_hash != entry_hash):
            found.append(f"{where}: entry {seq} is not the one that was noted")
    return found
