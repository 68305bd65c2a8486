"""Questions about answers, as plain functions: for dicts of the wire and for models alike.

The rule that lives here: a value that this version does not know is neither a yes nor a no;
an unknown decision is not allowed and not denied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bursar.client.enums import ErrorCode
from bursar.vocabulary import Decision

_ALLOWED = frozenset({Decision.ALLOW, Decision.ALLOW_WITH_CAPS})


def is_allowed(decision: object) -> bool:
    """Return whether a decision, or an answer that holds one, lets the action go ahead."""
    value = _decision_of(decision)
    return isinstance(value, str) and value in _ALLOWED


def is_denied(decision: object) -> bool:
    """Return whether a decision, or an answer that holds one, is a denial."""
    return _decision_of(decision) == Decision.DENY


def is_tool_allowed(caps: object, tool: str) -> bool:
    """Return whether caps let a tool be used; no caps restrict nothing.

    An allowlist with entries decides alone. An empty list, of either kind, says nothing.
    """
    allowed = _member(caps, "tool_allowlist")
    if allowed:
        return tool in allowed
    return tool not in (_member(caps, "tool_denylist") or ())


def is_retryable_error_code(code: str | None) -> bool:
    """Return whether the request that got this code may succeed later, unchanged.

    A code that is not known here is not retryable; `UNKNOWN` itself is, as what the server
    says when it does not know either.
    """
    return code is not None and code in _RETRYABLE


def error_code_from_string(value: str | None) -> ErrorCode | None:
    """Return the code spelled `value`: UNKNOWN for any other text, None for None."""
    return ErrorCode.from_string(value)


def is_metrics_empty(metrics: object) -> bool:
    """Return whether metrics say nothing; an empty `custom` counts as nothing."""
    plain = ("tokens_input", "tokens_output", "latency_ms", "model_version")
    return all(_member(metrics, name) is None for name in plain) and not _member(metrics, "custom")


_RETRYABLE = frozenset(code for code in ErrorCode if code.is_retryable)


def _decision_of(value: object) -> object:
    return value if value is None or isinstance(value, str) else _member(value, "decision")


def _member(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
