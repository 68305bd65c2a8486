"""What users may import is a list that changes on purpose.

Adding or removing a public name means changing `PUBLIC` here in the same commit, so that a name
never becomes a promise by accident and never disappears by accident.
"""

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

import bursar

ROOT = Path(__file__).resolve().parents[1]

# Module -> every name it exports.
PUBLIC: dict[str, list[str]] = {
    "bursar": [
        "__version__",
        "Action",
        "Amount",
        "AsyncCyclesClient",
        "AsyncReservationGuard",
        "AsyncStreamHandle",
        "AsyncStreamReservation",
        "Balance",
        "BalanceResponse",
        "BudgetExceededError",
        "Caps",
        "CommitOveragePolicy",
        "CommitRequest",
        "CommitResponse",
        "CommitStatus",
        "CyclesClient",
        "CyclesConfig",
        "CyclesContext",
        "CyclesError",
        "CyclesEvidenceRef",
        "CyclesMetrics",
        "CyclesProtocolError",
        "CyclesResponse",
        "CyclesTransportError",
        "DebtOutstandingError",
        "Decision",
        "DecisionRequest",
        "DecisionResponse",
        "DryRunResult",
        "ErrorCode",
        "ErrorResponse",
        "EventCreateRequest",
        "EventCreateResponse",
        "EventStatus",
        "ExtendStatus",
        "HeartbeatFailure",
        "HeartbeatLost",
        "OverdraftLimitExceededError",
        "ReleaseRequest",
        "ReleaseResponse",
        "ReleaseStatus",
        "ReservationCreateRequest",
        "ReservationCreateResponse",
        "ReservationDetail",
        "ReservationEvidence",
        "ReservationExpiredError",
        "ReservationExtendRequest",
        "ReservationExtendResponse",
        "ReservationFinalizedError",
        "ReservationGuard",
        "ReservationListResponse",
        "ReservationStatus",
        "ReservationSummary",
        "SignedAmount",
        "StreamHandle",
        "StreamReservation",
        "StreamUsage",
        "Subject",
        "TenantClosedError",
        "Unit",
        "balance_response_from_wire",
        "caps_from_wire",
        "commit_request_to_wire",
        "commit_response_from_wire",
        "cycles",
        "decision_request_to_wire",
        "decision_response_from_wire",
        "error_code_from_string",
        "error_response_from_wire",
        "event_create_request_to_wire",
        "event_create_response_from_wire",
        "flush_pending_commits",
        "get_cycles_context",
        "is_allowed",
        "is_denied",
        "is_metrics_empty",
        "is_retryable_error_code",
        "is_tool_allowed",
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
        "reserve_for_stream",
        "set_default_client",
        "set_default_config",
        "with_cycles",
    ],
    "bursar.ap2": [
        "AP2CurrencyError",
        "AP2DryRunResult",
        "AP2GuardCommitFailed",
        "AP2GuardCommitUncertain",
        "AP2GuardDenied",
        "AP2GuardError",
        "AP2Mandate",
        "AP2MandateError",
        "AP2PaymentUnknown",
        "CanonicalError",
        "Checkout",
        "CheckoutMandate",
        "Claim",
        "ClaimState",
        "Consumption",
        "ExchangeRate",
        "Finding",
        "FindingCode",
        "OpenCheckoutMandate",
        "OpenPaymentMandate",
        "PaymentMandate",
        "Presented",
        "PublicKey",
        "ReceiptStatus",
        "ReceiptVerdict",
        "RuntimeAuthorityReceipt",
        "SigningError",
        "SigningKey",
        "Usage",
        "check_checkout",
        "check_pair",
        "check_payment",
        "open_mandate_hash",
        "sign_receipt",
        "verify_receipt",
        "AsyncGuardedPayment",
        "EarlierPayment",
        "GuardedPayment",
        "__version__",
        "cycles_guard_payment",
        "cycles_guard_payment_async",
        "cycles_guard_refund",
        "cycles_guard_refund_async",
    ],
    "bursar.agent": [
        "FixedPrice",
        "GuardedModel",
        "GuardedTools",
        "model",
        "Purse",
        "Permissions",
        "Toolbox",
        "tool",
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
        "SubAgent",
        "SubAgentStopped",
        "TranscriptStore",
        "TurnInProgressError",
        "TurnMismatchError",
        "TurnResult",
        "UsageSummary",
        "arun_turn_loop",
        "delete_session",
        "list_sessions",
        "load_session",
        "run_turn_loop",
    ],
    "bursar.payments": [
        *("AlertSender", "NoticeQuery", "SenderMetrics", "SenderSettings", "Webhook"),
        *("Refund", "Transfer", "WebhookError", "is_signed"),
        "AlertKind",
        "Book",
        "BudgetState",
        "Change",
        "Disposition",
        "Duty",
        "Evidence",
        "Finding",
        "IllegalTransition",
        "Kind",
        "Limits",
        "Money",
        "NEVER",
        "NoSuchPayment",
        "Notice",
        "OperatorError",
        "Pace",
        "PaymentConflict",
        "PaymentEvent",
        "PaymentQuery",
        "PaymentRecord",
        "PaymentStore",
        "PaymentStoreError",
        "PaymentWorker",
        "Posted",
        "Prover",
        "RefundChecker",
        "Remedy",
        "Result",
        "Saved",
        "SealError",
        "Sealer",
        "TERMINAL",
        "Tally",
        "Topic",
        "Trigger",
        "UNRESOLVED",
        "WireOutcome",
        "WireStatus",
        "Work",
        "WorkerMetrics",
        "WorkerSettings",
        "advance",
        "disposition",
        "duty",
        "event_of",
        "mark_refunded",
        "move",
        "move_budget",
        "move_remedy",
        "move_work",
        "open_payments",
        "recheck",
        "sealer_from",
        "wire_outcome",
        "wire_status",
        "write_off",
    ],
    "bursar.testing": [
        "Received",
        "WebhookReceiver",
        "Dollar",
        "LocalChain",
        "Fault",
        "ScriptedFacilitator",
        "MemoryPayments",
        "ScriptedModel",
        "ScriptedSyncModel",
        "Mishap",
        "PaymentService",
        "Reply",
        "ScriptedProvider",
        "ToolUse",
        "AsyncFaultyTransport",
        "Charge",
        "FakeClock",
        "Faults",
        "FaultyTransport",
        "MemoryStore",
        "ScriptedLedger",
        "assert_nothing_held",
        "assert_settled_once",
        "assert_spent",
    ],
    "bursar.x402": [
        "DIALECTS",
        "AlreadyBought",
        "AsyncX402Payer",
        "Authorization",
        "Bought",
        "ChainProver",
        "Dialect",
        "Facilitator",
        "Funder",
        "FundingError",
        "LedgerFunding",
        "FileResults",
        "MemoryResults",
        "NotPayable",
        "Offer",
        "PAYMENT_HEADER",
        "PAYMENT_ORPHANED",
        "Paid",
        "PaymentError",
        "PaymentRefused",
        "PaymentUnknown",
        "Price",
        "Purse",
        "REQUIRED_HEADER",
        "RESPONSE_HEADER",
        "Results",
        "Rpc",
        "RpcError",
        "SettleAnswer",
        "Signer",
        "StatusAnswer",
        "StoredAnswer",
        "Terms",
        "TokenDomain",
        "TokenRate",
        "VerifyAnswer",
        "X402",
        "X402Payer",
        "challenge",
        "decode",
        "dollar_rate",
        "encode",
        "intent_nonce",
        "reconcile_failed_payments",
        "run_x402_reconciliation_loop",
    ],
}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize("module", PUBLIC)
def test_exported_names_are_the_listed_ones(module: str) -> None:
    """`__all__` is exactly the list, without repetition."""
    assert sorted(importlib.import_module(module).__all__) == sorted(PUBLIC[module])
    assert len(set(PUBLIC[module])) == len(PUBLIC[module])


