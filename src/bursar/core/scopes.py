"""Scope paths: derived from a subject, validated for an operator, matched by segment.

The rule that lives here (protocol section 2): only levels that a subject names enter a
path, always in hierarchy order, and every derived path is a cumulative prefix. Matching
is by whole segments, so tenant `acme` never matches `acme-corp`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

from bursar.vocabulary import SCOPE_KINDS

_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
VALUE_LENGTH_MAX = 128
SHOWN_LENGTH_MAX = 160


def derive(subject: Mapping[str, str]) -> tuple[str, ...]:
    """Return every scope path of a subject, outermost first; values are lower-cased.

    >>> derive({"tenant": "acme", "agent": "Bot"})
    ('tenant:acme', 'tenant:acme/agent:bot')
    """
    paths: list[str] = []
    prefix = ""
    for kind in SCOPE_KINDS:
        value = subject.get(kind)
        if value is not None:
            prefix += f"{kind}:{value.lower()}"
            paths.append(prefix)
            prefix += "/"
    return tuple(paths)


def prefixes(scope_path: str) -> tuple[str, ...]:
    """Return the derived paths that end in `scope_path`, outermost first.

    >>> prefixes("tenant:acme/agent:bot")
    ('tenant:acme', 'tenant:acme/agent:bot')
    """
    return tuple(accumulate(scope_path.split("/"), "{}/{}".format))


def leaf(scope_path: str) -> str:
    """Return the last segment of a path: `agent:bot`."""
    return scope_path.rpartition("/")[2]


def shown(scope_path: str) -> str:
    """Return a path as one sentence can carry it: whole, or its last segment after `…/`.

    Six levels of 128 characters would not fit the 512 that a suggested fix may have.
    """
    return scope_path if len(scope_path) <= SHOWN_LENGTH_MAX else f"…/{leaf(scope_path)}"


def problem(scope: str, tenant_id: str) -> str | None:
    """Return what is wrong with a budget's scope (protocol 2.3), or None.

    A scope starts with the owning tenant, keeps the hierarchy's order, repeats no level,
    and its values are letters, digits, `.`, `_` and `-`, beginning and ending with a
    letter or digit.
    """
    return _problem(scope.split("/"), tenant_id, "the budget")


def pattern_problem(pattern: str, tenant_id: str) -> str | None:
    """Return what is wrong with a policy's scope pattern (protocol 2.3, 5.2), or None.

    A pattern is a path, a path and `/*` (what lies below it), a path and `/kind:*`, `kind:*`
    alone, or `*/kind:value`. The last two need no tenant in front: a policy is asked about
    the scopes of the tenant that owns it and no others.
    """
    *above, last = pattern.split("/")
    if last == "*":
        return _problem(above, tenant_id, "the policy") if above else _pattern_help("*")
    if above == ["*"]:
        return _segment_problem(last) and _pattern_help(last)
    kind, colon, value = last.partition(":")
    if value == "*" and colon:
        if kind not in SCOPE_KINDS:
            return f"kind {kind!r} must be one of {', '.join(SCOPE_KINDS)}"
        # An id that fits any value stands for the star, so that one grammar judges the order.
        return _problem([*above, f"{kind}:0"], tenant_id, "the policy") if above else None
    return _problem([*above, last], tenant_id, "the policy")


def matches(pattern: str, scope_path: str) -> bool:
    """Return whether a policy's pattern, valid and in lower case, matches a path.

    >>> matches("tenant:acme/*", "tenant:acme/agent:bot"), matches("tenant:acme/*", "tenant:acme")
    (True, False)
    >>> matches("agent:*", "tenant:acme/agent:bot/toolset:web")
    True
    """
    if "*" not in pattern:
        return pattern == scope_path
    if pattern.startswith("*/"):
        return f"/{pattern[2:]}/" in f"/{scope_path}/"
    if pattern.endswith("/*"):
        return scope_path.startswith(pattern[:-1])
    above, _, kind = pattern[:-1].rpartition("/")
    if not above:
        return f"/{kind}" in f"/{scope_path}"
    return scope_path.startswith(f"{above}/") and f"/{kind}" in scope_path[len(above) :]


def _pattern_help(shown_part: str) -> str:
    return (
        f"{shown_part[:SHOWN_LENGTH_MAX]!r} is no pattern; write tenant:acme/agent:bot, "
        "tenant:acme/*, tenant:acme/agent:*, agent:* or */agent:bot"
    )


def _problem(segments: Sequence[str], tenant_id: str | None, owned: str) -> str | None:
    """Return what is wrong with a path of `tenant_id`; None begins anywhere."""
    order = -1
    for position, segment in enumerate(segments):
        wrong = _segment_problem(segment)
        if wrong is not None:
            return wrong
        rank = SCOPE_KINDS.index(segment.partition(":")[0])
        if rank <= order:
            return f"segment {segment!r} is out of order; the order is {', '.join(SCOPE_KINDS)}"
        order = rank
        if position == 0 and tenant_id is not None and segment.lower() != f"tenant:{tenant_id}":
            return f"must start with tenant:{tenant_id}, the tenant that owns {owned}"
    return None


def _segment_problem(segment: str) -> str | None:
    kind, colon, value = segment.partition(":")
    if not colon or kind not in SCOPE_KINDS:
        kinds = ", ".join(SCOPE_KINDS)
        return f"segment {segment!r} must be kind:value with kind one of {kinds}"
    if len(value) > VALUE_LENGTH_MAX or not _VALUE.fullmatch(value):
        return (
            f"value of {kind!r} must be 1 to {VALUE_LENGTH_MAX} letters, digits, '.', '_' or "
            "'-', beginning and ending with a letter or digit"
        )
    return None


def contains(scope_path: str, segments: Mapping[str, str]) -> bool:
    """Return whether a path has all the given `kind: value` segments, wherever they sit."""
    have = set(scope_path.split("/"))
    return all(f"{kind}:{value.lower()}" in have for kind, value in segments.items())


def filter_problem(entry: str, tenant_id: str) -> str | None:
    """Return what is wrong with one entry of an API key's scope filter, or None.

    An entry is `kind:value`, `kind:*` or a path of values in the hierarchy's order. One that
    names a tenant names the key's own, since the key reaches no other.
    """
    kind, _, value = entry.partition(":")
    if value == "*" and kind in SCOPE_KINDS:
        return None
    if "/" not in entry and (wrong := _segment_problem(entry)) is not None:
        return f"{wrong}; write agent:bot for one of them, agent:* for all"
    anywhere = not entry.lower().startswith("tenant:")
    return _problem(entry.split("/"), None if anywhere else tenant_id, "the key")


def within_filter(scope_path: str, scope_filter: tuple[str, ...]) -> bool:
    """Return whether an API key's scope filter admits a path; an empty filter admits all.

    An entry is one segment (`workspace:eng`), any value of a kind (`agent:*`), or a path,
    which admits itself and its descendants.
    """
    if not scope_filter:
        return True
    segments = scope_path.split("/")
    for entry in scope_filter:
        entry = entry.lower()
        if entry.endswith(":*"):
            if any(segment.startswith(entry[:-1]) for segment in segments):
                return True
        elif entry in segments or scope_path == entry or scope_path.startswith(entry + "/"):
            return True
    return False
