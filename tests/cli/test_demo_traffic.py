"""The demo's traffic is decided by its seed and has the shape of the recorded traffic."""

import csv
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from bursar.cli.demo.traffic import (
    CONTEXT_TOKENS,
    GENERATED_TOKENS_MAX,
    MINUTE_TICKS,
    RATE_PER_MINUTE,
    traffic,
)
from bursar.cli.replay.trace import Row

SEEDS = range(20)
RECORDED = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "AzureLLMInferenceTrace_conv.csv"
)
Recorded = list[tuple[float, int, int]]  # seconds, context tokens, generated tokens


@pytest.fixture(scope="module")
def many() -> list[list[Row]]:
    """Return the traffic of many seeds."""
    return [traffic(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Return the recording that the parameters were fitted from."""
    if not RECORDED.exists():
        pytest.skip(f"the recorded trace {RECORDED.name} is not beside this repository")
    with RECORDED.open(encoding="utf-8", newline="") as file:
        return [
            (
                datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                int(row["ContextTokens"]),
                int(row["GeneratedTokens"]),
            )
            for row in csv.DictReader(file)
        ]


def distance(left: Sequence[int], right: Sequence[int]) -> float:
    """Return the largest difference between two distribution functions."""
    one, other = sorted(left), sorted(right)
    return max(
        abs(bisect_right(one, value) / len(one) - bisect_right(other, value) / len(other))
        for value in {*one, *other}
    )


def unevenness(seconds: Sequence[float]) -> float:
    """Return the coefficient of variation of the gaps between arrivals; 1 without bursts."""
    gaps = [later - earlier for earlier, later in pairwise(seconds)]
    return pstdev(gaps) / fmean(gaps)


def test_seed_decides_the_traffic() -> None:
    """The same seed draws the same requests, another seed draws others."""
    assert traffic(7) == traffic(7)
    assert traffic(7) != traffic(8)


def test_seed_1_stays_what_it_is() -> None:
    """The default seed's traffic is the one that the documentation shows."""
    rows = traffic(1)
    first = (rows[0].ticks, rows[0].context_tokens, rows[0].generated_tokens)
    sums = sum(row.context_tokens for row in rows), sum(row.generated_tokens for row in rows)
    assert (len(rows), first, sums) == (3284, (1_582_382, 981, 407), (3_742_014, 700_115))


def test_rows_are_well_formed(many: list[list[Row]]) -> None:
    """Requests come in order, within ten minutes, with tokens in the recorded range."""
    for rows in many:
        ticks = [row.ticks for row in rows]
        assert ticks == sorted(ticks)
        assert 0 <= ticks[0] <= ticks[-1] < len(RATE_PER_MINUTE) * MINUTE_TICKS
        assert [row.row for row in rows] == list(range(1, len(rows) + 1))
        assert all(CONTEXT_TOKENS[0] <= row.context_tokens <= CONTEXT_TOKENS[-1] for row in rows)
        assert all(1 <= row.generated_tokens <= GENERATED_TOKENS_MAX for row in rows)


def test_rate_follows_the_swell(many: list[list[Row]]) -> None:
    """Over many seeds each minute has its own rate, and the ten minutes about 3,310 requests."""
    counts = Counter(row.ticks // MINUTE_TICKS for rows in many for row in rows)
    for minute, rate in enumerate(RATE_PER_MINUTE):
        assert counts[minute] / len(many) == pytest.approx(rate, rel=0.06)
    assert counts.total() / len(many) == pytest.approx(sum(RATE_PER_MINUTE), rel=0.03)


def test_quantiles_are_the_fitted_ones(many: list[list[Row]]) -> None:
    """Over many seeds the quantiles of the prompts are the parameters they are drawn from."""
    ordered = sorted(row.context_tokens for rows in many for row in rows)
    for twentieth in range(1, 20):
        drawn = ordered[len(ordered) * twentieth // 20]
        assert drawn == pytest.approx(CONTEXT_TOKENS[twentieth + 1], rel=0.12)


def test_tokens_are_distributed_as_recorded(many: list[list[Row]], recorded: Recorded) -> None:
    """Prompts and answers follow the recorded distributions, alone and together."""
    drawn = [row for rows in many for row in rows]
    contexts, generated = [row[1] for row in recorded], [row[2] for row in recorded]
    assert distance([row.context_tokens for row in drawn], contexts) < 0.05
    assert distance([row.generated_tokens for row in drawn], generated) < 0.06
    for low, high in ((0, 700), (1_020, 1_190), (2_734, 15_000)):
        ours = [row.generated_tokens for row in drawn if low <= row.context_tokens < high]
        theirs = [row[2] for row in recorded if low <= row[1] < high]
        assert len(ours) / len(drawn) == pytest.approx(len(theirs) / len(recorded), abs=0.03)
        assert fmean(ours) == pytest.approx(fmean(theirs), rel=0.1)


def test_arrivals_are_as_many_and_as_uneven_as_recorded(
    many: list[list[Row]], recorded: Recorded
) -> None:
    """The mean rate and the unevenness of the gaps are the recording's."""
    times = [row[0] for row in recorded]
    per_minute = 60 * len(times) / (times[-1] - times[0])
    drawn = fmean(len(rows) / len(RATE_PER_MINUTE) for rows in many)
    assert drawn == pytest.approx(per_minute, rel=0.03)
    ours = fmean(unevenness([row.ticks / 1e7 for row in rows]) for rows in many)
    assert 1.03 < ours == pytest.approx(unevenness(times), abs=0.05)
