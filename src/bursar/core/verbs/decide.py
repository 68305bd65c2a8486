"""Decide: what a reserve would answer now, without holding anything (protocol 5.1).

The ladder is reserve's own. Refusals that a live reserve gives as 409 or 404 are a DENY
here; a wrong unit, an unreadable tenant or a suspended one stay errors.
"""

from __future__ import annotations

from bursar.core.commands import Decide
from bursar.core.outcomes import Changes, Decided, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.verbs import reserve
from bursar.vocabulary import Decision


def evaluate(snapshot: Snapshot, command: Decide, now_ms: int) -> reserve.Hold | Refused:
    """Climb reserve's ladder."""
    return reserve.ladder(
        snapshot, command.tenant, command.scopes, command.unit, command.estimate_amount, now_ms
    )


def apply(command: Decide, hold: reserve.Hold, now_ms: int) -> Changes:
    """Answer ALLOW, or ALLOW_WITH_CAPS."""
    del now_ms
    return Changes(
        Decided(
            decision=hold.decision,
            scopes=command.scopes,
            dry_run=False,
            unit=command.unit,
            estimate_amount=command.estimate_amount,
            caps=hold.terms.caps,
        )
    )


def deny(command: Decide, refusal: Refused) -> Changes:
    """Answer DENY with the reason."""
    return Changes(
        Decided(
            decision=Decision.DENY,
            scopes=command.scopes,
            dry_run=False,
            unit=command.unit,
            estimate_amount=command.estimate_amount,
            reason_code=refusal.reason_code,
        )
    )
