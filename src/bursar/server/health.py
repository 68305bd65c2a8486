"""Is the process alive, and can it do its job?

The rule that lives here: liveness looks at nothing but the process, so that a full disk
does not get it restarted. Readiness reads the store, and remembers for ten seconds that a
write failed; longer would keep a recovered server out of service for good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bursar.clock import Clock
from bursar.ledger.batcher import Batcher
from bursar.ledger.ports import Reader, StoreError

FAILURE_REMEMBERED_MS = 10_000


@dataclass(slots=True)
class State:
    """What the probes look at."""

    batcher: Batcher
    reader: Reader
    clock: Clock
    stopping: bool = False


Check = Callable[[State], tuple[int, dict[str, Any]]]


def live(state: State) -> tuple[int, dict[str, Any]]:
    """Answer that the process runs."""
    del state
    return 200, {"status": "live"}


def ready(state: State) -> tuple[int, dict[str, Any]]:
    """Answer whether requests can be served: 200, or 503 and which check failed."""
    checks = {
        "accepting": "stopping" if state.stopping else "ok",
        "store": _store(state.reader),
        "writes": _writes(state),
    }
    healthy = all(result == "ok" for result in checks.values())
    body = {"status": "ready" if healthy else "not_ready", "checks": checks}
    return 200 if healthy else 503, body


def _store(reader: Reader) -> str:
    try:
        reader.pepper()
    except StoreError as error:
        return str(error)
    return "ok"


def _writes(state: State) -> str:
    failure = state.batcher.last_failure
    if failure is None or state.clock.now_ms() - failure.at_ms > FAILURE_REMEMBERED_MS:
        return "ok"
    return str(failure.error)
