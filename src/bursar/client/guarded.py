"""A function, its options and its client: what the shells around it share.

The rule that lives here: everything that can be refused is refused before anything is
reserved, and once the function has returned its cost is a number, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bursar.client import defaults
from bursar.client.action import GuardedAction
from bursar.client.cost import ActualCost, Cost, actual_cost
from bursar.client.options import Options
from bursar.client.plans import Terms
from bursar.client.usage import CostFn, StreamUsage
from bursar.client.validation import validate_non_negative

if TYPE_CHECKING:
    from bursar.client.models import DryRunResult

FAILED = "guarded_method_failed"
ACTUAL_REQUIRED = "actual expression is required when use_estimate_if_actual_not_provided is False"


@dataclass(frozen=True, slots=True)
class Pricing:
    """How the cost of a guarded function is found when it is over.

    `actual` is a constant or a function of the result. A generator may add up its usage chunk
    by chunk instead: `on_chunk(chunk, usage)` records, `cost_fn(usage)` prices.
    """

    actual: ActualCost = None
    use_estimate: bool = True
    on_chunk: Callable[[Any, StreamUsage], None] | None = None
    cost_fn: CostFn | None = None

    def check(self) -> None:
        """Refuse, before anything is reserved, what could not be priced afterwards.

        Raises:
            ValueError: no cost would be known, or the constant one is no amount.
        """
        if self.actual is None and self.cost_fn is None and not self.use_estimate:
            raise ValueError(ACTUAL_REQUIRED)
        if self.actual is not None and not callable(self.actual):
            validate_non_negative(self.actual, "actual")


@dataclass(slots=True)
class Guarded:
    """A function, its options, and what was found for it at its first call.

    `found` is its client; `terms` are those of its last call, which mostly fit the next one.
    """

    function: Callable[..., Any]
    options: Options
    pricing: Pricing
    client: Any
    asynchronous: bool
    found: Any = None
    terms: Terms | None = None
    functions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Look once which options have to be asked at each call."""
        self.functions = self.options.functions()

    def action(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GuardedAction:
        """Return the guarded action of one call; nothing is sent yet."""
        if self.found is None:
            self.found = defaults.client_for(self.client, asynchronous=self.asynchronous)
        if not self.options.dry_run:
            self.pricing.check()
        engine = self.found._engine
        options = self.options.at(self.functions, args, kwargs)
        terms = self.terms = options.terms(engine.config, self.terms)
        return GuardedAction(engine, options.plan(terms, engine.io.new_key))

    def cost(self, action: GuardedAction, result: object) -> Cost:
        """Return what a call cost that returned `result`."""
        return actual_cost(self.pricing.actual, result, action.plan.estimate)


def dry_run(action: GuardedAction) -> DryRunResult:
    """Return what a dry run would have been given."""
    from bursar.client.models import DryRunResult

    return DryRunResult.model_validate(action.dry_run_answer)
