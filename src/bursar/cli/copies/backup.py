"""`bursar backup`: one committed state of a server's ledger, received whole or not at all.

The rule that lives here: what arrived is compared with the digest that the server sent, and
opened and checked as a ledger, before it gets its name.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx2

from bursar.cli.copies import files
from bursar.cli.copies.contents import Contents, contents
from bursar.cli.exits import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_SERVER,
    EXIT_STORE,
    EXIT_USAGE,
    CommandError,
)
from bursar.cli.remote.caller import As, Caller
from bursar.cli.remote.options import HERE, Flag, Remote
from bursar.cli.replay.progress import progress
from bursar.ledger.ports import StoreError
from bursar.storage.sqlite import snapshot as sqlite

PATH = "/v1/admin/backup"
_DIGEST = re.compile(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):")
_KIB = 1_024


@dataclass(frozen=True, slots=True)
class Received:
    """What was received and published: its size, digest, and what it says of itself."""

    size: int
    sha256: str
    about: sqlite.About


def backup(
    out: Path, /, *, force: Flag = False, verify: Flag = False, remote: Remote = HERE
) -> int:
    """Back up the ledger of a running server to a new file, without stopping anybody.

    The file is one moment's state. It has its name only when it is whole, its digest is the
    server's, and it is on disk. Keep it as you keep the ledger: it holds everything, the hashes
    of all API keys and what they need included.

    Example: bursar backup backup.db

    Parameters
    ----------
    out
        The new file.
    force
        Replace OUT if it exists; until the end it stays as it was.
    verify
        Audit the backup too: every hash, and every balance against the log.
    """
    out = out.absolute()
    _check(out, force)
    found: Contents | None = None
    with remote.connected() as caller:
        received = fetch(caller, out, replacing=force, quiet=remote.as_json)
    if verify:
        try:
            found = contents(out)
        except StoreError as error:
            raise CommandError(EXIT_STORE, str(error)) from error
    about = received.about
    document = {
        "file": str(out),
        "bytes": received.size,
        "sha256": received.sha256,
        "ledger": about.ledger,
        "schema": about.schema,
        "entries": about.entries,
    }
    facts = [
        ("size", f"{received.size:,} bytes"),
        ("holds", f"{about.entries:,} entries"),
        ("sha-256", received.sha256),
    ]
    if found is not None:
        document |= {"ok": not found.findings, "findings": list(found.findings)}
        facts[1] = ("holds", found.sentence())
        facts.append(("audit", "; ".join(found.findings) or "no findings"))
    else:
        facts.append(("check it", f"bursar audit verify {out.name}"))
    remote.show.result(document, f"Backed up {caller.profile.base_url} to {out}", facts)
    return EXIT_FAILED if found is not None and found.findings else EXIT_OK


def fetch(caller: Caller, out: Path, *, replacing: bool, quiet: bool) -> Received:
    """Receive a backup into `out`, which is there only when it is whole and checked.

    Raises:
        CommandError: why there is none.
    """
    with files.partial(out) as file:
        written = files.partial_name(out)
        try:
            with caller.stream(PATH, who=As.OPERATOR) as response:
                size, sha256 = _receive(response, file, quiet=quiet)
            os.fsync(file.fileno())
            about = sqlite.examine(written, quiet=True)
        except httpx2.TransportError as error:
            raise CommandError(
                EXIT_SERVER,
                f"the backup was cut off: {str(error) or type(error).__name__}; run it again",
            ) from error
        except StoreError as error:
            raise CommandError(
                EXIT_SERVER, f"what the server sent is no backup: {error}"
            ) from error
        except OSError as error:
            raise files.no_space(out) from error
        if about.damage:
            raise CommandError(EXIT_FAILED, f"the server's ledger is damaged: {about.damage[0]}")
        files.publish(written, out, replacing=replacing)
    return Received(size, sha256, about)


def _check(out: Path, force: bool) -> None:
    """Refuse what cannot be written, before anything is asked for."""
    if out.is_dir() or not out.parent.is_dir():
        what = f"{out} is a directory" if out.is_dir() else f"folder {out.parent} does not exist"
        raise CommandError(EXIT_USAGE, f"{what}; name a new file")
    if not out.exists():
        return
    if not force:
        raise CommandError(EXIT_USAGE, f"{out} exists; name a new file, or replace it with --force")
    if sqlite.in_use(out) or out.with_name(out.name + ".lock").exists():
        raise CommandError(EXIT_USAGE, f"{out} is a ledger that is served; name another file")


def _receive(response: httpx2.Response, file: BinaryIO, *, quiet: bool) -> tuple[int, str]:
    """Write a response's body to a file and return its size and digest, which are checked."""
    expected = _DIGEST.search(response.headers.get("repr-digest", ""))
    total = response.headers.get("content-length", "")
    if expected is None or not total.isdigit():
        raise CommandError(
            EXIT_SERVER,
            f"{response.url.host} sent no digest with its backup; is it a bursar server?",
        )
    digest, size = hashlib.sha256(), 0
    with progress("receiving", int(total) // _KIB, quiet=quiet, what="KiB") as advance:
        for chunk in response.iter_bytes(_KIB * _KIB):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            advance(size // _KIB)
    file.flush()
    if size != int(total) or digest.digest() != base64.b64decode(expected[1]):
        raise CommandError(
            EXIT_SERVER, "the backup arrived damaged: its digest is not the server's; run it again"
        )
    return size, digest.hexdigest()
