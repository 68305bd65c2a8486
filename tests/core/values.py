"""How tables write values: `MAX-1`, `90s`, `acme/agent:bot`, `AIA`, `-` for none."""

import re

from bursar.core.scopes import prefixes
from bursar.vocabulary import AMOUNT_MAX, OveragePolicy, Unit

_SPAN_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_POLICIES = {
    "REJECT": OveragePolicy.REJECT,
    "AIA": OveragePolicy.ALLOW_IF_AVAILABLE,
    "AWO": OveragePolicy.ALLOW_WITH_OVERDRAFT,
}
_UNITS = {"USD": Unit.USD_MICROCENTS} | {unit.value: unit for unit in Unit}


def amount(text: str) -> int:
    """Read `300`, `-50`, `MAX-1` or `2^53+1`, exactly."""
    match = re.fullmatch(r"(-?[0-9_]+|MAX|2\^53)([+-][0-9]+)?", text)
    if match is None:
        raise ValueError(f"not an amount: {text!r}")
    base = {"MAX": AMOUNT_MAX, "2^53": 2**53}.get(match[1])
    return (int(match[1]) if base is None else base) + int(match[2] or 0)


def span_ms(text: str) -> int:
    """Read `500ms`, `60s` or `-1h` as milliseconds."""
    match = re.fullmatch(r"(-?[0-9]+)(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError(f"not a span of time: {text!r}")
    return int(match[1]) * _SPAN_MS[match[2]]


def scope_path(text: str) -> str:
    """Read `acme/agent:bot` as `tenant:acme/agent:bot`; a first segment with a kind stays."""
    return text if ":" in text.split("/")[0] else f"tenant:{text}"


def scope_paths(text: str) -> tuple[str, ...]:
    """Return every derived scope of a path, outermost first."""
    return prefixes(scope_path(text))


def pattern(text: str) -> str:
    """Read a policy's pattern: a path, or one that begins with a star."""
    return text if text.startswith("*") else scope_path(text)


def short(scope: str | None) -> str:
    """Write a scope path as tables do."""
    return "-" if scope is None else scope.removeprefix("tenant:")


def policy(text: str | None) -> OveragePolicy | None:
    return None if text is None else _POLICIES[text]


def policy_name(value: OveragePolicy) -> str:
    return next(name for name, known in _POLICIES.items() if known is value)


def unit(text: str | None) -> Unit:
    return _UNITS[text or "USD"]


def shown(value: object) -> str:
    """Write a fact: none as `-`, a flag as yes or no, a number exactly."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def same(expected: str, actual: str) -> bool:
    """Compare what a row says with what happened; numbers and spans by value."""
    for read in (amount, span_ms):
        try:
            return read(expected) == read(actual)
        except ValueError:
            continue
    return expected == actual
