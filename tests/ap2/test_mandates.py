"""Mandates of AP2 v0.2: read to the letter, hashed as signed, handed to the guard.

The hashes below were computed by another implementation (ECMAScript and its SHA-256).
"""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ap2.v02 import (
    CARD,
    HIDDEN,
    JWT,
    NOW_S,
    SHOP,
    allowed,
    amount,
    b64_sha256,
    budget,
    checkout_mandate,
    closed,
    needs,
    open_checkout,
    open_payment,
    opened,
    payment,
    recurring,
)
from bursar.ap2 import AP2CurrencyError, AP2MandateError
from bursar.ap2.mandates import (
    CheckoutMandate,
    Mandate,
    OpenCheckoutMandate,
    OpenPaymentMandate,
    PaymentMandate,
    UnknownConstraint,
    open_mandate_hash,
)

FULL_OPEN = opened(
    recurring("MONTHLY", max_occurrences=12),
    allowed("payment.allowed_payees", HIDDEN, SHOP),
    allowed("payment.allowed_payment_instruments", {**CARD, "network": "n"}),
    allowed(
        "payment.allowed_pisps",
        {"legal_name": "Pay Ltd.", "brand_name": "Pay", "domain_name": "pay.example"},
    ),
    {"type": "payment.amount_range", "currency": "USD", "max": 20_000, "min": 0},
    budget(1000.5),
    {"type": "payment.execution_date", "not_before": "2026-11-01"},
    {"type": "vendor.rule", "deep": [{"x": None}]},
    iat=NOW_S,
    exp=NOW_S + 60,
    payee=SHOP,
    payment_amount=amount(1),
    risk_data={"score": 0.25},
    pisp=None,
    unknown_member=[1, {"a": True}],
)
FULL_CLOSED = closed(execution_date="2026-11-21", iat=1, exp=2, risk_data={}, other="kept")
FULL_CHECKOUT = {
    "vct": "mandate.checkout.open.1",
    "constraints": [allowed("checkout.allowed_merchants", SHOP), needs((2, ("a", "b")))],
    "cnf": {},
}
CLOSED_CHECKOUT = {
    "vct": "mandate.checkout.1",
    "checkout_jwt": JWT,
    "checkout_hash": b64_sha256(JWT),
}
DOCUMENTS: list[tuple[type[Mandate], dict[str, Any]]] = [
    (OpenPaymentMandate, FULL_OPEN),
    (PaymentMandate, FULL_CLOSED),
    (OpenCheckoutMandate, FULL_CHECKOUT),
    (CheckoutMandate, CLOSED_CHECKOUT),
]
IDS = [kind.__name__ for kind, _ in DOCUMENTS]


@pytest.mark.parametrize(("kind", "document"), DOCUMENTS, ids=IDS)
def test_a_document_comes_back_as_it_was(kind: type[Mandate], document: dict[str, Any]) -> None:
    """Nothing is lost, added or converted, whether it is read from text or from objects."""
    for said in (document, json.dumps(document), json.dumps(document).encode()):
        read = kind.read(said)
        assert read.document() == document
        assert json.dumps(read.document(), sort_keys=True) == json.dumps(document, sort_keys=True)
        assert read.mandate_hash == open_mandate_hash(document) == open_mandate_hash(read)


@pytest.mark.parametrize(("kind", "document"), DOCUMENTS, ids=IDS)
def test_the_type_is_matched_to_the_letter(kind: type[Mandate], document: dict[str, Any]) -> None:
    """Another version, another mandate, no version, other case: none of them."""
    right = document["vct"]
    for wrong in (right[:-1] + "2", right[:-2], right.upper(), right + "0", f"{right} ", "", 1):
        with pytest.raises(AP2MandateError, match=f"{kind.__name__}: vct: Input should be"):
            kind.read({**document, "vct": wrong})
    without = {name: value for name, value in document.items() if name != "vct"}
    with pytest.raises(AP2MandateError, match="vct: Field required"):
        kind.read(without)
    for other, _ in DOCUMENTS:
        if other is not kind:
            with pytest.raises(AP2MandateError):
                other.read(document)


@pytest.mark.parametrize(("kind", "document"), DOCUMENTS, ids=IDS)
def test_every_member_counts_for_the_hash(kind: type[Mandate], document: dict[str, Any]) -> None:
    """A changed, a missing and an additional member each give another hash."""
    right = kind.read(document).mandate_hash
    for name in document:
        assert open_mandate_hash({k: v for k, v in document.items() if k != name}) != right
        assert open_mandate_hash({**document, name: "other"}) != right
    assert kind.read({**document, "more": None}).mandate_hash != right


BASE = {
    "vct": "mandate.checkout.open.1",
    "constraints": [allowed("checkout.allowed_merchants", {"id": "m", "name": "Caf\u00e9"})],
    "cnf": {"jwk": {"kty": "OKP"}},
}
VECTORS: dict[str, tuple[dict[str, Any], str]] = {}


