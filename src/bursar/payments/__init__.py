"""Payments: what happened to money that moved outside the ledger.

The rule that lives here: an outcome is settled, never, or unknown, and unknown is never taken
for either of the others. Everything that moves money shares the machine, the records and the
worker of this package. A name is loaded when it is first asked for, so that a store that only
keeps records loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.lazy import door

if TYPE_CHECKING:
    from bursar.payments.alerts import AlertKind as AlertKind
    from bursar.payments.book import Book as Book
    from bursar.payments.book import Limits as Limits
    from bursar.payments.book import NoSuchPayment as NoSuchPayment
    from bursar.payments.operate import OperatorError as OperatorError
    from bursar.payments.operate import Refund as Refund
    from bursar.payments.operate import RefundChecker as RefundChecker
    from bursar.payments.operate import mark_refunded as mark_refunded
    from bursar.payments.operate import recheck as recheck
    from bursar.payments.operate import write_off as write_off
    from bursar.payments.outcome import NEVER as NEVER
    from bursar.payments.outcome import TERMINAL as TERMINAL
    from bursar.payments.outcome import UNRESOLVED as UNRESOLVED
    from bursar.payments.outcome import BudgetState as BudgetState
    from bursar.payments.outcome import Disposition as Disposition
    from bursar.payments.outcome import Duty as Duty
    from bursar.payments.outcome import IllegalTransition as IllegalTransition
    from bursar.payments.outcome import Money as Money
    from bursar.payments.outcome import Remedy as Remedy
    from bursar.payments.outcome import Trigger as Trigger
    from bursar.payments.outcome import WireOutcome as WireOutcome
    from bursar.payments.outcome import WireStatus as WireStatus
    from bursar.payments.outcome import Work as Work
    from bursar.payments.outcome import advance as advance
    from bursar.payments.outcome import disposition as disposition
    from bursar.payments.outcome import duty as duty
    from bursar.payments.outcome import wire_outcome as wire_outcome
    from bursar.payments.outcome import wire_status as wire_status
    from bursar.payments.ports import NoticeQuery as NoticeQuery
    from bursar.payments.ports import PaymentConflict as PaymentConflict
    from bursar.payments.ports import PaymentQuery as PaymentQuery
    from bursar.payments.ports import PaymentStore as PaymentStore
    from bursar.payments.ports import PaymentStoreError as PaymentStoreError
    from bursar.payments.ports import Posted as Posted
    from bursar.payments.ports import Prover as Prover
    from bursar.payments.ports import Result as Result
    from bursar.payments.ports import Saved as Saved
    from bursar.payments.ports import Tally as Tally
    from bursar.payments.records import Change as Change
    from bursar.payments.records import Evidence as Evidence
    from bursar.payments.records import Finding as Finding
    from bursar.payments.records import Kind as Kind
    from bursar.payments.records import Notice as Notice
    from bursar.payments.records import PaymentEvent as PaymentEvent
    from bursar.payments.records import PaymentRecord as PaymentRecord
    from bursar.payments.records import Topic as Topic
    from bursar.payments.records import Transfer as Transfer
    from bursar.payments.records import event_of as event_of
    from bursar.payments.records import move as move
    from bursar.payments.records import move_budget as move_budget
    from bursar.payments.records import move_remedy as move_remedy
    from bursar.payments.records import move_work as move_work
    from bursar.payments.schedule import Pace as Pace
    from bursar.payments.sealing import Sealer as Sealer
    from bursar.payments.sealing import SealError as SealError
    from bursar.payments.sealing import sealer_from as sealer_from
    from bursar.payments.sender import AlertSender as AlertSender
    from bursar.payments.sender import SenderMetrics as SenderMetrics
    from bursar.payments.sender import SenderSettings as SenderSettings
    from bursar.payments.store import open_payments as open_payments
    from bursar.payments.webhook import Webhook as Webhook
    from bursar.payments.webhook import WebhookError as WebhookError
    from bursar.payments.worker import PaymentWorker as PaymentWorker
    from bursar.payments.worker import WorkerMetrics as WorkerMetrics
    from bursar.payments.worker import WorkerSettings as WorkerSettings
    from bursar.wire.signature import is_signed as is_signed
else:
    __all__, __getattr__, __dir__ = door(
        __name__,
        {
            "bursar.payments.alerts": ("AlertKind",),
            "bursar.payments.book": ("Book", "Limits", "NoSuchPayment"),
            "bursar.payments.operate": (
                "OperatorError",
                "Refund",
                "RefundChecker",
                "mark_refunded",
                "recheck",
                "write_off",
            ),
            "bursar.payments.outcome": (
                "BudgetState",
                "Disposition",
                "Duty",
                "IllegalTransition",
                "Money",
                "NEVER",
                "Remedy",
                "TERMINAL",
                "Trigger",
                "UNRESOLVED",
                "WireOutcome",
                "WireStatus",
                "Work",
                "advance",
                "disposition",
                "duty",
                "wire_outcome",
                "wire_status",
            ),
            "bursar.payments.ports": (
                "NoticeQuery",
                "PaymentConflict",
                "PaymentQuery",
                "PaymentStore",
                "PaymentStoreError",
                "Posted",
                "Prover",
                "Result",
                "Saved",
                "Tally",
            ),
            "bursar.payments.records": (
                "Change",
                "Evidence",
                "Finding",
                "Kind",
                "Notice",
                "PaymentEvent",
                "PaymentRecord",
                "Topic",
                "Transfer",
                "event_of",
                "move",
                "move_budget",
                "move_remedy",
                "move_work",
            ),
            "bursar.payments.schedule": ("Pace",),
            "bursar.payments.sealing": ("SealError", "Sealer", "sealer_from"),
            "bursar.payments.sender": ("AlertSender", "SenderMetrics", "SenderSettings"),
            "bursar.payments.store": ("open_payments",),
            "bursar.payments.webhook": ("Webhook", "WebhookError"),
            "bursar.payments.worker": ("PaymentWorker", "WorkerMetrics", "WorkerSettings"),
            "bursar.wire.signature": ("is_signed",),
        },
    )
