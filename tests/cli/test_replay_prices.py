"""Prices are exact, rounded up once, and never zero because a model is unknown."""

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot

from bursar.cli.replay.pricing import ModelTariff, TokenTariff, priced
from bursar.cli.replay.trace import Row, Trace, TraceError
from bursar.integrations.genai_prices import ListPrice, UnknownModel
from bursar.money import USD, AmountError
from bursar.vocabulary import AMOUNT_MAX

DAY = date(2026, 1, 1)
NOON = time(12)


def cost(model: str, read: int, written: int) -> int:
    return ListPrice(model, None, DAY).cost_microcents(read, written, NOON)


def test_price_of_a_call_by_hand() -> None:
    """gpt-4 lists $30 and $60 per million tokens: 3,000 and 6,000 microcents for one."""
    price = ListPrice("gpt-4", None, DAY)
    assert (price.provider, price.model) == ("openai", "gpt-4")
    assert price.shown(NOON) == "$30/input MTok, $60/output MTok"
    assert price.source.startswith("genai-prices ")
    assert price.cost_microcents(1, 0, NOON) == 3_000
    assert price.cost_microcents(0, 1, NOON) == 6_000
    assert price.cost_microcents(374, 44, NOON) == 374 * 3_000 + 44 * 6_000
    assert price.cost_microcents(0, 0, NOON) == 0


def test_fraction_is_rounded_up_once() -> None:
    """At $0.075 a million, a token is 7.5 microcents; the sum is rounded, not each token."""
    price = ListPrice("gemini-2.0-flash-lite", None, DAY)
    assert price.shown(NOON) == "$0.075/input MTok, $0.3/output MTok"
    assert [price.cost_microcents(tokens, 0, NOON) for tokens in (1, 2, 3, 4)] == [8, 15, 23, 30]


def test_huge_counts_stay_exact() -> None:
    """No digit is lost above 2**53, and what does not fit int64 is an error."""
    assert cost("gpt-4", 3_000_000_000_000_001, 1) == 9_000_000_000_000_009_000
    with pytest.raises(AmountError, match="above the largest"):
        cost("gpt-4", AMOUNT_MAX, AMOUNT_MAX)


def test_tier_follows_the_input() -> None:
    """A model with tiers is charged by the tier that its input falls into."""
    price = ListPrice("gemini-2.5-pro", None, DAY)
    below, above = (price.cost_microcents(tokens, 0, NOON) for tokens in (200_000, 200_001))
    assert below == 200_000 * 125
    assert above == 200_001 * 250


def test_price_follows_the_day_and_the_hour() -> None:
    """A price cut counts from its day on, and an off-peak price in its hours."""
    before = ListPrice("o3", None, date(2025, 6, 9)).cost_microcents(1_000, 0, NOON)
    after = ListPrice("o3", None, date(2025, 6, 10)).cost_microcents(1_000, 0, NOON)
    assert (before, after) == (1_000_000, 200_000)
    price = ListPrice("deepseek-chat", None, DAY)
    by_hour = [price.cost_microcents(1_000, 1_000, time(hour)) for hour in (0, 1, 16, 17)]
    assert by_hour == [68_500, 137_000, 137_000, 68_500]


def test_every_listed_model_costs_what_the_package_says() -> None:
    """Leaving out unused prices changes no cost: all models, three sizes of call."""
    snapshot, compared = get_snapshot(), 0
    for provider in snapshot.providers:
        for model in provider.models:
            try:
                price = ListPrice(model.id, provider.id, DAY)
            except UnknownModel:
                continue
            for read, written in ((1, 1), (1_234, 567), (300_000, 7)):
                usd = model.calc_price(
                    Usage(input_tokens=read, output_tokens=written),
                    provider,
                    genai_request_timestamp=datetime.combine(DAY, NOON, tzinfo=UTC),
                ).total_price
                exact = Decimal(price.cost_microcents(read, written, NOON))
                assert usd * USD <= exact < usd * USD + 1, (provider.id, model.id)
            compared += 1
    assert compared > 1_000


UNKNOWN = {
    (
        "gpt-4oo",
        "openai",
    ): r"^model 'gpt-4oo' is not in genai-prices \S+ among the models of openai; "
    "did you mean gpt-4o, ",
    ("claude-sonet-4-5", None): "did you mean .*claude-sonnet-4-5",
    ("GPT4O", None): "did you mean gpt-4o, ",
    ("zzzzzzzz", None): "no name comes close",
    ("", None): "no name comes close",
    ("gpt-4o", "opnai"): r"^provider 'opnai' is not in genai-prices \S+; did you mean openai\?",
    ("text-embedding-3-small", None): "does not tell whose price to take; name a provider: ",
    ("gpt-4o", "anthropic"): r"is not in \S+ \S+ among the models of anthropic; others sell it: .*"
    "openai",
    (
        "whisper-1",
        "openai",
    ): r"lists whisper-1 of openai without a price for input and output tokens",
}


@pytest.mark.parametrize("asked", UNKNOWN, ids=str)
def test_unknown_model_is_an_error_with_a_way_out(asked: tuple[str, str | None]) -> None:
    """What has no price is refused, and close names or sellers are suggested."""
    model, provider = asked
    with pytest.raises(UnknownModel, match=UNKNOWN[asked]):
        ListPrice(model, provider, DAY)


def trace(*rows: tuple[int, int]) -> Trace:
    return Trace(
        "trace.csv",
        [Row(at, at + 1, 0, read, written) for at, (read, written) in enumerate(rows, 1)],
    )


def test_estimate_is_the_price_of_the_longest_output() -> None:
    """An estimate counts the whole output limit, an actual cost what was generated."""
    tariff = ModelTariff(ListPrice("gpt-4", None, DAY))
    (request,) = priced(trace((100, 7)), tariff, 50, lambda done: None)
    assert request.estimate_amount == 100 * 3_000 + 50 * 6_000
    assert request.actual_amount == 100 * 3_000 + 7 * 6_000


def test_tokens_cost_themselves() -> None:
    """In tokens, input and output are added."""
    (request,) = priced(trace((100, 7)), TokenTariff(), 50, lambda done: None)
    assert (request.estimate_amount, request.actual_amount) == (150, 107)


def test_row_that_costs_too_much_is_named() -> None:
    """An amount above int64 is an error of its row, not a wrong number."""
    with pytest.raises(TraceError, match=r"^trace\.csv:3:2 costs too much: amount \d+ is outside"):
        priced(trace((1, 1), (AMOUNT_MAX, 1)), TokenTariff(), 1, lambda done: None)


def test_progress_is_told() -> None:
    """Pricing says how far it is."""
    told: list[int] = []
    priced(trace(*[(1, 1)] * 600), TokenTariff(), 1, told.append)
    assert told == [256, 512]
