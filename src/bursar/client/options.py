"""The options of a guarded action, as every pattern takes them.

The rule that lives here: one list of options, with one meaning each, for the decorator, the
wrapper, the stream handle and the guard. A value may be a constant or, where a function is
guarded, a function of that function's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from bursar.client.calls import body_of
from bursar.client.config import CyclesConfig
from bursar.client.opening import Plan
from bursar.client.plans import action_of, make_plan, subject_of
from bursar.vocabulary import OveragePolicy, Unit

if TYPE_CHECKING:
    from bursar.client.models import ReservationCreateRequest

LEVELS = ("tenant", "workspace", "app", "workflow", "agent", "toolset", "dimensions")
RESERVE_TTL_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Who does what, how much it may cost, and for how long it is held.

    `estimate` is int64 in `unit`; `ttl_ms` (1000 to 86400000) and `grace_period_ms` (0 to
    60000) are milliseconds; `unit` is a `Unit` or its spelling.
    """

    estimate: Any
    action_kind: Any = None
    action_name: Any = None
    action_tags: Any = None
    unit: Any = Unit.USD_MICROCENTS
    ttl_ms: int = RESERVE_TTL_MS
    grace_period_ms: int | None = None
    overage_policy: str | None = OveragePolicy.ALLOW_IF_AVAILABLE.value
    dry_run: bool = False
    tenant: Any = None
    workspace: Any = None
    app: Any = None
    workflow: Any = None
    agent: Any = None
    toolset: Any = None
    dimensions: Any = None
    idempotency_key: Any = None
    metadata: Any = None
    commit_metadata: Any = None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Self:
        """Return options from a mapping.

        Raises:
            TypeError: an option is unknown, or `estimate` is missing.
        """
        known = {one.name for one in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise TypeError(
                f"unknown options: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        if "estimate" not in options:
            raise TypeError("estimate is required: the most that the action should cost")
        return cls(**options)

    def plan(
        self,
        config: CyclesConfig,
        new_key: Callable[[], str],
        arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
    ) -> Plan:
        """Return the plan of one action.

        Args:
            config: whose subject fills what the options leave out.
            new_key: where idempotency keys come from.
            arguments: positional and keyword arguments of the guarded call, for options that
                are functions of them.

        Raises:
            ValueError: an option is out of its range.
        """

        def of(value: Any) -> Any:
            if arguments is None or not callable(value):
                return value
            return value(*arguments[0], **arguments[1])

        return make_plan(
            new_key,
            estimate=of(self.estimate),
            subject=subject_of(config, {level: of(getattr(self, level)) for level in LEVELS}),
            action=action_of(of(self.action_kind), of(self.action_name), of(self.action_tags)),
            unit=self.unit,
            ttl_ms=self.ttl_ms,
            grace_period_ms=self.grace_period_ms,
            overage_policy=self.overage_policy,
            dry_run=self.dry_run,
            idempotency_key=of(self.idempotency_key),
            metadata=of(self.metadata),
            commit_metadata=of(self.commit_metadata),
        )


def given_once(options: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return options from a mapping and keywords; neither silently overrules the other.

    Raises:
        TypeError: an option is in both.
    """
    both = sorted(set(options or {}) & set(more))
    if both:
        raise TypeError(f"options given twice: {', '.join(both)}; give each once")
    return {**(options or {}), **more}


def held_plan(
    request: ReservationCreateRequest | Mapping[str, Any] | None,
    options: Mapping[str, Any],
    config: CyclesConfig,
    new_key: Callable[[], str],
) -> Plan:
    """Return the plan of a reservation that will be held, from a wire request or options.

    Raises:
        TypeError: both are given, or an option is unknown.
        ValueError: a field is missing or out of its range, or it is a dry run.
    """
    if request is None:
        plan = Options.read(options).plan(config, new_key)
    elif options:
        raise TypeError("give a request or options, not both")
    else:
        plan = _of_request(request, config, new_key)
    if plan.dry_run:
        raise ValueError("dry_run: a dry run holds nothing to guard; use decide() instead")
    return plan


def _of_request(
    request: ReservationCreateRequest | Mapping[str, Any],
    config: CyclesConfig,
    new_key: Callable[[], str],
) -> Plan:
    body = body_of(request)
    _check_request(body)
    return make_plan(
        new_key,
        subject=body.get("subject") or subject_of(config, {}),
        action=body["action"],
        estimate=body["estimate"].get("amount"),
        unit=body["estimate"].get("unit"),
        ttl_ms=body.get("ttl_ms", RESERVE_TTL_MS),
        grace_period_ms=body.get("grace_period_ms"),
        overage_policy=body.get("overage_policy"),
        dry_run=bool(body.get("dry_run")),
        idempotency_key=body.get("idempotency_key"),
        metadata=body.get("metadata"),
    )


def _check_request(body: Mapping[str, Any]) -> None:
    """Refuse what has not the shape of a wire request; ranges are checked with the plan.

    Raises:
        ValueError: a field is unknown, missing, or no object; the message says what to write.
    """
    from bursar.client.models import ReservationCreateRequest

    unknown = sorted(str(name) for name in set(body) - set(ReservationCreateRequest.model_fields))
    if unknown:
        raise ValueError(
            f"request: unknown fields {', '.join(unknown)}; see ReservationCreateRequest, or give"
            " options as keywords: reserve(estimate=100)"
        )
    for name, sample in _OBJECTS.items():
        value = body.get(name)
        if value is None and name in _REQUIRED:
            raise ValueError(f"request: {name} is missing; write {sample}")
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(
                f"request: {name} must be an object, got {value!r}; write {sample}, or give"
                " options as keywords: reserve(estimate=100)"
            )


_REQUIRED = ("action", "estimate")
_OBJECTS = {
    "estimate": '{"unit": "TOKENS", "amount": 100}',
    "action": '{"kind": "llm.completion", "name": "gpt-4o"}',
    "subject": '{"tenant": "acme"}',
    "metadata": '{"run": "42"}',
}
