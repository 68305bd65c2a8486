"""The core against a naive second ledger: they agree on every answer and every number.

Besides, whatever happened (case 80): every budget keeps its identity, what it holds is what active
reservations hold, debt stays within its limit, and what was charged is spent or owed.
"""

from collections import Counter
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.vocabulary import ErrorCode
from core.audit import audited

SEEDS, BATCHES = 40, 200
# What the random rows must have led to at least once, or they prove less than they seem to.
MET = {
    *ErrorCode,
    "ALLOW",
    "ALLOW_WITH_CAPS",
    "DENY",
    "COMMITTED",
    "RELEASED",
    "EXPIRED",
    "APPLIED",
    "FUNDED",
}
MET |= {"FROZEN", "CLOSED", "ACTIVE", "SUSPENDED", "replay"}
NOT_THE_LEDGERS = {
    ErrorCode.UNAUTHORIZED,
    ErrorCode.INSUFFICIENT_PERMISSIONS,
    ErrorCode.KEY_REVOKED,
    ErrorCode.KEY_EXPIRED,
    ErrorCode.DUPLICATE_RESOURCE,
    ErrorCode.COUNT_MISMATCH,
}


def test_core_and_auditor_agree_on_random_rows() -> None:
    """Long runs by seed reach the states that only history makes; every outcome is met."""
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            seen += audited(Random(seed), BATCHES).seen
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    met = {line.split(" ")[1] for line in seen}
    assert met == MET - NOT_THE_LEDGERS


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_core_and_auditor_agree_on_chosen_rows(random: Random) -> None:
    """Short runs that shrink to the fewest rows that still disagree."""
    audited(random, batches=8)
