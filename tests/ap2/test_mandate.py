"""What an AP2 library holds becomes a mandate, or a typed error."""

from types import SimpleNamespace as Thing
from typing import Any

import pytest
import runcycles_ap2
from pydantic import ValidationError

from ap2.mandates import fields, mandate
from bursar.ap2 import AP2Mandate, AP2MandateError


def payment(**changes: Any) -> Thing:
    """Return a payment mandate as an AP2 library holds it."""
    plain: dict[str, Any] = {
        "transaction_id": "tx",
        "payment_amount": Thing(value="12.50", currency="USD"),
        "payee": Thing(website="shop.example", identifier="m-1"),
    }
    return Thing(**{**plain, **changes})


def test_a_payment_mandate_is_read() -> None:
    """Amount, payee, ids and hashes are taken over."""
    made = AP2Mandate.from_ap2(payment(), Thing(hash="ch"), open_mandate_hash="omh")
    assert made == AP2Mandate(
        transaction_id="tx", amount_value="12.50", currency="USD", payee_website="shop.example",
        checkout_hash="ch", open_mandate_hash="omh",
    )  # fmt: skip


def test_a_dictionary_of_the_same_shape_is_read() -> None:
    """What came as JSON needs no library."""
    made = AP2Mandate.from_ap2(
        {
            "transaction_id": "tx",
            "payment_amount": {"value": "12.50", "currency": "USD"},
            "payee": {"identifier": "m-1"},
        },
        {"checkout_hash": "ch"},
    )
    assert (made.payee_website, made.checkout_hash) == ("m-1", "ch")


@pytest.mark.parametrize("checkout", [None, Thing(), Thing(hash="a"), Thing(checkout_hash="b")])
def test_both_names_of_the_checkout_hash(checkout: Thing | None) -> None:
    """The official guard finds the same hash."""
    theirs = runcycles_ap2.AP2Mandate.from_ap2(payment(), checkout)
    assert AP2Mandate.from_ap2(payment(), checkout).model_dump() == theirs.model_dump()


@pytest.mark.parametrize(
    "broken",
    [
        Thing(),
        payment(payee=Thing()),
        payment(payee=Thing(website="", identifier="")),
        payment(payment_amount=Thing(currency="USD")),
        payment(payment_amount=Thing(value="1")),
    ],
)
def test_a_missing_field_is_a_typed_error(broken: Thing) -> None:
    """No amount, no currency, no payee: refused, as the official guard refuses it."""
    with pytest.raises(runcycles_ap2.AP2MandateError) as theirs:
        runcycles_ap2.AP2Mandate.from_ap2(broken)
    with pytest.raises(AP2MandateError) as ours:
        AP2Mandate.from_ap2(broken)
    assert str(ours.value).partition(":")[0] == str(theirs.value).partition(":")[0]


@pytest.mark.parametrize("name", ["transaction_id", "payment_amount", "payee"])
def test_none_is_missing(name: str) -> None:
    """None never becomes a transaction called None."""
    with pytest.raises(AP2MandateError, match=f"no '{name}'"):
        AP2Mandate.from_ap2(payment(**{name: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"transaction_id": ""},
        {"transaction_id": "x" * 257},
        {"transaction_id": "\ud800"},
        {"amount_value": 1.5},
        {"amount_value": "1" * 65},
        {"currency": "US"},
        {"payee_website": "  "},
        {"checkout_hash": ""},
        {"open_mandate_hash": ""},
        {"surprise": "field"},
    ],
)
def test_a_bad_field_is_refused(changes: dict[str, Any]) -> None:
    """Empty, too long, of another type, unknown: refused, as the official guard refuses it."""
    for model in (AP2Mandate, runcycles_ap2.AP2Mandate):
        with pytest.raises(ValidationError):
            model(**fields(**changes))


def test_an_empty_hash_of_a_checkout_is_bad_data() -> None:
    """It is not replaced by the other name of the field."""
    with pytest.raises(ValidationError):
        AP2Mandate.from_ap2(payment(), Thing(hash="", checkout_hash="b"))


def test_spaces_around_are_no_part_of_it() -> None:
    """Text is stripped, so two spellings of one id are one mandate."""
    assert mandate(transaction_id=" a ").transaction_id == "a"
