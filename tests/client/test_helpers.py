"""Plain questions, asked of text, enums, dicts and models alike."""

import pytest
import runcycles

from bursar.client import enums, helpers
from bursar.client.models import Caps, CyclesMetrics, DecisionResponse

ENUMS = [
    "Unit",
    "Decision",
    "CommitOveragePolicy",
    "ReservationStatus",
    "CommitStatus",
    "ReleaseStatus",
    "ExtendStatus",
    "EventStatus",
    "ErrorCode",
]


@pytest.mark.parametrize("name", ENUMS)
def test_enums_have_the_official_values(name: str) -> None:
    """Names, values and order agree, and each member is its own wire spelling."""
    official, ours = getattr(runcycles, name), getattr(enums, name)
    assert [(m.name, m.value) for m in official] == [(m.name, m.value) for m in ours]
    assert all(m == m.value and f"{m}" == m.value for m in ours)
    assert name in enums.__all__


@pytest.mark.parametrize("text", [None, "", "x", *(code.value for code in enums.ErrorCode)])
def test_codes_are_read_alike(text: str | None) -> None:
    """Text becomes the same code and the same advice."""
    official, ours = runcycles.ErrorCode.from_string(text), helpers.error_code_from_string(text)
    assert (official and official.value) == (ours and ours.value)
    if official and ours:
        assert official.is_retryable == ours.is_retryable


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (None, False),
        ("NOVEL", False),
        ("INTERNAL_ERROR", True),
        (enums.ErrorCode.UNKNOWN, True),
        ("LIMIT_EXCEEDED", True),
        (runcycles.ErrorCode.LIMIT_EXCEEDED, True),
        ("BUDGET_EXCEEDED", False),
    ],
)
def test_which_codes_may_be_tried_again(code: str | None, retryable: bool) -> None:
    """Only what is known to pass by itself."""
    assert retryable == helpers.is_retryable_error_code(code)


@pytest.mark.parametrize(
    ("decision", "allowed", "denied"),
    [
        ("ALLOW", True, False),
        (enums.Decision.ALLOW_WITH_CAPS, True, False),
        (runcycles.Decision.ALLOW, True, False),
        ("DENY", False, True),
        ("DEFER", False, False),
        (None, False, False),
        (5, False, False),
        ({"decision": "ALLOW"}, True, False),
        ({}, False, False),
        ({"decision": []}, False, False),
        (DecisionResponse(decision=enums.Decision.DENY), False, True),
    ],
)
def test_decisions(decision: object, allowed: bool, denied: bool) -> None:
    """What is not known is neither."""
    assert (allowed, denied) == (helpers.is_allowed(decision), helpers.is_denied(decision))


@pytest.mark.parametrize(
    ("caps", "allowed"),
    [
        (None, True),
        ({}, True),
        ({"tool_allowlist": []}, True),
        ({"tool_allowlist": ["a"]}, False),
        ({"tool_denylist": ["search"]}, False),
        (Caps(tool_allowlist=["search"]), True),
        (Caps(tool_denylist=["search"]), False),
    ],
)
def test_tools(caps: object, allowed: bool) -> None:
    """No caps and empty lists restrict nothing."""
    assert allowed == helpers.is_tool_allowed(caps, "search")


@pytest.mark.parametrize(
    ("metrics", "empty"),
    [
        (None, True),
        ({}, True),
        ({"custom": {}}, True),
        ({"custom": {"a": 1}}, False),
        ({"tokens_input": 0}, False),
        (CyclesMetrics(), True),
        (CyclesMetrics(model_version="m"), False),
    ],
)
def test_metrics(metrics: object, empty: bool) -> None:
    """A zero is a measurement, an absent value is none."""
    assert empty == helpers.is_metrics_empty(metrics)
