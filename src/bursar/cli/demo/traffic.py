"""Ten minutes of requests in the shape of recorded traffic, drawn from a seed.

The rule that lives here: a seed and these parameters decide every request; the recorded
rows themselves are not needed, and none of them is copied.

All parameters were fitted from `AzureLLMInferenceTrace_conv.csv` (19,366 requests of one
hour, 2023-11-16), published by Microsoft in the Azure Public Dataset under CC BY 4.0:

* `RATE_PER_MINUTE`: the hour's swell in ten minutes. Each value is the mean rate of one
  tenth of the recording, 331 requests per minute over all.
* `BURSTS`: arrivals are more uneven than a constant rate explains. In windows of 1, 2, 5,
  10 and 20 s, once the swell is taken out, the variance of the count is 1.16, 1.24, 1.42,
  1.64 and 2.19 times its mean. Two independent gamma factors on the rate, one for each
  second and one for each 20 s, give 1.16, 1.21, 1.38, 1.65 and 2.19.
* `CONTEXT_TOKENS`: quantiles of the prompt lengths, with straight lines between them.
* `GENERATED_TOKENS`: quantiles of the answer lengths for each tenth of the prompt lengths,
  because the two depend on each other: prompts of about 1,000 tokens get the long answers.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from bursar.cli.replay.trace import TICKS_PER_MS, Row

RATE_PER_MINUTE: Final = (287, 290, 305, 358, 429, 444, 362, 351, 254, 230)
BURSTS: Final = ((1, 52.0), (20, 102.0))
"""(seconds, shape) of each gamma factor; its mean is 1 and its variance 1/shape."""

_CONTEXT_AT = (0.0, 0.01, *(twentieth / 20 for twentieth in range(1, 20)), 0.99, 0.999, 1.0)
CONTEXT_TOKENS: Final = (
    *(2, 29, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1_020),
    *(1_045, 1_071, 1_097, 1_130, 1_189, 1_315, 1_876, 2_734, 4_083, 4_142, 6_179, 14_050),
)
_GENERATED_AT = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
GENERATED_TOKENS: Final = (
    (11, 66, 112, 161, 189, 217, 295, 1_000),
    (7, 18, 59, 76, 99, 162, 217, 436),
    (24, 80, 88, 96, 109, 131, 171, 200),
    (25, 81, 89, 99, 114, 140, 200, 739),
    (10, 82, 121, 395, 415, 448, 609, 921),
    (33, 379, 394, 406, 428, 478, 667, 1_000),
    (28, 377, 393, 407, 429, 500, 662, 1_000),
    (26, 92, 181, 396, 417, 453, 643, 992),
    (15, 50, 70, 95, 139, 191, 421, 918),
    (17, 35, 43, 58, 87, 132, 256, 757),
)
GENERATED_TOKENS_MAX: Final = 1_000

MINUTE_TICKS: Final = 60_000 * TICKS_PER_MS
_SECOND_TICKS = 1_000 * TICKS_PER_MS


def traffic(seed: int) -> list[Row]:
    """Return the requests of ten minutes from tick 0, in the order of their arrival."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for number, ticks in enumerate(_arrivals(rng), 1):
        context, generated = _tokens(rng)
        rows.append(Row(number, number + 1, ticks, context, generated))
    return rows


def _arrivals(rng: random.Random) -> Iterator[int]:
    """Yield arrival times: a Poisson process whose rate has the swell and the bursts."""
    factors = [1.0] * len(BURSTS)
    for second in range(60 * len(RATE_PER_MINUTE)):
        rate_per_s = RATE_PER_MINUTE[second // 60] / 60
        for which, (length_s, shape) in enumerate(BURSTS):
            if second % length_s == 0:
                factors[which] = rng.gammavariate(shape, 1 / shape)
            rate_per_s *= factors[which]
        passed_s = rng.expovariate(rate_per_s)
        while passed_s < 1:
            yield second * _SECOND_TICKS + int(passed_s * _SECOND_TICKS)
            passed_s += rng.expovariate(rate_per_s)


def _tokens(rng: random.Random) -> tuple[int, int]:
    """Draw the length of a prompt, and of its answer given that prompt."""
    rank = rng.random()
    context = _quantile(_CONTEXT_AT, CONTEXT_TOKENS, rank)
    tenth = GENERATED_TOKENS[int(rank * len(GENERATED_TOKENS))]
    return context, _quantile(_GENERATED_AT, tenth, rng.random())


def _quantile(at: Sequence[float], values: Sequence[int], rank: float) -> int:
    """Return the value at a rank below 1, between the two quantiles that surround it."""
    above = bisect_right(at, rank)
    left, right = at[above - 1], at[above]
    low, high = values[above - 1], values[above]
    return round(low + (high - low) * (rank - left) / (right - left))
