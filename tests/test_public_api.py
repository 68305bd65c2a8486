"""What users may import is a list that changes on purpose.

Adding or removing a public name means changing `PUBLIC` here in the same commit, so that a name
never becomes a promise by accident and never disappears by accident.
"""

import importlib
import inspect
import tomllib
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
        assert isinstance(value, str | int | float | frozenset | tuple)


def test_module_itself_explains_itself() -> None:
    """The package has a docstring and is marked as typed."""
    assert (bursar.__doc__ or "").strip()
    assert (Path(bursar.__file__).parent / "py.typed").is_file()


def test_version_is_the_one_of_the_project() -> None:
    """The version users see is the version that is built."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert bursar.__version__ == project["version"]


def test_unknown_attribute_is_an_attribute_error() -> None:
    """The lazy lookup of the version does not invent other names."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(bursar, "nothing")  # noqa: B009 - the plain spelling is a type error, as it should be
