"""`bursar restore`: a backup becomes a ledger file again.

The rule that lives here: the copy that will be served is the one that was audited, it gets its
name last, and going back to an older state than was acknowledged is said in numbers first.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bursar.cli.copies import files
from bursar.cli.copies.contents import Contents, contents
from bursar.cli.exits import (
    EXIT_DECLINED,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STORE,
    EXIT_USAGE,
    CommandError,
)
from bursar.cli.remote.show import Show
from bursar.cli.replay.progress import progress
from bursar.clock import SystemClock
from bursar.ledger.ports import StoreError, StoreFull
from bursar.payments.operate import distrust
from bursar.payments.store import open_payments
from bursar.storage.sqlite import snapshot as sqlite
from bursar.storage.sqlite.claim import Claim

_BESIDE = ("-wal", "-shm", "-journal")


def restore(
    backup: Path,
    target: Path,
    /,
    *,
    accept_loss: int | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Make a ledger file from a backup, after checking everything in it. The server is stopped.

    Every hash of every tenant's log is computed again and every balance compared with the log.
    A target that exists is never replaced: move it away first. Where TARGET.lock remembers more
    entries than the backup has, they would be lost, and that needs --accept-loss.

    Example: bursar restore backup.db ledger.db

    Parameters
    ----------
    backup
        What `bursar backup` wrote.
    target
        The new ledger file, for `bursar serve --store sqlite:///TARGET`.
    accept_loss
        How many acknowledged entries may be lost; it must be the exact number.
    as_json
        Print one JSON object.
    """
    show = Show(as_json=as_json)
    try:
        found, lost, schema, unsure = _restore(backup, target.absolute(), accept_loss, show)
    except StoreFull as error:
        raise files.no_space(target) from error
    except StoreError as error:
        raise CommandError(EXIT_STORE, str(error)) from error
    document = {"target": str(target.absolute()), **found.document(), "lost_entries": lost}
    document["payments_unsure"] = unsure
    facts = [("holds", found.sentence()), ("audit", "no findings")]
    if schema < found.schema:
        facts.append(("schema", f"brought from {schema} to {found.schema}"))
    if lost:
        facts.append(("lost", f"{lost:,} entries; account for them again with POST /v1/events"))
    if unsure:
        facts.append(("payments", f"{unsure:,} may have been sent since; the chain is asked"))
    facts.append(("serve", f"bursar serve --store sqlite:///{target}"))
    show.result(document, f"Restored {backup} to {target}", facts)
    return EXIT_OK


def _restore(
    backup: Path, target: Path, accept_loss: int | None, show: Show
) -> tuple[Contents, int, int, int]:
    """Return what was restored, what that loses, the backup's schema, and the doubtful payments."""
    with ExitStack() as stack:
        claim = _claimed(target)
        stack.callback(claim.close)
        file = stack.enter_context(files.partial(target))
        written = files.partial_name(target)
        with progress("copying", _pages(backup), quiet=show.as_json, what="pages") as advance:
            sqlite.snapshot(backup, written, lambda done, total: advance(done))
        about = sqlite.examine(written, quiet=True)
        if about.schema < about.schema_newest:
            sqlite.bring_up_to_date(written)
        found = contents(written)
        if found.findings:
            raise CommandError(EXIT_FAILED, _unsound(backup, found), findings=list(found.findings))
        lost = claim.missing(found.ledger, found.entries)
        _accepted(target, lost, accept_loss)
        with closing(open_payments(written, create=False)) as payments:
            unsure = distrust(payments, SystemClock().now_ms())
        os.fsync(file.fileno())
        claim.go_on_from(found.ledger, found.entries)
        files.publish(written, target, replacing=False)
    return found, lost, about.schema, unsure


def _claimed(target: Path) -> Claim:
    """Take the target's name, so that no server starts on it, and check that it is free.

    Raises:
        CommandError: there is something there already, or nothing can be.
        StoreUnusable: a server has it.
    """
    if not target.parent.is_dir():
        raise CommandError(EXIT_USAGE, f"folder {target.parent} does not exist; create it first")
    if target.exists() and not target.with_name(target.name + ".lock").exists():
        raise files.taken(target)
    try:
        claim = Claim(target)
    except OSError as error:
        raise CommandError(EXIT_USAGE, f"{target} cannot be written: {error.strerror}") from error
    left = [target.name + suffix for suffix in _BESIDE if _beside(target, suffix).exists()]
    if target.exists() or left:
        claim.close()
        if target.exists():
            raise files.taken(target)
        raise CommandError(
            EXIT_USAGE,
            f"{left[0]} is left of a ledger that was here; put it where that ledger is, or delete "
            "it if that ledger is gone",
        )
    return claim


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _accepted(target: Path, lost: int, accept_loss: int | None) -> None:
    """Check that what would be lost is what somebody agreed to lose."""
    if accept_loss == lost or (accept_loss is None and not lost):
        return
    if not lost:
        raise CommandError(
            EXIT_DECLINED, f"--accept-loss {accept_loss}: nothing would be lost; leave it out"
        )
    raise CommandError(
        EXIT_DECLINED,
        f"{target.name}.lock remembers {lost} entries that were acknowledged and that this backup "
        f"lacks: they would be lost. Nothing was restored; if that is meant, add --accept-loss "
        f"{lost}",
        lost_entries=lost,
    )


def _unsound(backup: Path, found: Contents) -> str:
    more = len(found.findings) - 1
    others = f" (and {more} more)" if more else ""
    return (
        f"{backup} does not agree with itself: {found.findings[0]}{others}. Nothing was restored; "
        f"`bursar audit verify {backup}` lists what is wrong"
    )


def _pages(backup: Path) -> int:
    """Return roughly how many pages there are to copy, for the progress shown."""
    return backup.stat().st_size // 4_096 if backup.is_file() else 0
