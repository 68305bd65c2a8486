"""From what a user writes to what is asked: options, checked before anything is sent.

The rule that lives here: every way to guard an action (decorator, wrapper, stream, guard)
becomes `Terms` and a `Plan` here, so that defaults, fall-backs to the client's subject, keys
and validation are the same for all of them. Terms are checked when they are made, and need
not be made again for the next call of the same function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bursar.client import validation
from bursar.client.config import CyclesConfig
from bursar.client.cost import json_values
from bursar.client.opening import Plan
from bursar.vocabulary import SCOPE_KINDS, OveragePolicy, Unit

UNKNOWN_ACTION = "unknown"
KEY_LENGTH_MAX = 256


def subject_of(config: CyclesConfig, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return a subject from options; a level that is empty falls back to the client's."""
    subject: dict[str, Any] = {}
    for level in SCOPE_KINDS:
        value = named.get(level) or getattr(config, level)
        if value:
            subject[level] = value
    dimensions = named.get("dimensions")
    if dimensions and not isinstance(dimensions, Mapping):
        raise ValueError(f"dimensions must be a mapping of texts, got {dimensions!r}")
    if dimensions:
        subject["dimensions"] = dict(dimensions)
    return subject


def action_of(kind: str | None, name: str | None, tags: Any = None) -> dict[str, Any]:
    """Return an action from options."""
    action: dict[str, Any] = {"kind": kind or UNKNOWN_ACTION, "name": name or UNKNOWN_ACTION}
    if tags and (isinstance(tags, str) or not isinstance(tags, Iterable)):
        raise ValueError(f"action_tags must be a list of texts, got {tags!r}; write [{tags!r}]")
    if tags:
        action["tags"] = list(tags)
    return action


def derived_key(phase: str, key: str) -> str:
    """Return the key of a later step of the operation that `key` names, within 256 characters."""
    plain = f"{phase}-{key}"
    if len(plain) <= KEY_LENGTH_MAX:
        return plain
    return f"{phase}-sha256-{hashlib.sha256(key.encode()).hexdigest()}"


def _keys(key: str) -> tuple[str, str, str]:
    """Return the keys of an action that its caller named: of reserve, commit and release."""
    return key, derived_key("commit", key), derived_key("release", key)


@dataclass(frozen=True, slots=True)
class Terms:
    """Who does what, on which conditions: the part of a plan that calls have in common.

    All of it is valid. `given` is the subject and the action that it was made from.
    """

    given: tuple[Mapping[str, Any], Mapping[str, Any]]
    subject: dict[str, Any]
    action: dict[str, Any]
    unit: str
    ttl_ms: int
    grace_period_ms: int | None
    overage_policy: str | None
    dry_run: bool


def terms_of(
    *,
    subject: Mapping[str, Any],
    action: Mapping[str, Any],
    unit: str,
    ttl_ms: int,
    grace_period_ms: int | None = None,
    overage_policy: str | None = None,
    dry_run: bool = False,
) -> Terms:
    """Return terms that are valid.

    Raises:
        ValueError: a field is out of its range; the message names it and the limit. A
            pydantic `ValidationError` is one too.
    """
    from bursar.client import models

    validation.validate_word(unit, Unit, "unit")
    validation.validate_ttl_ms(ttl_ms)
    checked = models.Subject.model_validate(dict(subject))
    validation.validate_subject(checked)
    validation.validate_grace_period_ms(grace_period_ms)
    if overage_policy is not None:
        validation.validate_word(overage_policy, OveragePolicy, "overage_policy")
    done = models.Action.model_validate(dict(action))
    return Terms(
        given=(subject, action),
        subject=checked.model_dump(mode="json", exclude_none=True),
        action=done.model_dump(mode="json", exclude_none=True),
        unit=Unit(unit).value,
        ttl_ms=ttl_ms,
        grace_period_ms=grace_period_ms,
        overage_policy=None if overage_policy is None else OveragePolicy(overage_policy).value,
        dry_run=dry_run,
    )


def plan_of(
    terms: Terms,
    new_key: Callable[[], str],
    *,
    estimate: int,
    idempotency_key: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    commit_metadata: Mapping[str, Any] | None = None,
) -> Plan:
    """Return a plan on these terms, whose request is valid.

    Keys of the later steps follow from `idempotency_key` where it is given, so that a whole
    guarded action can be repeated by its caller without paying twice.

    Raises:
        ValueError: a field is out of its range; the message names it and the limit.
    """
    validation.validate_non_negative(estimate, "estimate")
    if idempotency_key is not None:
        validation.validate_idempotency_key(idempotency_key)
    return Plan(
        terms.subject,
        terms.action,
        terms.unit,
        estimate,
        *(_keys(idempotency_key) if idempotency_key else (new_key(), new_key(), new_key())),
        ttl_ms=terms.ttl_ms,
        overage_policy=terms.overage_policy,
        grace_period_ms=terms.grace_period_ms,
        dry_run=terms.dry_run,
        metadata=json_values(metadata, "metadata") if metadata else None,
        commit_metadata=json_values(commit_metadata, "commit_metadata") if commit_metadata else {},
    )
