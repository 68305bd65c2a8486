"""Keys and bodies: the official guard's, to the letter, and typed errors for what cannot be."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runcycles_ap2 import mapping as theirs
from runcycles_ap2.receipt import build_runtime_authority_receipt as their_receipt

from ap2.mandates import MICROS, mandate, official
from bursar.ap2 import AP2MandateError
from bursar.ap2 import mapping as ours
from bursar.ap2.keys import idempotency_key
from bursar.ap2.receipt import build_runtime_authority_receipt

NOBODY = dict.fromkeys(("tenant", "workspace", "app", "workflow", "agent", "toolset"))
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80).filter(
    lambda text: bool(text.strip())
)
WAYS: list[dict[str, Any]] = [
    {},
    {"open_mandate_hash": "omh_abc"},
    {"checkout_hash": "ch", "currency": "usd"},
    {"transaction_id": "x" * 256},
    {"transaction_id": "Ünïcode ✓"},
]


@pytest.mark.parametrize("changes", WAYS)
@pytest.mark.parametrize("suffix", [None, "", "ValueError", "Échec", "some/bad value", "x" * 99])
def test_keys_are_the_official_ones(changes: dict[str, Any], suffix: str | None) -> None:
    """Two guards of two makes ask about the same payment."""
    for phase in ("reserve", "commit", "release"):
        key = ours.idempotency_key(mandate(**changes), phase, suffix)
        assert key == theirs.idempotency_key(official(**changes), phase, suffix)
        assert len(key) <= 256


@given(IDS, IDS, st.text(max_size=99))
def test_keys_of_any_ids(transaction: str, run: str, suffix: str) -> None:
    """Whatever the ids hold, a key is printable ASCII and the official one."""
    key = ours.idempotency_key(mandate(transaction_id=transaction), "release", suffix)
    assert key == theirs.idempotency_key(official(transaction_id=transaction), "release", suffix)
    assert key.isascii()
    assert key.isprintable()
    assert ":release" in key


def test_known_vectors() -> None:
    """Keys never change: reservations of last week are found by them."""
    assert idempotency_key(mandate(), "reserve") == (
        "ap2:tx:0094424f06331addbe7b9977acf59843:reserve"
    )
    assert idempotency_key(mandate(open_mandate_hash="omh_abc"), "commit") == (
        "ap2:open_mandate:0ed492867b3ce39e4bdb39fcaf355590:commit"
    )
    assert idempotency_key(mandate(), "release", "Échec").endswith(":release:_chec")


def test_a_refund_is_another_payment() -> None:
    """Its keys differ from the charge's, from another refund's, and from another transaction's."""
    made = mandate(open_mandate_hash="omh_abc")
    keys = {
        idempotency_key(made, "reserve"),
        idempotency_key(made, "reserve", refund_id="r-1"),
        idempotency_key(made, "reserve", refund_id="r-2"),
        idempotency_key(mandate(transaction_id="ap2-tx-001r"), "reserve", refund_id="-1"),
        idempotency_key(mandate(transaction_id="ap2-tx-002"), "reserve", refund_id="r-1"),
    }
    assert len(keys) == 5
    assert sum(key.startswith("ap2:refund:") for key in keys) == 4


@pytest.mark.parametrize("changes", WAYS)
@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"dry_run": True, "metadata": {"a": [1]}, "tenant": "acme", "agent": "bot"},
        {"extra_dimensions": {"run_id": "mine", "team": "blue"}, "tenant": ""},
    ],
)
def test_bodies_are_the_official_ones(changes: dict[str, Any], terms: dict[str, Any]) -> None:
    """Reserve, commit, release and policy keys say what the official ones say."""
    plain: dict[str, Any] = {
        **NOBODY, "run_id": "run", "action_kind": "payment.charge", "ttl_ms": 60_000,
        "overage_policy": "REJECT", "dry_run": False, **terms,
    }  # fmt: skip
    a, b = mandate(**changes), official(**changes)
    assert ours.build_reservation_body(a, **plain) == theirs.build_reservation_body(b, **plain)
    for micros in (None, 0, 7):
        for said in (None, {}, {"psp_ref": "p"}):
            made = ours.build_commit_body(a, actual_micros=micros, metadata=said)
            assert made == theirs.build_commit_body(b, actual_micros=micros, metadata=said)
    why = "because " * 99
    assert ours.build_release_body(a, reason=why, exception_type="X") == theirs.build_release_body(
        b, reason=why, exception_type="X"
    )
    assert ours.build_receipt_policy_keys(a) == theirs.build_receipt_policy_keys(b)


@pytest.mark.parametrize(
    "terms",
    [
        {"run_id": "x" * 257},
        {"run_id": 7},
        {"run_id": "a\x00b"},
        {"run_id": "\ud800"},
        {"run_id": "r", "extra_dimensions": {str(n): "x" for n in range(12)}},
        {"run_id": "r", "extra_dimensions": {"team": ["blue"]}},
        {"run_id": "r", "extra_dimensions": ["team"]},
        {"run_id": "r", "extra_dimensions": {5: "x"}},
        {"run_id": "r", "extra_dimensions": {"\ud800": "x"}},
    ],
)
def test_what_no_server_accepts_is_refused_here(terms: dict[str, Any]) -> None:
    """A dimension that is too long, none, or not text is a typed error with its name."""
    own = terms.get("extra_dimensions", {"run_id": ""})
    expected = "team" if own == {"team": ["blue"]} else "run_id" if "run_id" in own else "extra_"
    with pytest.raises(AP2MandateError, match=expected):
        ours.build_subject(mandate(), **{**NOBODY, **terms})


def test_metadata_that_json_does_not_have_becomes_text() -> None:
    """A date or NaN in the receipt fields does not cost the commit of a payment that was made."""
    when = datetime(2026, 5, 13, tzinfo=UTC)
    said = {"at": when, "rate": float("nan"), "odd": "\ud800", "n": 1}
    body = ours.build_commit_body(mandate(), metadata=said)
    assert body["metadata"] == {"at": str(when), "rate": "nan", "odd": "\\ud800", "n": 1}


def test_a_receipt_is_the_official_one_and_is_not_signed() -> None:
    """The same fields under the same names; it says itself that nobody signed it."""
    said: dict[str, Any] = {
        "decision": "ALLOW", "reservation_id": "rsv", "tenant": "acme", "agent": None,
        "action_kind": "payment.charge", "policy_keys": {"host": "x"}, "amount_micros": MICROS,
        "committed": True, "psp_ref": "p", "extra": {"k": 1}, "issued_at_ms": 7,
    }  # fmt: skip
    made = build_runtime_authority_receipt(mandate(), **said)
    expected = their_receipt(official(), **said)
    assert made.model_dump(by_alias=True) == expected.model_dump(by_alias=True)
    assert made.signed is False
    assert build_runtime_authority_receipt(mandate(), **{**said, "issued_at_ms": None}).issued_at_ms
