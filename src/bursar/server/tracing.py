"""Which trace a request belongs to (protocol 7, W3C Trace Context).

The rule that lives here: a valid `traceparent` wins over a valid `X-Cycles-Trace-Id`,
which wins over a fresh id. A malformed header is ignored and never rejects a request. The
protocol knows version 00 of `traceparent` alone; another version counts as malformed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bursar.ids import new_trace_id

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_ZERO_TRACE, _ZERO_SPAN = "0" * 32, "0" * 16


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span: its trace, its own id, and the flags (bit 0: it is sampled)."""

    trace_id: str
    span_id: str
    flags: int


def parent_of(traceparent: str) -> Parent | None:
    """Return the span that a `traceparent` names, or None if it is malformed."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None or match[1] == _ZERO_TRACE or match[2] == _ZERO_SPAN:
        return None
    return Parent(match[1], match[2], int(match[3], 16))


def trace_id(traceparent: str | None, trace_header: str | None) -> str:
    """Return the trace id of a request from its two headers, or a fresh one."""
    if traceparent is not None:
        parent = parent_of(traceparent)
        if parent is not None:
            return parent.trace_id
    if trace_header is not None:
        found = trace_header.strip().lower()
        if _TRACE_ID.fullmatch(found) and found != _ZERO_TRACE:
            return found
    return new_trace_id()
