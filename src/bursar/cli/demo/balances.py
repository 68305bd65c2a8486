"""Every balance that an answer showed, checked as it arrived.

The rule that lives here: a budget is never oversubscribed, not even for a moment, so every
balance that anybody is shown must say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BROKEN_KEPT_MAX = 5
_NAMES = ("allocated", "remaining", "spent", "reserved", "debt")


@dataclass(slots=True)
class Balances:
    """How many balances were shown, the wrong ones, and the last one of each scope.

    The last one is the last that arrived. Where requests run at once it need not be the
    newest, and a replayed answer shows old ones; ask for a balance there.
    """

    shown: int = 0
    broken: list[str] = field(default_factory=list)
    last: dict[str, dict[str, int]] = field(default_factory=dict)

    def see(self, said: dict[str, Any]) -> None:
        """Check the balances of an answer, if it has any."""
        for balance in said.get("balances", ()):
            self.shown += 1
            amounts = amounts_of(balance)
            self.last[balance["scope_path"]] = amounts
            if not _sound(amounts) and len(self.broken) < BROKEN_KEPT_MAX:
                self.broken.append(f"{balance['scope_path']}: {amounts}")


def amounts_of(balance: dict[str, Any]) -> dict[str, int]:
    """Return the amounts of a balance by name; the protocol leaves a debt of zero out."""
    return {name: balance.get(name, {}).get("amount", 0) for name in _NAMES}


def _sound(amounts: dict[str, int]) -> bool:
    used = amounts["spent"] + amounts["reserved"] + amounts["debt"]
    return amounts["allocated"] == amounts["remaining"] + used and used <= amounts["allocated"]
