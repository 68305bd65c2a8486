"""The options of a guarded action, as every pattern takes them.

The rule that lives here: one list of options, with one meaning each, for the decorator, the
wrapper, the stream handle and the guard. A value may be a constant or, where a function is
guarded, a function of that function's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from bursar.client.calls import body_of
from bursar.client.config import CyclesConfig
from bursar.client.opening import Plan
from bursar.client.plans import Terms, action_of, plan_of, subject_of, terms_of
from bursar.client.validation import validate_non_negative
from bursar.vocabulary import OveragePolicy, Unit

if TYPE_CHECKING:
    from bursar.client.models import ReservationCreateRequest

LEVELS = ("tenant", "workspace", "app", "workflow", "agent", "toolset", "dimensions")
RESERVE_TTL_MS = 60_000
_MAY_BE_FUNCTIONS = (
    *("estimate", "action_kind", "action_name", "action_tags", *LEVELS),
    *("idempotency_key", "metadata", "commit_metadata"),
)


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

    def functions(self) -> tuple[str, ...]:
        """Return the names of the options that are functions of the action's arguments."""
        return tuple(name for name in _MAY_BE_FUNCTIONS if callable(getattr(self, name)))

    def at(self, functions: tuple[str, ...], args: Any, kwargs: Mapping[str, Any]) -> Self:
        """Return the options of one call: each of `functions` is called with its arguments."""
        if not functions:
            return self
        return replace(self, **{name: getattr(self, name)(*args, **kwargs) for name in functions})

    def terms(self, config: CyclesConfig, before: Terms | None = None) -> Terms:
        """Return who does what, on which conditions.

        Args:
            config: whose subject fills what the options leave out.
            before: the terms of an earlier call with these options, which are still good if
                who and what have not changed.

        Raises:
            ValueError: an option is out of its range.
        """
        subject = subject_of(config, {level: getattr(self, level) for level in LEVELS})
        action = action_of(self.action_kind, self.action_name, self.action_tags)
        if before is not None and before.given == (subject, action):
            return before
        return terms_of(
            subject=subject,
            action=action,
            unit=self.unit,
            ttl_ms=self.ttl_ms,
            grace_period_ms=self.grace_period_ms,
            overage_policy=self.overage_policy,
            dry_run=self.dry_run,
        )

    def plan(self, terms: Terms, new_key: Callable[[], str]) -> Plan:
        """Return the plan of one action on `terms`; `new_key` is where keys come from.

        Raises:
            ValueError: an option is out of its range.
        """
        return plan_of(
            terms,
            new_key,
            estimate=self.estimate,
            idempotency_key=self.idempotency_key,
            metadata=self.metadata,
            commit_metadata=self.commit_metadata,
        )


def given_once(options: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return options from a mapping and keywords; neither silently overrules the other.

    Raises:
        TypeError: they are no mapping, or an option is in both.
    """
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(
            f"options must be a mapping or keywords, got {type(options).__name__};"
            " a client is given as client="
        )
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
        given = Options.read(options)
        plan = given.plan(given.terms(config), new_key)
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
    estimate = body["estimate"].get("amount")
    validate_non_negative(estimate, "estimate")
    terms = terms_of(
        subject=body.get("subject") or subject_of(config, {}),
        action=body["action"],
        unit=body["estimate"].get("unit"),
        ttl_ms=body.get("ttl_ms", RESERVE_TTL_MS),
        grace_period_ms=body.get("grace_period_ms"),
        overage_policy=body.get("overage_policy"),
        dry_run=bool(body.get("dry_run")),
    )
    return plan_of(
        terms,
        new_key,
        estimate=estimate,
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
