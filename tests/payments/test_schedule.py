"""The schedule: bounds of the jitter, the mandatory check, what parks a payment."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.payments.outcome import TERMINAL, Money, Work
from bursar.payments.schedule import (
    Pace,
    first_check_ms,
    hard_deadline_ms,
    is_overdue,
    mandatory_ms,
    next_check_ms,
)
from payments.world import NOW_MS, payment

PACE = Pace()


class Fixed:
    """Randomness that always gives the same share of the range."""

    def __init__(self, share: float) -> None:
        self.share = share

    def uniform(self, a: float, b: float, /) -> float:
        return a + (b - a) * self.share


def delay(checks: int, *, after_window: bool = False, share: float = 1.0) -> int:
    record = payment(money=Money.UNKNOWN, checks=checks, valid_before_s=NOW_MS // 1_000 + 10**6)
    if after_window:
        record = replace(record, valid_before_s=0)
    found = next_check_ms(record, NOW_MS, PACE, Fixed(share))
    assert found is not None
    return found - NOW_MS


def test_the_first_check_comes_soon() -> None:
    """Two seconds after the send."""
    assert first_check_ms(NOW_MS, PACE) == NOW_MS + 2_000


@pytest.mark.parametrize(
    ("checks", "open_ms", "closed_ms"),
    [(0, 2_000, 2_000), (1, 4_000, 4_000), (5, 60_000, 64_000), (20, 60_000, 900_000)],
)
def test_backoff_doubles_to_its_cap(checks: int, open_ms: int, closed_ms: int) -> None:
    """Up to a minute while the window is open, up to a quarter of an hour afterwards."""
    assert (open_ms, closed_ms) == (delay(checks), delay(checks, after_window=True))
    assert delay(checks, share=0.0) == PACE.floor_ms


@given(
    checks=st.integers(0, 10**9),
    age_ms=st.integers(0, 10**9),
    window_s=st.integers(0, 10**6),
    retry_after_ms=st.none() | st.integers(-1, 10**12),
    seed=st.integers(0, 2**32),
    money=st.sampled_from(sorted(set(Money) - TERMINAL)),
)
def test_every_open_payment_is_looked_at_in_bounds(
    checks: int, age_ms: int, window_s: int, retry_after_ms: int | None, seed: int, money: Money
) -> None:
    """Never at once, never out of bounds, and never past the mandatory check without one.

    Only an answer that asks for patience may delay the mandatory check, and by an hour at most.
    """
    record = payment(money=money, checks=checks, valid_before_s=NOW_MS // 1_000 + window_s)
    now_ms = NOW_MS + age_ms
    rng = random.Random(seed)
    found = next_check_ms(record, now_ms, PACE, rng, retry_after_ms=retry_after_ms)
    mandatory = mandatory_ms(record, PACE)
    assert found is not None
    assert mandatory is not None
    assert found > now_ms
    if money is Money.PARKED:
        assert PACE.parked_ms <= found - now_ms <= PACE.parked_ms * 1.1
        return
    asked = min(max(0, retry_after_ms or 0), PACE.retry_after_max_ms)
    assert found <= now_ms + max(PACE.cap_closed_ms, asked)
    if now_ms < mandatory:
        assert found <= max(mandatory, now_ms + asked)
        assert found <= now_ms + max(PACE.cap_open_ms, asked)
    if retry_after_ms is not None:
        assert found >= now_ms + asked


@given(seed=st.integers(0, 2**32), window_s=st.integers(0, 5_000))
def test_the_mandatory_check_happens(seed: int, window_s: int) -> None:
    """Followed to its end, every schedule has a check at exactly that time."""
    record = payment(money=Money.UNKNOWN, valid_before_s=NOW_MS // 1_000 + window_s)
    rng, now_ms, times = random.Random(seed), NOW_MS, set()
    mandatory = mandatory_ms(record, PACE)
    assert mandatory is not None
    while now_ms < mandatory:
        record = replace(record, checks=record.checks + 1)
        found = next_check_ms(record, now_ms, PACE, rng)
        assert found is not None
        now_ms = found
        times.add(now_ms)
    assert mandatory in times


def test_an_answer_may_ask_for_patience_but_not_for_ever() -> None:
    """`Retry-After` is kept up to an hour."""
    record = payment(money=Money.UNKNOWN)
    found = next_check_ms(record, NOW_MS, PACE, Fixed(0), retry_after_ms=10**9)
    assert found == NOW_MS + PACE.retry_after_max_ms


def test_only_failures_to_ask_consume_the_cap() -> None:
    """A thousand clean answers park nothing; twenty failures do, and so does the deadline."""
    record = payment(money=Money.UNKNOWN, checks=1_000)
    record = replace(record, hard_deadline_ms=hard_deadline_ms(record, PACE))
    assert not is_overdue(record, NOW_MS, PACE)
    assert not is_overdue(replace(record, rpc_failures=19), NOW_MS, PACE)
    assert is_overdue(replace(record, rpc_failures=20), NOW_MS, PACE)
    deadline = record.hard_deadline_ms
    assert deadline is not None
    assert deadline == (NOW_MS // 1_000 + 60) * 1_000 + 1_500_000 + 60_000 + 86_400_000
    assert is_overdue(record, deadline, PACE)
    assert not is_overdue(record, deadline - 1, PACE)
    timeless = payment(valid_before_s=None)
    assert hard_deadline_ms(timeless, PACE) == NOW_MS + 86_400_000
    assert mandatory_ms(timeless, PACE) is None


def test_a_final_payment_waits_for_its_work_alone() -> None:
    """Settled with the work undone, it is looked at when the work's time ends; else never."""
    record = payment(money=Money.SETTLED, work_until_ms=NOW_MS + 5)
    assert next_check_ms(record, NOW_MS, PACE, Fixed(0)) == NOW_MS + 5
    assert next_check_ms(record, NOW_MS + 5, PACE, Fixed(0)) is None
    delivered = replace(record, work=Work.DELIVERED)
    assert next_check_ms(delivered, NOW_MS, PACE, Fixed(0)) is None
    assert next_check_ms(payment(money=Money.EXPIRED), NOW_MS, PACE, Fixed(0)) is None
