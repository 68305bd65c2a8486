"""`require`: a belief about money that production keeps checking.

The rule that lives here: a broken invariant stops the unit of work. `assert` would be
stripped by `python -O`, so it is never used for money.
"""

from __future__ import annotations


class InvariantBroken(RuntimeError):
    """The ledger contradicts itself; nothing may be saved on top of it."""


def require(condition: bool, believed: str) -> None:
    """Raise `InvariantBroken` unless `condition` holds; `believed` says what was believed."""
    if not condition:
        raise InvariantBroken(f"invariant broken: {believed}")
