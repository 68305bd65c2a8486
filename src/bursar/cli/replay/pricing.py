"""What a recorded request is expected to cost, and what it did cost, in the budget's unit.

The rule that lives here: a request is estimated before its output is known, so its estimate
is the price of its input and of the longest output allowed; its actual cost is the price of
what was generated. Both come from one tariff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import time
from typing import Protocol

from bursar import money
from bursar.cli.replay.trace import TICKS_PER_MS, Row, Trace, TraceError
from bursar.integrations.genai_prices import ListPrice
from bursar.vocabulary import Unit

_MINUTE_TICKS = 60_000 * TICKS_PER_MS
_DAY_MINUTES = 24 * 60


class Tariff(Protocol):
    """Turns tokens into an amount of one unit."""

    unit: Unit

    def amount(self, input_tokens: int, output_tokens: int, ticks: int) -> int:
        """Return what a call at a trace time costs; `AmountError` above int64."""
        ...


class TokenTariff:
    """One token is one token, whether read or written."""

    unit = Unit.TOKENS

    def amount(self, input_tokens: int, output_tokens: int, ticks: int) -> int:
        """Return the sum of both."""
        del ticks
        return money.checked(input_tokens + output_tokens)


class ModelTariff:
    """The list price of a model, at the time of day that the trace shows."""

    unit = Unit.USD_MICROCENTS

    def __init__(self, price: ListPrice) -> None:
        """Charge `price`."""
        self.price = price

    def amount(self, input_tokens: int, output_tokens: int, ticks: int) -> int:
        """Return the cost in microcents, rounded up."""
        at = self.time_of_day(ticks)
        return self.price.cost_microcents(input_tokens, output_tokens, at)

    def time_of_day(self, ticks: int) -> time:
        """Return the minute of the day, in UTC, that a trace time falls into."""
        return time(*divmod(ticks // _MINUTE_TICKS % _DAY_MINUTES, 60))


@dataclass(frozen=True, slots=True)
class Request:
    """A row with its two amounts."""

    row: Row
    estimate_amount: int
    actual_amount: int


def priced(
    trace: Trace, tariff: Tariff, max_output_tokens: int, advance: Callable[[int], None]
) -> list[Request]:
    """Return the requests of a trace with their estimates and actual costs.

    Raises:
        TraceError: an amount does not fit int64; the message names the line.
    """
    requests: list[Request] = []
    for done, row in enumerate(trace.rows, 1):
        read, written = row.context_tokens, row.generated_tokens
        try:
            estimate = tariff.amount(read, max_output_tokens, row.ticks)
            actual = tariff.amount(read, written, row.ticks)
        except money.AmountError as error:
            raise TraceError(f"{trace.file}:{row.line}:2 costs too much: {error}") from error
        requests.append(Request(row, estimate, actual))
        if done % 256 == 0:
            advance(done)
    return requests
