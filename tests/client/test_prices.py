"""The function that prices a usage: exact, of its day, and refused before anything is spent."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from bursar import StreamUsage
from bursar.integrations.genai_prices import COSTS_KEPT_MAX, UnknownModel, cost_fn


@pytest.mark.parametrize(
    ("model", "tokens", "microcents"),
    [
        ("gpt-4o-mini", (1_000_000, 0), 15_000_000),
        ("gpt-4o-mini", (0, 1_000_000), 60_000_000),
        ("gpt-4o-mini", (1, 1), 75),
        ("gpt-4o-mini-2024-07-18", (1, 1), 75),
        ("claude-haiku-4-5", (14, 3), 2_900),
        ("gpt-4o-mini", (0, 0), 0),
    ],
)
def test_usage_costs_its_list_price(model: str, tokens: tuple[int, int], microcents: int) -> None:
    """$0.15 and $0.60, or $1 and $5, for a million tokens; a microcent is 10**-8 dollars."""
    assert cost_fn(model)(StreamUsage(*tokens)) == microcents


def test_unknown_model_is_refused_at_once() -> None:
    """The mistake shows where the function is made, not after the model was called."""
    with pytest.raises(UnknownModel, match="gpt-4o-mini"):
        cost_fn("gpt-4o-minni")
    with pytest.raises(UnknownModel, match="name a provider: "):
        cost_fn("text-embedding-3-small")


def test_price_is_the_one_of_its_day() -> None:
    """A program that runs past a change of the price prices with the new one."""
    days = iter([datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)])
    cost = cost_fn("o3", "openai", now=lambda: next(days, datetime(2026, 1, 1, tzinfo=UTC)))
    used = StreamUsage(1_000_000, 0)
    at_first = cost_fn("o3", "openai", now=lambda: datetime(2025, 1, 1, tzinfo=UTC))(used)
    assert at_first != cost(used) == cost(used) == 200_000_000


def test_memory_stays_bounded() -> None:
    """Costs are remembered, and not for ever."""
    cost = cost_fn("gpt-4o-mini")
    for tokens in range(COSTS_KEPT_MAX + 10):
        cost(StreamUsage(tokens, 0))
    (listed,) = (
        cell.cell_contents for cell in cost.__closure__ or () if hasattr(cell.cell_contents, "on")
    )
    assert len(listed._costs) == 10


def test_missing_package_says_what_to_install() -> None:
    """Without genai-prices, the error names the extra."""
    script = (
        "import sys; sys.modules['genai_prices'] = None; import bursar.integrations.genai_prices"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.endswith("install it with: pip install 'bursar[prices]'\n")
