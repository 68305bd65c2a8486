"""Reading what the ledger knows of an earlier attempt: everything, or nothing, never an error."""

from typing import Any

import pytest

from bursar.ap2.earlier import EarlierPayment, different, read_page, read_row

ROW: dict[str, Any] = {
    "reservation_id": "rsv_1",
    "status": "COMMITTED",
    "idempotency_key": "k",
    "subject": {
        "tenant": "acme",
        "dimensions": {"run_id": "run_a", "ap2_transaction_id": "tx"},
    },
    "action": {"kind": "payment.charge", "name": "n"},
    "reserved": {"unit": "USD_MICROCENTS", "amount": 100},
    "committed": {"unit": "USD_MICROCENTS", "amount": 90},
    "expires_at_ms": 5,
    "metadata": {"ap2_presenter": "p-1"},
    "committed_metadata": {"psp_ref": "ch_1"},
}
SAME: dict[str, Any] = {
    "subject": ROW["subject"], "action": ROW["action"], "estimate": ROW["reserved"],
}  # fmt: skip


def test_a_row_is_read() -> None:
    """Amounts, ids, who presented it and what the payment service said."""
    found = read_row(ROW)
    assert found is not None
    assert (found.reservation_id, found.status, found.settled) == ("rsv_1", "COMMITTED", True)
    assert (found.amount_micros, found.committed_micros) == (100, 90)
    assert (found.run_id, found.transaction_id, found.presenter) == ("run_a", "tx", "p-1")
    assert (found.expires_at_ms, found.receipt_fields) == (5, {"psp_ref": "ch_1"})
    assert found.ended == "it was paid and committed"
    assert EarlierPayment("rsv", "ACTIVE").ended == "it is open"


@pytest.mark.parametrize(
    "page",
    [
        None, [], "junk", {}, {"reservations": None}, {"reservations": ["x"]},
        {"reservations": [{}]},
        {"reservations": [{**ROW, "status": "FUTURE"}]},
        {"reservations": [{**ROW, "reservation_id": 7}]},
        {"reservations": [{**ROW, "idempotency_key": "other"}]},
        {"reservations": [{k: v for k, v in ROW.items() if k != "idempotency_key"}] * 2},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_not_there(page: object) -> None:
    """Neither junk nor another key's reservation is taken for the earlier attempt."""
    assert read_page(page, "k") is None


def test_the_row_of_the_key_is_found() -> None:
    """Also on a server that ignores the filter, or does not show keys."""
    other = {**ROW, "idempotency_key": "other"}
    unnamed = {k: v for k, v in ROW.items() if k != "idempotency_key"}
    for rows in ([other, ROW], [ROW], [unnamed]):
        found = read_page({"reservations": rows}, "k")
        assert found is not None
        assert found.reservation_id == "rsv_1"


def test_differences_are_named() -> None:
    """Two requests under one key are told apart in words."""
    found = read_row(ROW)
    assert found is not None
    assert different(found, SAME) == []
    subject = {"tenant": "acme", "dimensions": {"run_id": "run_b", "ap2_transaction_id": "tx"}}
    changed = {
        **SAME, "subject": subject, "estimate": {"unit": "USD_MICROCENTS", "amount": 7},
    }  # fmt: skip
    assert different(found, changed) == [
        "amount was 100 and is 7",
        "run_id was 'run_a' and is 'run_b'",
    ]
