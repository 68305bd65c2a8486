"""Bursar: runtime authority for AI agents.

The rule that lives here: importing this package is light. A name is loaded when it is first
asked for, with what it needs and nothing else; no server code is ever among it. What is
offered is exactly `__all__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.lazy import door

if TYPE_CHECKING:
    from bursar.client.aio import AsyncCyclesClient as AsyncCyclesClient
    from bursar.client.config import CyclesConfig as CyclesConfig
    from bursar.client.context import CyclesContext as CyclesContext
    from bursar.client.context import get_cycles_context as get_cycles_context
    from bursar.client.decorate import cycles as cycles
    from bursar.client.decorate import reserve_for_stream as reserve_for_stream
    from bursar.client.decorate import with_cycles as with_cycles
    from bursar.client.defaults import set_default_client as set_default_client
    from bursar.client.defaults import set_default_config as set_default_config
    from bursar.client.ending import flush_pending_commits as flush_pending_commits
    from bursar.client.enums import CommitOveragePolicy as CommitOveragePolicy
    from bursar.client.enums import CommitStatus as CommitStatus
    from bursar.client.enums import Decision as Decision
    from bursar.client.enums import ErrorCode as ErrorCode
    from bursar.client.enums import EventStatus as EventStatus
    from bursar.client.enums import ExtendStatus as ExtendStatus
    from bursar.client.enums import ReleaseStatus as ReleaseStatus
    from bursar.client.enums import ReservationStatus as ReservationStatus
    from bursar.client.enums import Unit as Unit
    from bursar.client.exceptions import BudgetExceededError as BudgetExceededError
    from bursar.client.exceptions import CyclesError as CyclesError
    from bursar.client.exceptions import CyclesProtocolError as CyclesProtocolError
    from bursar.client.exceptions import CyclesTransportError as CyclesTransportError
    from bursar.client.exceptions import DebtOutstandingError as DebtOutstandingError
    from bursar.client.exceptions import OverdraftLimitExceededError as OverdraftLimitExceededError
    from bursar.client.exceptions import ReservationExpiredError as ReservationExpiredError
    from bursar.client.exceptions import ReservationFinalizedError as ReservationFinalizedError
    from bursar.client.exceptions import TenantClosedError as TenantClosedError
    from bursar.client.guard import AsyncReservationGuard as AsyncReservationGuard
    from bursar.client.guard import AsyncStreamHandle as AsyncStreamHandle
    from bursar.client.guard import ReservationGuard as ReservationGuard
    from bursar.client.guard import StreamHandle as StreamHandle
    from bursar.client.heartbeat_failure import HeartbeatFailure as HeartbeatFailure
    from bursar.client.held import HeartbeatLost as HeartbeatLost
    from bursar.client.helpers import error_code_from_string as error_code_from_string
    from bursar.client.helpers import is_allowed as is_allowed
    from bursar.client.helpers import is_denied as is_denied
    from bursar.client.helpers import is_metrics_empty as is_metrics_empty
    from bursar.client.helpers import is_retryable_error_code as is_retryable_error_code
    from bursar.client.helpers import is_tool_allowed as is_tool_allowed
    from bursar.client.mappers import balance_response_from_wire as balance_response_from_wire
    from bursar.client.mappers import caps_from_wire as caps_from_wire
    from bursar.client.mappers import commit_request_to_wire as commit_request_to_wire
    from bursar.client.mappers import commit_response_from_wire as commit_response_from_wire
    from bursar.client.mappers import decision_request_to_wire as decision_request_to_wire
    from bursar.client.mappers import decision_response_from_wire as decision_response_from_wire
    from bursar.client.mappers import error_response_from_wire as error_response_from_wire
    from bursar.client.mappers import event_create_request_to_wire as event_create_request_to_wire
    from bursar.client.mappers import (
        event_create_response_from_wire as event_create_response_from_wire,
    )
    from bursar.client.mappers import metrics_to_wire as metrics_to_wire
    from bursar.client.mappers import release_request_to_wire as release_request_to_wire
    from bursar.client.mappers import release_response_from_wire as release_response_from_wire
    from bursar.client.mappers import (
        reservation_create_request_to_wire as reservation_create_request_to_wire,
    )
    from bursar.client.mappers import (
        reservation_create_response_from_wire as reservation_create_response_from_wire,
    )
    from bursar.client.mappers import reservation_detail_from_wire as reservation_detail_from_wire
    from bursar.client.mappers import (
        reservation_extend_request_to_wire as reservation_extend_request_to_wire,
    )
    from bursar.client.mappers import (
        reservation_extend_response_from_wire as reservation_extend_response_from_wire,
    )
    from bursar.client.mappers import (
        reservation_list_response_from_wire as reservation_list_response_from_wire,
    )
    from bursar.client.mappers import reservation_summary_from_wire as reservation_summary_from_wire
    from bursar.client.models import Action as Action
    from bursar.client.models import Amount as Amount
    from bursar.client.models import Balance as Balance
    from bursar.client.models import BalanceResponse as BalanceResponse
    from bursar.client.models import Caps as Caps
    from bursar.client.models import CommitRequest as CommitRequest
    from bursar.client.models import CommitResponse as CommitResponse
    from bursar.client.models import CyclesEvidenceRef as CyclesEvidenceRef
    from bursar.client.models import CyclesMetrics as CyclesMetrics
    from bursar.client.models import DecisionRequest as DecisionRequest
    from bursar.client.models import DecisionResponse as DecisionResponse
    from bursar.client.models import DryRunResult as DryRunResult
    from bursar.client.models import ErrorResponse as ErrorResponse
    from bursar.client.models import EventCreateRequest as EventCreateRequest
    from bursar.client.models import EventCreateResponse as EventCreateResponse
    from bursar.client.models import ReleaseRequest as ReleaseRequest
    from bursar.client.models import ReleaseResponse as ReleaseResponse
    from bursar.client.models import ReservationCreateRequest as ReservationCreateRequest
    from bursar.client.models import ReservationCreateResponse as ReservationCreateResponse
    from bursar.client.models import ReservationDetail as ReservationDetail
    from bursar.client.models import ReservationEvidence as ReservationEvidence
    from bursar.client.models import ReservationExtendRequest as ReservationExtendRequest
    from bursar.client.models import ReservationExtendResponse as ReservationExtendResponse
    from bursar.client.models import ReservationListResponse as ReservationListResponse
    from bursar.client.models import ReservationSummary as ReservationSummary
    from bursar.client.models import SignedAmount as SignedAmount
    from bursar.client.models import Subject as Subject
    from bursar.client.response import CyclesResponse as CyclesResponse
    from bursar.client.stream import AsyncStreamReservation as AsyncStreamReservation
    from bursar.client.stream import StreamReservation as StreamReservation
    from bursar.client.sync import CyclesClient as CyclesClient
    from bursar.client.usage import StreamUsage as StreamUsage
    from bursar.version import __version__ as __version__
else:
    __all__, __getattr__, __dir__ = door(
        __name__,
        {
            "bursar.client.aio": ("AsyncCyclesClient",),
            "bursar.client.config": ("CyclesConfig",),
            "bursar.client.context": ("CyclesContext", "get_cycles_context"),
            "bursar.client.decorate": ("cycles", "reserve_for_stream", "with_cycles"),
            "bursar.client.defaults": ("set_default_client", "set_default_config"),
            "bursar.client.ending": ("flush_pending_commits",),
            "bursar.client.enums": (
                "CommitOveragePolicy",
                "CommitStatus",
                "Decision",
                "ErrorCode",
                "EventStatus",
                "ExtendStatus",
                "ReleaseStatus",
                "ReservationStatus",
                "Unit",
            ),
            "bursar.client.exceptions": (
                "BudgetExceededError",
                "CyclesError",
                "CyclesProtocolError",
                "CyclesTransportError",
                "DebtOutstandingError",
                "OverdraftLimitExceededError",
                "ReservationExpiredError",
                "ReservationFinalizedError",
                "TenantClosedError",
            ),
            "bursar.client.guard": (
                "AsyncReservationGuard",
                "AsyncStreamHandle",
                "ReservationGuard",
                "StreamHandle",
            ),
            "bursar.client.heartbeat_failure": ("HeartbeatFailure",),
            "bursar.client.held": ("HeartbeatLost",),
            "bursar.client.helpers": (
                "error_code_from_string",
                "is_allowed",
                "is_denied",
                "is_metrics_empty",
                "is_retryable_error_code",
                "is_tool_allowed",
            ),
            "bursar.client.mappers": (
                "balance_response_from_wire",
                "caps_from_wire",
                "commit_request_to_wire",
                "commit_response_from_wire",
                "decision_request_to_wire",
                "decision_response_from_wire",
                "error_response_from_wire",
                "event_create_request_to_wire",
                "event_create_response_from_wire",
                "metrics_to_wire",
                "release_request_to_wire",
                "release_response_from_wire",
                "reservation_create_request_to_wire",
                "reservation_create_response_from_wire",
                "reservation_detail_from_wire",
                "reservation_extend_request_to_wire",
                "reservation_extend_response_from_wire",
                "reservation_list_response_from_wire",
                "reservation_summary_from_wire",
            ),
            "bursar.client.models": (
                "Action",
                "Amount",
                "Balance",
                "BalanceResponse",
                "Caps",
                "CommitRequest",
                "CommitResponse",
                "CyclesEvidenceRef",
                "CyclesMetrics",
                "DecisionRequest",
                "DecisionResponse",
                "DryRunResult",
                "ErrorResponse",
                "EventCreateRequest",
                "EventCreateResponse",
                "ReleaseRequest",
                "ReleaseResponse",
                "ReservationCreateRequest",
                "ReservationCreateResponse",
                "ReservationDetail",
                "ReservationEvidence",
                "ReservationExtendRequest",
                "ReservationExtendResponse",
                "ReservationListResponse",
                "ReservationSummary",
                "SignedAmount",
                "Subject",
            ),
            "bursar.client.response": ("CyclesResponse",),
            "bursar.client.stream": ("AsyncStreamReservation", "StreamReservation"),
            "bursar.client.sync": ("CyclesClient",),
            "bursar.client.usage": ("StreamUsage",),
            "bursar.version": ("__version__",),
        },
    )
