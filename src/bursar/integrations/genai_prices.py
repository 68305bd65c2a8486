"""Model prices from the `genai-prices` package, as exact integer microcents.

The rule that lives here: a model that is not listed, or is listed without a price, is an
error that names close models. It never costs zero because nobody knows its price. A cost is
computed in decimals and rounded once, up (`money.Rounding.UP`), so a replayed budget never
looks cheaper than the list.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from decimal import localcontext
from typing import TYPE_CHECKING

try:
    import genai_prices
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "prices need the genai-prices package; install it with: pip install 'bursar[prices]'",
        name=missing.name,
    ) from None
from genai_prices import Usage
from genai_prices.data_snapshot import DataSnapshot, find_provider_by_id, get_snapshot
from genai_prices.types import ModelPrice, Provider

from bursar import money

if TYPE_CHECKING:
    from bursar.client.usage import StreamUsage

SUGGESTIONS_MAX = 5
COSTS_KEPT_MAX = 10_000
_USED = ("input_mtok", "output_mtok", "requests_kcount")  # what a call of a trace pays for
_DIGITS = 60  # enough for any int64 of tokens at any listed price without rounding


class UnknownModel(LookupError):
    """No price is listed for a model; the message names close ones."""


def _now() -> datetime:
    return datetime.now(UTC)


def cost_fn(
    model: str, provider: str | None = None, *, now: Callable[[], datetime] = _now
) -> Callable[[StreamUsage], int]:
    """Return a function that prices a usage in microcents, at the list price of its moment.

    It is what `stream_reservation` and `with_cycles` take as `cost_fn`, and it estimates as
    well: `cost(StreamUsage(tokens_input=500, tokens_output=max_tokens))`. Every input token
    is priced as one that no cache knows.

    Args:
        model: as the provider's API names it, e.g. `gpt-4o-mini`.
        provider: whose price; by default the provider that the name suggests.
        now: the time in UTC, whose price applies.

    Raises:
        UnknownModel: the model is not listed, or has no price per token. It is raised here,
            before anything is spent.
    """
    listed = ListPrice(model, provider, now().date())

    def cost(usage: StreamUsage) -> int:
        nonlocal listed
        at = now()
        if at.date() != listed.on:
            listed = ListPrice(model, provider, at.date())
        return listed.cost_microcents(usage.tokens_input, usage.tokens_output, at.time())

    return cost


class ListPrice:
    """What one model of one provider costs on one day.

    Some models cost less at certain hours, so a cost needs the time of day as well; all
    times are UTC.
    """

    def __init__(self, model: str, provider: str | None, on: date) -> None:
        """Find the model in the installed price list.

        Args:
            model: as the provider's API names it, e.g. `gpt-4o`.
            provider: whose price; by default the provider that the name suggests.
            on: the day whose prices apply.

        Raises:
            UnknownModel: the provider or model is not listed, or has no price per token.
        """
        self._snapshot = get_snapshot()
        try:
            self._provider, self._model = self._snapshot.find_provider_model(
                model, None, provider, None
            )
        except LookupError:
            raise UnknownModel(_unknown(self._snapshot, model, provider)) from None
        self.on = on
        self._per_call: dict[int, ModelPrice] = {}
        self._costs: dict[tuple[int, int, int], int] = {}
        self._prices(time())  # so that a model without a price is refused here

    @property
    def provider(self) -> str:
        """The id of the provider whose price it is."""
        return self._provider.id

    @property
    def model(self) -> str:
        """The id of the listed model that the name was understood as."""
        return self._model.id

    @property
    def source(self) -> str:
        """Where the price comes from: package and version."""
        return f"genai-prices {genai_prices.__version__}"

    def shown(self, at: time) -> str:
        """Return the price at a time of day for people: `$2.5/input MTok, $10/output MTok`."""
        return str(self._per_call[id(self._prices(at))])

    def cost_microcents(
        self,
        input_tokens: int,
        output_tokens: int,
        at: time,
        *,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> int:
        """Return the price of one call at a time of day, rounded up to a whole microcent.

        Tokens that a cache gave or took are part of the input, and priced as the list says.

        Raises:
            AmountError: the cost is above the int64 range.
        """
        listed = self._prices(at)
        if cache_read_tokens or cache_write_tokens:
            usage = Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=cache_read_tokens,
                cache_write_tokens=cache_write_tokens,
            )
            return _cost(listed, usage)
        key = (id(listed), input_tokens, output_tokens)
        cost = self._costs.get(key)
        if cost is None:
            usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
            if len(self._costs) >= COSTS_KEPT_MAX:
                self._costs.clear()  # a process may run for years
            cost = self._costs[key] = _cost(self._per_call[id(listed)], usage)
        return cost

    def _prices(self, at: time) -> ModelPrice:
        """Return the listed prices at a time of day, once checked and stripped.

        Stripped of caches, searches and audio, a cost is computed about three times as
        fast; a call that uses none of them costs the same.
        """
        listed = self._model.get_prices(datetime.combine(self.on, at, tzinfo=UTC))
        if id(listed) not in self._per_call:
            used = {name: getattr(listed, name) for name in _USED}
            missing = [name[:-5] for name in _USED[:2] if used[name] is None]
            if missing:
                raise UnknownModel(
                    f"{self.source} lists {self.model} of {self.provider} without a price for "
                    f"{' and '.join(missing)} tokens; name a model that is priced per token"
                )
            self._per_call[id(listed)] = ModelPrice(**used)
        return listed


def _cost(prices: ModelPrice, usage: Usage) -> int:
    with localcontext() as context:
        context.prec = _DIGITS
        usd = prices.calc_price(usage)["total_price"]
    return money.to_microcents(usd, money.Rounding.UP)


def _unknown(snapshot: DataSnapshot, model: str, provider: str | None) -> str:
    """Say what is not listed and what comes close."""
    source = f"genai-prices {genai_prices.__version__}"
    known = snapshot.providers
    where = ""
    if provider is not None:
        named = find_provider_by_id(known, provider)
        if named is None:
            ids = [seller.id for seller in known]
            return f"provider {provider!r} is not in {source}; {_closest(provider, ids)}"
        known, where = [named], f" among the models of {named.id}"
    sellers = [seller.id for seller in snapshot.providers if seller.find_model(model) is not None]
    if sellers:
        options = " or ".join(sellers[:SUGGESTIONS_MAX])
        if provider is None:
            return f"model {model!r} does not tell whose price to take; name a provider: {options}"
        return f"model {model!r} is not in {source}{where}; others sell it: {options}"
    return f"model {model!r} is not in {source}{where}; {_closest(model, _model_ids(known))}"


def _model_ids(providers: Iterable[Provider]) -> list[str]:
    return sorted({model.id for provider in providers for model in provider.models})


def _closest(name: str, known: list[str]) -> str:
    """Name the listed names closest to `name`, or where to look."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, SUGGESTIONS_MAX, 0.6)
    if name:
        close += [one for one in by_lower if name.lower() in one and one not in close]
    if not close:
        return "no name comes close; it must be spelled as the provider's API spells it"
    return "did you mean " + ", ".join(by_lower[one] for one in close[:SUGGESTIONS_MAX]) + "?"
