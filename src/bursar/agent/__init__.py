"""An agent's turns: bounded in turns, tokens, money and time, and cancellable at any moment.

The rule that lives here: importing this package is light. A provider's package is imported by
the adapter that needs it, when a model of that provider is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.lazy import door

if TYPE_CHECKING:
    from bursar.agent.aloop import arun_turn_loop as arun_turn_loop
    from bursar.agent.config import QueryEngineConfig as QueryEngineConfig
    from bursar.agent.engine import QueryEngine as QueryEngine
    from bursar.agent.guarded import GuardedModel as GuardedModel
    from bursar.agent.guarded import GuardedTools as GuardedTools
    from bursar.agent.loop import run_turn_loop as run_turn_loop
    from bursar.agent.models import model as model
    from bursar.agent.money import Purse as Purse
    from bursar.agent.pricing import FixedPrice as FixedPrice
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
    from bursar.agent.step import TurnMismatchError as TurnMismatchError
    from bursar.agent.sub_agents import SubAgent as SubAgent
    from bursar.agent.sub_agents import SubAgentStopped as SubAgentStopped
    from bursar.agent.tools import Permissions as Permissions
    from bursar.agent.tools import Toolbox as Toolbox
    from bursar.agent.tools import tool as tool
    from bursar.agent.transcript import TranscriptStore as TranscriptStore
else:
    __all__, __getattr__, __dir__ = door(
        __name__,
        {
            "bursar.agent.aloop": ("arun_turn_loop",),
            "bursar.agent.config": ("QueryEngineConfig",),
            "bursar.agent.engine": ("QueryEngine",),
            "bursar.agent.guarded": (
                "GuardedModel",
                "GuardedTools",
            ),
            "bursar.agent.loop": ("run_turn_loop",),
            "bursar.agent.models": ("model",),
            "bursar.agent.money": ("Purse",),
            "bursar.agent.pricing": ("FixedPrice",),
            "bursar.agent.results": (
                "Dimension",
                "LoopResult",
                "Overrun",
                "PermissionDenial",
                "StopReason",
                "TurnResult",
                "UsageSummary",
            ),
            "bursar.agent.scope": ("CancelScope", "ScopeFired"),
            "bursar.agent.session": ("TurnInProgressError",),
            "bursar.agent.step": ("TurnMismatchError",),
            "bursar.agent.session_format": ("SessionFormatError",),
            "bursar.agent.sessions": (
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
            "bursar.agent.sub_agents": ("SubAgent", "SubAgentStopped"),
            "bursar.agent.tools": (
                "Permissions",
                "Toolbox",
                "tool",
            ),
            "bursar.agent.transcript": ("TranscriptStore",),
        },
    )