def vector(name: str, document: dict[str, Any], digest: str) -> None:
    VECTORS[name] = (document, f"sha256:{digest}")


vector(
    "plain",
    BASE,
    "913bd58aea4eeb70f898652d8303419de4c55cb7ca13077482115a7d645f49d9",
)
vector(
    "other key order",
    {"cnf": BASE["cnf"], "constraints": BASE["constraints"], "vct": BASE["vct"]},
    "913bd58aea4eeb70f898652d8303419de4c55cb7ca13077482115a7d645f49d9",
)
vector(
    "list",
    {**BASE, "constraints": [needs((1, ("a", "b")))]},
    "0621a6a5ce251facb50fb7e3a90cd8be8ed0fa5c1495e020e560136dbe37a829",
)
vector(
    "list the other way round",
    {**BASE, "constraints": [needs((1, ("b", "a")))]},
    "022525d55f6544cace67128c46952b4dfef1626b0f3c5ea88b7d7502846db323",
)
vector(
    "optional members",
    {**BASE, "iat": 1790000000, "exp": 1790003600},
    "e6cd8943f8bfd7176828f53b66ffe6f149d047e9bbee66506ac8f82328e8fc0c",
)
vector(
    "a null member",
    {**BASE, "exp": None},
    "e15f463df0c02251a7f5e8759280179e2e2ef6ed94c884688d8add36f2069a25",
)
vector(
    "a decomposed letter",
    {
        **BASE,
        "constraints": [allowed("checkout.allowed_merchants", {"id": "m", "name": "Cafe\u0301"})],
    },
    "e7ece3871b2fbc6150b444d47d855e3b77ae5df30ec016a00a5e3457ef6fb050",
)
vector(
    "surrogate pairs, escapes",
    {**BASE, "\U0001f602": '\u20ac\n\u0000"\\/', "\ufb33": "\u2028"},
    "f5ec57abbd84120e890d1a3978cbbd9d13216a89445bd3d408cc6199873d83df",
)
vector(
    "numbers",
    {**BASE, "n": [2**53 - 1, 1.0, 1050, 10.5, -0.0, 1e-7, 0.000001]},
    "301a44b5520d0b9489fc160d4c6b4a73ec6e0453a24cfe0985680ac6f3430468",
)


@pytest.mark.parametrize("name", VECTORS)
def test_hash_vector(name: str) -> None:
    document, digest = VECTORS[name]
    assert open_mandate_hash(document) == digest
    assert open_mandate_hash(json.dumps(document, indent=2)) == digest


def test_vectors_differ_where_documents_differ() -> None:
    """Only the order of members is no difference."""
    digests = [digest for name, (_, digest) in VECTORS.items() if name != "other key order"]
    assert len(set(digests)) == len(digests) == 8
    assert VECTORS["other key order"][1] == VECTORS["plain"][1]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"a": 2**53}, "a is 9007199254740992, beyond"),
        ({"a": [1e300]}, "beyond"),
        ({"a": "\ud800"}, "half of a surrogate pair"),
        ('{"a": 1, "a": 1}', "stands twice"),
        ("[]", "not a JSON object"),
        ({"a": object()}, "which JSON cannot say"),
    ],
)
def test_what_has_no_hash_is_said(said: Any, message: str) -> None:
    with pytest.raises(AP2MandateError, match=message):
        open_mandate_hash(said)


