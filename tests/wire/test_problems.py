"""The error table: complete, with the statuses of the protocol."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bursar.vocabulary import ErrorCode
from bursar.wire.problems import PROBLEMS, problem, status_of
from bursar.wire.runtime import ErrorResponse

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SPEC = SHARED / "spec"
needs_spec = pytest.mark.skipif(
    not SPEC.is_dir(), reason=f"the published API schemas are not at {SPEC}"
)

STATUSES = {
    400: {"INVALID_REQUEST", "UNIT_MISMATCH"},
    401: {"UNAUTHORIZED"},
    403: {"FORBIDDEN", "INSUFFICIENT_PERMISSIONS"},
    404: {"NOT_FOUND", "TENANT_NOT_FOUND", "BUDGET_NOT_FOUND"},
    409: {
        "BUDGET_EXCEEDED",
        "BUDGET_FROZEN",
        "BUDGET_CLOSED",
        "OVERDRAFT_LIMIT_EXCEEDED",
        "DEBT_OUTSTANDING",
        "RESERVATION_FINALIZED",
        "IDEMPOTENCY_MISMATCH",
        "MAX_EXTENSIONS_EXCEEDED",
        "TENANT_CLOSED",
        "DUPLICATE_RESOURCE",
        "KEY_REVOKED",
        "KEY_EXPIRED",
        "COUNT_MISMATCH",
    },
    410: {"RESERVATION_EXPIRED"},
    429: {"LIMIT_EXCEEDED"},
    500: {"INTERNAL_ERROR"},
}


def spec_codes(name: str) -> set[str]:
    document: dict[str, Any] = yaml.safe_load((SPEC / name).read_text("utf-8"))
    return set(document["components"]["schemas"]["ErrorCode"]["enum"])


def test_every_code_has_its_status() -> None:
    """The whole table, read both ways."""
    assert {code: status_of(code) for code in ErrorCode} == {
        ErrorCode(name): status for status, names in STATUSES.items() for name in names
    }


@needs_spec
def test_every_runtime_code_of_the_published_schema_is_covered() -> None:
    """All 17 codes of the runtime plane, and none that no published schema knows."""
    runtime = spec_codes("cycles-protocol-v0.yaml")
    assert len(runtime) == 17
    assert runtime <= {code.value for code in PROBLEMS}
    known = runtime | spec_codes("cycles-governance-admin-v0.1.25.yaml")
    assert {code.value for code in ErrorCode} <= known


@pytest.mark.skipif(
    not (SHARED / "reference" / "protocol.md").is_file(),
    reason=f"the protocol reference is not at {SHARED / 'reference'}",
)
def test_statuses_are_those_of_the_protocol_reference() -> None:
    """The table of section 9, read from the reference itself."""
    text = (SHARED / "reference" / "protocol.md").read_text("utf-8")
    section = text.split("## 9. Error codes")[1].split("\n## ")[0]
    published: dict[str, set[int]] = {}
    for row in section.splitlines():
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if len(cells) < 2 or not (status := re.match(r"\d{3}", cells[1])):
            continue
        for name in re.findall(r"[A-Z]+(?:_[A-Z]+)+|FORBIDDEN|UNAUTHORIZED", cells[0]):
            published.setdefault(name, set()).add(int(status.group()))
    assert {code.value for code in ErrorCode} <= set(published)
    assert all(status_of(code) in published[code.value] for code in ErrorCode)


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    """Full sentences, because they end up in the documentation and in front of people."""
    for code, entry in PROBLEMS.items():
        for sentence in (entry.meaning, entry.advice):
            assert re.fullmatch(r"[A-Z].{8,}\.", sentence), (code, sentence)
    assert len({entry.meaning for entry in PROBLEMS.values()}) == len(PROBLEMS)


def test_only_throttling_and_lost_answers_are_worth_the_same_request_again() -> None:
    """Everything else needs somebody to act first."""
    retryable = {code for code, entry in PROBLEMS.items() if entry.retryable}
    assert retryable == {ErrorCode.LIMIT_EXCEEDED, ErrorCode.INTERNAL_ERROR}


def test_a_problem_is_a_valid_error_response() -> None:
    """Details appear only when there are any."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    bare = problem(ErrorCode.NOT_FOUND, "no such reservation", "r-1", trace_id)
    assert bare == {
        "error": "NOT_FOUND",
        "message": "no such reservation",
        "request_id": "r-1",
        "trace_id": trace_id,
    }
    details = {"scope": "tenant:acme", "expected_units": ["TOKENS"]}
    full = problem(ErrorCode.UNIT_MISMATCH, "m", "r-1", trace_id, details)
    assert full["details"] == details
    for body in (bare, full):
        ErrorResponse.model_validate(body)
    assert "details" not in problem(ErrorCode.NOT_FOUND, "m", "r", trace_id, {})
