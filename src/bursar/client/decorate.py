"""The patterns that guard: a decorator, a wrapper, and a handle for streams.

The rule that lives here: three spellings, one meaning. Whatever is written becomes
`Options`, `Pricing` and a client, and the same guard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bursar.client import defaults
from bursar.client.guarded import Pricing
from bursar.client.options import Options, given_once
from bursar.client.wrapping import guard
from bursar.vocabulary import Unit

if TYPE_CHECKING:
    from bursar.client.aio import AsyncCyclesClient
    from bursar.client.sync import CyclesClient

F = TypeVar("F", bound=Callable[..., Any])


def cycles(
    estimate: int | Callable[..., int],
    *,
    actual: int | Callable[..., int] | None = None,
    action_kind: str | Callable[..., str | None] | None = None,
    action_name: str | Callable[..., str | None] | None = None,
    action_tags: list[str] | Callable[..., list[str] | None] | None = None,
    unit: Unit | str = Unit.USD_MICROCENTS,
    ttl_ms: int = 60_000,
    grace_period_ms: int | None = None,
    overage_policy: str = "ALLOW_IF_AVAILABLE",
    dry_run: bool = False,
    tenant: str | Callable[..., str | None] | None = None,
    workspace: str | Callable[..., str | None] | None = None,
    app: str | Callable[..., str | None] | None = None,
    workflow: str | Callable[..., str | None] | None = None,
    agent: str | Callable[..., str | None] | None = None,
    toolset: str | Callable[..., str | None] | None = None,
    dimensions: dict[str, str] | Callable[..., dict[str, str] | None] | None = None,
    client: CyclesClient | AsyncCyclesClient | None = None,
    use_estimate_if_actual_not_provided: bool = True,
) -> Callable[[F], F]:
    """Return a decorator that reserves before each call and accounts for it afterwards.

    Options may be constants or functions of the call's arguments; an empty level of the
    subject falls back to the client's.

    Args:
        estimate: the most a call should cost, int64 in `unit`.
        actual: what it cost: a constant, a function of the result, or None for the estimate.
        action_kind: such as `llm.completion`; `unknown` if empty.
        action_name: such as the model's name; `unknown` if empty.
        action_tags: up to 10 tags.
        unit: the unit of both amounts.
        ttl_ms: the lease, 1000 to 86400000 ms; the heartbeat renews it.
        grace_period_ms: 0 to 60000 ms after the lease in which a commit still works.
        overage_policy: what happens if it costs more than the estimate.
        dry_run: evaluate only; the function does not run, a `DryRunResult` is returned.
        tenant: first level of the subject; so are the next five, in order.
        workspace: second level.
        app: third level.
        workflow: fourth level.
        agent: fifth level.
        toolset: sixth level.
        dimensions: free labels of the subject.
        client: which client; None is the default one of the function's kind.
        use_estimate_if_actual_not_provided: whether a call without `actual` commits its
            estimate; otherwise it is refused before anything is reserved.
    """
    given = dict(locals())
    pricing = Pricing(given.pop("actual"), given.pop("use_estimate_if_actual_not_provided"))
    found = given.pop("client")
    options = Options(**given)

    def decorate(function: F) -> F:
        return cast(F, guard(function, options, pricing, found))

    return decorate


def with_cycles(options: Any = None, fn: Any = None, /, **more: Any) -> Any:
    """Return a function guarded as `options` say: `with_cycles({"estimate": 1000}, fn)`.

    Options may also be keywords: `with_cycles(fn, estimate=1000)`. They are those of
    `cycles`, and `idempotency_key`, `metadata`, `commit_metadata` (constants or functions of
    the arguments), and for generators `on_chunk(chunk, usage)` and `cost_fn(usage)`.

    Raises:
        TypeError: an option is unknown or given twice, or nothing to guard was given.
    """
    mapping = options if isinstance(options, Mapping) else None
    function = options if mapping is None else fn
    if not callable(function):
        raise TypeError(
            "with_cycles needs a function: with_cycles({'estimate': 1000}, fn) or "
            "with_cycles(fn, estimate=1000); the decorator is @cycles(1000)"
        )
    given = given_once(mapping, more)
    pricing = Pricing(
        actual=given.pop("actual", None),
        use_estimate=given.pop("use_estimate_if_actual_not_provided", True),
        on_chunk=given.pop("on_chunk", None),
        cost_fn=given.pop("cost_fn", None),
    )
    client = given.pop("client", None)
    return guard(function, Options.read(given), pricing, client)


def reserve_for_stream(options: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
    """Reserve and return a once-only handle for a stream that ends in callbacks.

    Args:
        options: `client` (or the default synchronous one), `estimate`, and the other options
            of `with_cycles` that concern the reservation.
        more: the same as keywords.

    Returns:
        A `StreamHandle`; with an `AsyncCyclesClient`, an awaitable of an `AsyncStreamHandle`.

    Raises:
        CyclesProtocolError: denied, refused, or not understood.
        TypeError: an option is unknown or given twice, or `estimate` is missing.
        ValueError: an option is not valid; nothing was sent.
    """
    given = given_once(options, more)
    client = given.pop("client", None)
    asynchronous = client is not None and hasattr(client, "aclose")
    found = defaults.client_for(client, asynchronous=asynchronous)
    return found.reserve_for_stream(given)
