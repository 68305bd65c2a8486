"""One line of a diagnosis.

The rule that lives here: `ok` needs no fix, and `warn` and `fail` are nothing without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bursar.invariant import require


class State(StrEnum):
    """How bad it is: `fail` means that something does not work, or will not for long."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Line:
    """What was looked at, what was found, and what to do."""

    check: str
    state: State
    found: str
    fix: str = ""

    def __post_init__(self) -> None:
        """Check that what is wrong has a fix."""
        require((self.state is State.OK) == (not self.fix), "what is wrong has a fix")


def ok(check: str, found: str) -> Line:
    """Return a line for what is as it should be."""
    return Line(check, State.OK, found)


def warn(check: str, found: str, fix: str) -> Line:
    """Return a line for what may go wrong."""
    return Line(check, State.WARN, found, fix)


def fail(check: str, found: str, fix: str) -> Line:
    """Return a line for what is wrong."""
    return Line(check, State.FAIL, found, fix)
