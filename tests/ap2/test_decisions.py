"""The decision table of the guard: each row, through both shells, and against the official one."""

from typing import Any

import pytest
import runcycles_ap2

from ap2.cases import CASES, Case
from ap2.running import Ran, run
from ap2.scripted import COMMIT, CREATE, RELEASE
from bursar import ap2
from bursar.ap2.mapping import PRESENTER

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@BOTH
@EACH
def test_the_guard_does_what_the_table_says(case: Case, asynchronous: bool) -> None:
    """Requests, exception, its fields and message, and whether the body ran."""
    found = run(ap2, case, asynchronous=asynchronous)
    assert found.client.made == case.calls
    assert found.ran == case.ran
    assert type(found.raised).__name__ == (case.raised or "NoneType"), found.raised
    assert {name: getattr(found.raised, name) for name in case.fields} == case.fields
    assert case.said in str(found.raised)
    assert found.guard.committed == case.committed
    assert (found.guard.receipt is not None) == (
        case.committed and case.options.get("emit_receipt", True)
    )
    if isinstance(found.raised, ap2.AP2GuardCommitUncertain):
        assert found.raised.journaled is False
    if case.release is not None:
        (released,) = found.client.bodies(RELEASE)
        reason, suffix = case.release
        assert released["reason"] == reason[:256]
        assert released["idempotency_key"].endswith(f":release:{suffix}")


@BOTH
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.differs is None], ids=lambda case: case.name
)
def test_the_official_guard_does_the_same(case: Case, asynchronous: bool) -> None:
    """The same requests but for who presents the mandate, the same exception, the same receipt."""
    ours = run(ap2, case, asynchronous=asynchronous)
    theirs = run(runcycles_ap2, case, asynchronous=asynchronous)
    assert _requests(ours, presenter=bool(ours.client.bodies(CREATE))) == _requests(theirs)
    assert _told(ours) == _told(theirs)


@BOTH
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.differs is None], ids=lambda case: case.name
)
def test_without_a_claim_the_requests_are_the_official_ones(case: Case, asynchronous: bool) -> None:
    """`claim=False` sends what the official guard sends, to the letter."""
    ours = run(ap2, case, asynchronous=asynchronous, more={"claim": False})
    assert _requests(ours) == _requests(run(runcycles_ap2, case, asynchronous=asynchronous))


def _requests(ran: Ran, *, presenter: bool = False) -> list[tuple[str, Any]]:
    """Return what was sent; a presenter is taken off, and must have been there."""
    if presenter:
        for body in ran.client.bodies(CREATE):
            metadata = body.pop("metadata")
            assert len(metadata.pop(PRESENTER)) == 32
            if metadata:
                body["metadata"] = metadata
    return ran.client.calls


def _told(ran: Ran) -> dict[str, Any]:
    """Return everything the caller can see."""
    guard, raised = ran.guard, ran.raised
    receipt = guard.receipt and guard.receipt.model_dump(by_alias=True, exclude={"issued_at_ms"})
    own = {"earlier", "journaled", "__notes__"}
    fields = {name: value for name, value in vars(raised or object).items() if name not in own}
    for model in ("caps", "balances"):
        if hasattr(fields.get(model), "model_dump"):
            fields[model] = fields[model].model_dump(exclude_none=True)
    return {
        "raised": type(raised).__name__, "said": str(raised), "fields": fields if raised else {},
        "cause": type(raised.__cause__).__name__ if raised else "", "ran": ran.ran,
        "committed": guard.committed, "receipt": receipt, "id": guard.reservation_id,
        "decision": guard.decision and guard.decision.value,
        "commits": ran.client.bodies(COMMIT),
    }  # fmt: skip