@pytest.mark.parametrize("module", PUBLIC)
def test_star_import_gives_the_listed_names(module: str) -> None:
    """`from module import *` works and brings the listed names."""
    namespace: dict[str, object] = {}
    exec(f"from {module} import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(PUBLIC[module])


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_exported_name_explains_itself(module: str, name: str) -> None:
    """Every exported class and function has a docstring of its own; constants are data."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        assert (value.__doc__ or "").strip(), f"{module}.{name} has no docstring"
    else:
        assert isinstance(value, str | int | float | frozenset | tuple | Mapping)


def door_of(module: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what a door's type checkers see and what it loads, each by module."""
    path = importlib.import_module(module).__file__
    assert path is not None
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(typed.test) == "TYPE_CHECKING"
    seen: dict[str, list[str]] = {}
    for line in typed.body:
        assert isinstance(line, ast.ImportFrom)
        assert line.module is not None
        seen.setdefault(line.module, []).extend(alias.asname or "" for alias in line.names)
    opened = typed.orelse[0]
    assert isinstance(opened, ast.Assign)
    assert isinstance(opened.value, ast.Call)
    loaded = ast.literal_eval(opened.value.args[1])
    return seen, {home: list(names) for home, names in loaded.items()}


@pytest.mark.parametrize("module", PUBLIC)
def test_type_checkers_see_what_is_loaded(module: str) -> None:
    """The imports that type checkers read are the door's table, and no name hides a module."""
    seen, loaded = door_of(module)
    assert {home: sorted(names) for home, names in seen.items()} == {
        home: sorted(names) for home, names in loaded.items()
    }
    package = Path(str(importlib.import_module(module).__file__)).parent
    beside = {path.stem for path in package.iterdir()}
    assert beside & {name for names in loaded.values() for name in names} == set()


@pytest.mark.parametrize("module", PUBLIC)
def test_a_door_opens_at_the_first_question(module: str) -> None:
    """Importing a package loads itself and what stands above it; every name can be listed."""
    listed = subprocess.run(
        [sys.executable, "-c", f"import sys, {module} as door\nprint(*sys.modules, *dir(door))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    ours = {name for name in listed if name.partition(".")[0] == "bursar"}
    assert ours == {"bursar", "bursar.lazy", module}
    assert not {"eth_account", "httpx2", "starlette", "pydantic", "cryptography"} & set(listed)
    assert set(PUBLIC[module]) <= set(listed)


def test_module_itself_explains_itself() -> None:
    """The package has a docstring and is marked as typed."""
    assert (bursar.__doc__ or "").strip()
    assert (Path(bursar.__file__).parent / "py.typed").is_file()


def test_version_is_the_one_of_the_project() -> None:
    """The version users see is the version that is built."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert bursar.__version__ == project["version"]


@pytest.mark.parametrize("module", PUBLIC)
def test_unknown_attribute_is_an_attribute_error(module: str) -> None:
    """A door does not invent names."""
    with pytest.raises(AttributeError, match=f"'{module}' has no attribute 'nothing'"):
        getattr(importlib.import_module(module), "nothing")  # noqa: B009 - it is meant to be wrong
