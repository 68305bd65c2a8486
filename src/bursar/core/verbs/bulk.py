"""Begin and finish a bulk action (protocol 10.8); its rows are ordinary commands in between.

The rows are written down before the first of them changes. So a bulk action that was cut
short is finished by sending it again: the same rows under the same keys, whatever its filter
matches by then. The answer of the end takes the place of that plan, under the same key.

| # | begin: guard; replay comes before                | refusal        |
|---|--------------------------------------------------|----------------|
| 1 | as many rows as the caller expects, if it does   | COUNT_MISMATCH |
| 2 | at most 500 rows                                 | LIMIT_EXCEEDED |

Finishing is refused for nothing: what happened to the rows has happened.
"""

from __future__ import annotations

from dataclasses import dataclass

from bursar.core.commands import BeginBulk, FinishBulk
from bursar.core.outcomes import BulkAnswer, BulkPlan, Changes, Refused
from bursar.core.snapshot import Snapshot
from bursar.invariant import require
from bursar.vocabulary import BULK_ROWS_MAX, ErrorCode


@dataclass(frozen=True, slots=True)
class Ready:
    """A bulk action that may begin, or end; its command says all there is to know."""

    key: str


def evaluate_begin(snapshot: Snapshot, command: BeginBulk, now_ms: int) -> Ready | Refused:
    """Decide whether the rows are those that the caller means, and few enough."""
    del snapshot, now_ms
    details = {"total_matched": command.matched}
    if command.expected is not None and command.expected != command.matched:
        return Refused(
            ErrorCode.COUNT_MISMATCH,
            f"expected_count is {command.expected}, but the filter matches {command.matched}; "
            "nothing was changed",
            fix=f"List what the filter matches, then send expected_count {command.matched}.",
            details=details,
        )
    if command.matched > BULK_ROWS_MAX:
        return Refused(
            ErrorCode.LIMIT_EXCEEDED,
            f"filter: matches {command.matched} rows, and one bulk action changes at most "
            f"{BULK_ROWS_MAX}; nothing was changed",
            fix="Narrow the filter and send one request for each part.",
            details=details,
        )
    return _ready(command)


def apply_begin(command: BeginBulk, ready: Ready, now_ms: int) -> Changes:
    """Answer with the plan; the rows change by commands of their own."""
    del ready
    require(len(command.targets) == command.matched, "a plan names every row that matched")
    origin = command.origin
    plan = BulkPlan(
        command.bulk_id, now_ms, origin.request_id, origin.correlation_id, command.targets
    )
    return Changes(plan)


def evaluate_finish(snapshot: Snapshot, command: FinishBulk, now_ms: int) -> Ready | Refused:
    """Accept: what the outcomes tell of has happened."""
    del snapshot, now_ms
    return _ready(command)


def apply_finish(command: FinishBulk, ready: Ready, now_ms: int) -> Changes:
    """Answer with what became of every row."""
    del now_ms
    return Changes(BulkAnswer(command.action, ready.key, command.outcomes))


def _ready(command: BeginBulk | FinishBulk) -> Ready:
    require(command.idempotency is not None, "a bulk action has a key")
    return Ready(command.idempotency.key if command.idempotency else "")
