"""An agent's turns: bounded in turns, tokens, money and time, and cancellable at any moment.

The rule that lives here: importing this package is light. A provider's package is imported by
the adapter that needs it, when a model of that provider is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.agent.aloop import arun_turn_loop as arun_turn_loop
    from bursar.agent.config import QueryEngineConfig as QueryEngineConfig
    from bursar.agent.engine import QueryEngine as QueryEngine
    from bursar.agent.loop import run_turn_loop as run_turn_loop
    from bursar.agent.results import Dimension as Dimension
    from bursar.agent.results import LoopResult as LoopResult
    from bursar.agent.results import Overrun as Overrun
    from bursar.agent.results import PermissionDenial as PermissionDenial
    from bursar.agent.results import StopReason as StopReason
    from bursar.agent.results import TurnResult as TurnResult
    from bursar.agent.results import UsageSummary as UsageSummary
    from bursar.agent.scope import CancelScope as CancelScope
    from bursar.agent.scope import ScopeFired as ScopeFired
    from bursar.agent.session import TurnInProgressError as TurnInProgressError
    from bursar.agent.session_format import SessionFormatError as SessionFormatError
    from bursar.agent.sessions import SessionConflictError as SessionConflictError
    from bursar.agent.sessions import SessionDeleteError as SessionDeleteError
    from bursar.agent.sessions import SessionIdError as SessionIdError
    from bursar.agent.sessions import SessionNotFoundError as SessionNotFoundError
    from bursar.agent.sessions import SessionSaveError as SessionSaveError
    from bursar.agent.sessions import StoredSession as StoredSession
    from bursar.agent.sessions import delete_session as delete_session
    from bursar.agent.sessions import list_sessions as list_sessions
    from bursar.agent.sessions import load_session as load_session
    from bursar.agent.transcript import TranscriptStore as TranscriptStore

# Module of this package -> the names that users import from here.
_MODULES: dict[str, tuple[str, ...]] = {
    "aloop": ("arun_turn_loop",),
    "config": ("QueryEngineConfig",),
    "engine": ("QueryEngine",),
    "loop": ("run_turn_loop",),
    "results": (
        "Dimension",
        "LoopResult",
        "Overrun",
        "PermissionDenial",
        "StopReason",
        "TurnResult",
        "UsageSummary",
    ),
    "scope": ("CancelScope", "ScopeFired"),
    "session": ("TurnInProgressError",),
    "session_format": ("SessionFormatError",),
    "sessions": (
        "SessionConflictError",
        "SessionDeleteError",
        "SessionIdError",
        "SessionNotFoundError",
        "SessionSaveError",
        "StoredSession",
        "delete_session",
        "list_sessions",
        "load_session",
    ),
    "transcript": ("TranscriptStore",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CancelScope",
    "Dimension",
    "LoopResult",
    "Overrun",
    "PermissionDenial",
    "QueryEngine",
    "QueryEngineConfig",
    "ScopeFired",
    "SessionConflictError",
    "SessionDeleteError",
    "SessionFormatError",
    "SessionIdError",
    "SessionNotFoundError",
    "SessionSaveError",
    "StopReason",
    "StoredSession",
    "TranscriptStore",
    "TurnInProgressError",
    "TurnResult",
    "UsageSummary",
    "arun_turn_loop",
    "delete_session",
    "list_sessions",
    "load_session",
    "run_turn_loop",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for; nothing else is made up."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"bursar.agent.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