def test_a_mandate_with_a_number_beyond_2_53_has_no_hash() -> None:
    read = payment(risk_data={"n": 2**60})
    with pytest.raises(AP2MandateError, match=r"PaymentMandate has no hash: risk_data\.n is"):
        _ = read.mandate_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"payment_amount": amount(-1)}, r"payment_amount\.amount: .*greater than or equal to 0"),
        ({"payment_amount": amount(2**63)}, r"payment_amount\.amount: .*less than or equal"),
        ({"payment_amount": {"amount": 199.0, "currency": "USD"}}, "amount: .*valid integer"),
        ({"payment_amount": {"amount": "199", "currency": "USD"}}, "amount: .*valid integer"),
        ({"payment_amount": {"amount": True, "currency": "USD"}}, "amount: .*valid integer"),
        ({"payment_amount": {"amount": float("nan"), "currency": "USD"}}, "valid integer"),
        ({"payment_amount": amount(1, "usd")}, r"payment_amount\.currency: .*pattern"),
        ({"payment_amount": amount(1, "US")}, r"payment_amount\.currency: .*pattern"),
        ({"payee": "shop"}, "payee: .*valid dictionary"),
        ({"payee": None}, "payee: .*valid dictionary"),
        ({"transaction_id": ""}, "transaction_id: .*at least 1 character"),
        ({"transaction_id": "x" * 257}, "transaction_id: .*at most 256 characters"),
        ({"transaction_id": None}, "transaction_id: .*valid string"),
        ({"payment_instrument": {"id": "x"}}, r"payment_instrument\.type: Field required"),
        ({"exp": "1790000000"}, "exp: .*valid integer"),
        ({"exp": 1.5}, "exp: .*valid integer"),
        ({"iat": -1}, "iat: .*greater than or equal to 0"),
        ({"exp": 10**15}, "exp: .*less than or equal"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AP2MandateError, match=message):
        PaymentMandate.read(closed(**change))


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"type": "payment.amount_range", "currency": "USD", "max": 100.5}, r"0\.max: .*integer"),
        ({"type": "payment.amount_range", "currency": "USD"}, r"constraints\.0\.max: Field req"),
        ({"type": "payment.budget", "currency": "USD", "max": "5"}, r"constraints\.0\.max"),
        (
            {"type": "payment.budget", "currency": "USD", "max": float("inf")},
            r"constraints\.0\.max",
        ),
        ({"type": "payment.budget", "currency": "USD", "max": float("nan")}, r"0\.max"),
        ({"type": "payment.budget", "currency": "USD", "max": -1}, r"constraints\.0\.max"),
        ({"type": "payment.budget", "currency": "USD", "max": True}, r"constraints\.0\.max"),
        (recurring("HOURLY"), r"constraints\.0\.frequency: Input should be"),
        (recurring(max_occurrences=0), r"constraints\.0\.max_occurrences: .*at least|greater"),
        ({"type": "payment.allowed_payees"}, r"constraints\.0\.allowed: Field required"),
        ({"type": "payment.allowed_payees", "allowed": [{"id": 1}]}, r"0\.allowed\.0\.id"),
        ({"type": "payment.allowed_payees", "allowed": {}}, r"constraints\.0\.allowed: .*tuple"),
        ({"no": "type"}, r"constraints\.0\.type: Field required"),
        ("text", r"constraints\.0: .*valid dictionary"),
    ],
)
def test_a_bad_constraint_is_named(constraint: Any, message: str) -> None:
    with pytest.raises(AP2MandateError, match=message):
        OpenPaymentMandate.read(opened(constraint))


@pytest.mark.parametrize("said", ["", "null", "[]", "{", b"\xff", '{"vct": 1, "vct": 2}'])
def test_what_is_no_document_is_refused(said: Any) -> None:
    with pytest.raises(AP2MandateError, match=r"^PaymentMandate: the (document|key)"):
        PaymentMandate.read(said)


def test_a_mandate_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        payment().transaction_id = "other"


def test_unknown_constraints_are_kept_and_known_as_such() -> None:
    """A payment's constraint is unknown in a checkout mandate, and the other way round."""
    for read in (open_payment(needs((1, ("a",)))), open_checkout(recurring())):
        assert isinstance(read.constraints[0], UnknownConstraint)


def test_the_guard_gets_what_it_needs() -> None:
    """Minor units become decimal text; the transaction is the hash of its checkout."""
    mandate = payment(payment_amount=amount(1999, "EUR")).for_guard()
    assert mandate.model_dump() == {
        "transaction_id": "tx-1",
        "amount_value": "19.99",
        "currency": "EUR",
        "payee_website": "https://shop.example",
        "checkout_hash": "tx-1",
        "open_mandate_hash": None,
    }
    assert payment().for_guard().amount_micros() == 19_900_000_000
    assert payment(payment_amount=amount(5, "JPY")).for_guard().amount_value == "5"
    assert payment(payment_amount=amount(5, "KWD")).for_guard().amount_value == "0.005"
    assert payment(payee={"id": "shop-1"}).for_guard().payee_website == "shop-1"


def test_only_an_open_mandate_for_one_payment_is_the_unit_of_once() -> None:
    """Each payment under a recurring one is a payment of its own at the ledger."""
    once, often = open_payment(), open_payment(recurring())
    assert payment().for_guard(once).open_mandate_hash == once.mandate_hash
    assert payment().for_guard(often).open_mandate_hash is None
    assert (once.recurring, often.recurring) == (False, True)


def test_what_the_guard_cannot_take_is_said() -> None:
    with pytest.raises(AP2MandateError, match="neither a website nor an id"):
        payment(payee={"name": "Somebody"}).for_guard()
    with pytest.raises(AP2MandateError, match=r"payee_website: .*at most 253"):
        payment(payee={"id": "x" * 254}).for_guard()
    with pytest.raises(AP2CurrencyError, match="'XAU' is not a currency"):
        payment(payment_amount=amount(1, "XAU")).for_guard()


def test_the_hash_of_a_checkout_is_that_of_its_token() -> None:
    assert checkout_mandate().computed_hash == checkout_mandate().checkout_hash
    assert checkout_mandate(checkout_jwt="x").computed_hash == b64_sha256("x")
