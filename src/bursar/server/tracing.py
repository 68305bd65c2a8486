"""Which trace a request belongs to (protocol 7, W3C Trace Context).

The rule that lives here: a valid `traceparent` wins over a valid `X-Cycles-Trace-Id`,
which wins over a fresh id. A malformed header is ignored and never rejects a request. The
protocol knows version 00 of `traceparent` alone; another version counts as malformed.
"""

from __future__ import annotations

import re

from bursar.ids import new_trace_id

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_ZERO_TRACE, _ZERO_SPAN = "0" * 32, "0" * 16


def trace_id(traceparent: str | None, trace_header: str | None) -> str:
    """Return the trace id of a request from its two headers, or a fresh one."""
    if traceparent is not None:
        match = _TRACEPARENT.fullmatch(traceparent.strip())
        if match is not None and match[1] != _ZERO_TRACE and match[2] != _ZERO_SPAN:
            return match[1]
    if trace_header is not None:
        found = trace_header.strip().lower()
        if _TRACE_ID.fullmatch(found) and found != _ZERO_TRACE:
            return found
    return new_trace_id()
