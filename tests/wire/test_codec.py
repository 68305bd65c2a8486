"""Decoding bytes: what is refused, and in which words; encoding: the same bytes everywhere."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.vocabulary import Unit
from bursar.wire import codec
from bursar.wire.admin import ApiKeyCreateRequest, BudgetCreateRequest, TenantCreateRequest
from bursar.wire.codec import BadRequest, decode, encode, encode_plain
from bursar.wire.fields import Request
from bursar.wire.runtime import EventCreateRequest, ReleaseRequest, ReservationCreateRequest

RESERVE: dict[str, Any] = {
    "idempotency_key": "k-1",
    "subject": {"tenant": "acme", "agent": "bot", "dimensions": {"run_id": "r1"}},
    "action": {"kind": "llm.completion", "name": "m1", "tags": ["a"]},
    "estimate": {"unit": "TOKENS", "amount": 271},
    "ttl_ms": 30_000,
    "metadata": {"step": 1, "nested": {"deep": [1, 2]}},
}
RELEASE = b'{"idempotency_key":"k"}'


def refused(body: bytes, model: type[Request] = ReservationCreateRequest) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(model, body)
    return caught.value


def said_of(model: type[Request], body: bytes) -> str | None:
    """The message with which `body` is refused, None if it is accepted."""
    try:
        decode(model, body)
    except BadRequest as found:
        return found.message
    return None


def wire(**changes: object) -> bytes:
    return json.dumps({**RESERVE, **changes}).encode()


# Bodies that are not one JSON object.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty; send a JSON object"),
        (b" \n\t", "the body is empty; send a JSON object"),
        (b"{", "the body is not valid JSON: Expecting property name"),
        (b'{"a":1,}', "the body is not valid JSON: "),
        (b'{"a":01}', "the body is not valid JSON: Expecting ',' delimiter at line 1 column 7"),
        (b"{'a':1}", "the body is not valid JSON: Expecting property name"),
        (b'{}\n{"a":1}', "the body is not valid JSON: Extra data at line 2 column 1"),
        (
            b'{"a":"\x01"}',
            "the body is not valid JSON: Invalid control character at line 1 column 7",
        ),
        (b'{"a":"\\x"}', "the body is not valid JSON: Invalid \\escape"),
        (b"not json", "the body is not valid JSON: Expecting value at line 1 column 1"),
        (b'{"a":"\xff"}', "the body is not valid UTF-8 (byte 7)"),
        (b"\xef\xbb\xbf{}", "the body starts with a byte order mark; send plain UTF-8"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b'{"a":' * 100_000, "the body is nested too deeply"),
        (b"[]", "the body must be a JSON object, got []"),
        (b"null", "the body must be a JSON object, got null"),
        (b'"text"', 'the body must be a JSON object, got "text"'),
        (b"1e999", "the body must be a JSON object, got Infinity"),
        (b"NaN", "the body must be a JSON object, got NaN"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_body_that_is_no_json_object_is_refused_with_its_place(body: bytes, said: str) -> None:
    """The message says what is wrong with the body and, for syntax, where."""
    found = refused(body)
    assert found.message.startswith(said)
    assert [problem.path for problem in found.fields] == [""]


def test_a_number_too_long_to_read_is_refused() -> None:
    """Thousands of digits cost no time and give no traceback."""
    for digits in (20, 400, 4_300):
        found = refused(wire().replace(b"271", b"9" * digits))
        assert found.message.startswith("estimate.amount: must be between 0 and ")
        assert len(found.message) < 200
    for digits in (4_301, 1_000_000):
        found = refused(wire().replace(b"271", b"9" * digits))
        assert found.message == "the body has a number with too many digits"


def test_a_lone_surrogate_is_refused_where_it_stands() -> None:
    """No store and no peer could keep it."""
    for old in (b"k-1", b"acme", b"m1", b"r1", b"run_id"):
        found = refused(wire().replace(old, b"\\ud800"))
        assert found.message.endswith('must not contain a lone surrogate, got "\\ud800"')
    found = refused(wire(metadata={"a": ["HERE"]}).replace(b"HERE", b"\\udc00"))
    assert found.message == "metadata.a[0]: must not contain a lone surrogate"
    found = refused(wire().replace(b'"ttl_ms"', b'"\\ud800"'))
    assert found.message == 'the body must not contain a lone surrogate, got "\\ud800"'


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_not_finite_are_refused(text: bytes) -> None:
    """In a typed field and in a free object alike."""
    assert "estimate.amount: must be an integer" in refused(wire().replace(b"271", text)).message
    found = refused(wire(metadata={"x": "HERE"}).replace(b'"HERE"', text))
    assert found.message.startswith("metadata.x: must be a finite number")


# Duplicate keys.


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"idempotency_key":"k","idempotency_key":"k"}', "idempotency_key"),
        (b'{"idempotency_key":"k","idempotency\\u005fkey":"k"}', "idempotency_key"),
        (b'{"idempotency_key":"a","reason":"x","reason":"y"}', "reason"),
    ],
)
def test_a_key_given_twice_is_refused(body: bytes, name: str) -> None:
    """Even when both values are equal, and however the key is spelled."""
    found = refused(body, ReleaseRequest)
    assert found.message == f"{name}: appears more than once in one object; send it once"
    assert [problem.path for problem in found.fields] == [name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"amount": 271', b'"amount": 271, "amount": 1'),
        (b'"run_id": "r1"', b'"run_id": "r1", "run_id": "r2"'),
        (b'"step": 1', b'"step": 1, "step": 2'),
        (b'"deep": [1, 2]', b'"deep": [{"x": 1, "x": 1}]'),
    ],
)
def test_a_key_given_twice_is_found_at_every_depth(old: bytes, new: bytes) -> None:
    """Nested models, dimensions and free objects are covered."""
    assert old in wire()
    assert "appears more than once" in refused(wire().replace(old, new)).message


def test_many_duplicates_are_refused_quickly() -> None:
    """A megabyte of one key is found at the second member, not by comparing all pairs."""
    members = ",".join(f'"k{n}":1' for n in range(60_000))
    body = wire(metadata="HERE").replace(b'"HERE"', f'{{{members},"k59999":2}}'.encode())
    assert refused(body).message.startswith("k59999: appears more than once")


def test_the_same_key_in_two_objects_is_no_duplicate() -> None:
    """Only members of one object are compared."""
    body = wire(metadata={"unit": {"amount": 1}, "amount": {"amount": 2}})
    assert decode(ReservationCreateRequest, body).metadata == {
        "unit": {"amount": 1},
        "amount": {"amount": 2},
    }


# Messages.


def test_every_problem_is_named_in_one_message() -> None:
    """The whole list at once, so that one correction is enough."""
    body = wire(ttl_ms=999, estimate={"unit": "TOKENS", "amount": 1.5}, foo=1)
    found = refused(body)
    assert found.message == (
        "estimate.amount: must be an integer, got 1.5; "
        "ttl_ms: must be between 1000 and 86400000, got 999; "
        "foo: unknown field"
    )
    assert [problem.path for problem in found.fields] == ["estimate.amount", "ttl_ms", "foo"]
    assert found.message == "; ".join(map(str, found.fields))


def test_at_most_ten_problems_are_named() -> None:
    """The rest is counted."""
    exactly = {f"x{n:02}": 1 for n in range(10)}
    assert "more" not in refused(wire(**exactly)).message
    found = refused(wire(**exactly, x10=1, x11=1))
    assert found.message.endswith("x09: unknown field; and 2 more")
    assert len(found.fields) == 10


def test_at_most_ten_nulls_are_named() -> None:
    """Every optional field of a tenant sent as null is one problem each."""
    optional = [
        name for name, field in TenantCreateRequest.model_fields.items() if field.default is None
    ]
    assert 0 < len(optional) <= 10
    body = json.dumps({"tenant_id": "acme", "name": "n"} | dict.fromkeys(optional)).encode()
    found = refused(body, TenantCreateRequest)
    assert sorted(problem.path for problem in found.fields) == sorted(optional)


def test_values_and_names_are_cut_to_80_characters() -> None:
    """A message stays readable whatever is sent."""
    found = refused(wire(ttl_ms="x" * 10_000, **{"y" * 10_000: 1}))
    assert f'ttl_ms: must be an integer, got "{"x" * 79}…; ' in found.message
    assert found.message.endswith(f"{'y' * 80}…: unknown field")


def test_names_with_control_characters_stay_on_one_line() -> None:
    """What a client sends cannot start a line in a log."""
    found = refused(wire(**{"x\nERROR fake": 1}, metadata={"a\nb": [float("nan")]}))
    assert "\n" not in found.message
    assert "x\\nERROR fake: unknown field" in found.message
    assert "metadata.a\\nb[0]: must be a finite number" in found.message


def test_a_misspelled_field_is_recognised() -> None:
    """The fix is named where it can be guessed."""
    assert refused(wire(ttl=1)).message == "ttl: unknown field; did you mean ttl_ms?"
    assert refused(wire(zzz=1)).message == "zzz: unknown field"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
FUZZED: list[tuple[type[Request], dict[str, Any]]] = [
    (ReservationCreateRequest, RESERVE),
    (
        EventCreateRequest,
        {
            **{
                name: RESERVE[name] for name in ("idempotency_key", "subject", "action", "metadata")
            },
            "actual": RESERVE["estimate"],
            "metrics": {"tokens_input": 1, "model_version": "v", "custom": {"a": 1}},
        },
    ),
    (
        BudgetCreateRequest,
        {
            "scope": "tenant:acme",
            "unit": "TOKENS",
            "allocated": {"unit": "TOKENS", "amount": 5},
            "rollover_policy": "NONE",
            "period_start": "2026-01-01T00:00:00Z",
            "period_end": "2026-02-01T00:00:00Z",
        },
    ),
    (
        ApiKeyCreateRequest,
        {"tenant_id": "a", "name": "n", "permissions": ["balances:read"], "scope_filter": ["a"]},
    ),
    (TenantCreateRequest, {"tenant_id": "acme", "name": "n", "metadata": {"a": "b"}}),
]


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside `value`."""
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [p for key, item in value.items() for p in places(item, (*path, key))]
    if isinstance(value, list):
        return found + [p for key, item in enumerate(value) for p in places(item, (*path, key))]
    return found


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_a_damaged_request_is_refused_in_words_or_understood(data: st.DataObject) -> None:
    """Whatever replaces or joins a part of a valid body, there is never another exception."""
    model, valid = data.draw(st.sampled_from(FUZZED))
    body = json.loads(json.dumps(valid))
    *parents, last = data.draw(st.sampled_from(places(body)))
    node = body
    for step in parents:
        node = node[step]
    if isinstance(node, dict) and data.draw(st.booleans()):
        last = data.draw(st.text())
    node[last] = data.draw(JSON)
    text = json.dumps(body, ensure_ascii=data.draw(st.booleans()))
    message = said_of(model, text.encode("utf-8", "surrogatepass"))
    if message is not None:
        assert message.isprintable()
        assert 0 < len(message) < 4_000
        assert encode(message)
        assert "Input should" not in message


@settings(max_examples=300, deadline=None)
@given(body=st.binary())
@example(body=RELEASE)
def test_any_bytes_are_a_request_or_a_bad_request(body: bytes) -> None:
    """There is no body that raises anything else."""
    message = said_of(ReleaseRequest, body)
    assert message.isprintable() if message is not None else b"idempotency_key" in body


@settings(deadline=None)
@given(body=st.binary(max_size=8), at=st.integers(0, 200))
def test_bytes_spliced_into_a_valid_body_never_break_decoding(body: bytes, at: int) -> None:
    """Half-broken text is the commonest broken text."""
    text = wire()
    message = said_of(ReservationCreateRequest, text[:at] + body + text[at:])
    assert message is None or message.isprintable()


# Published clients.


def test_what_the_official_client_sends_is_understood() -> None:
    """It leaves absent fields out, so refusing null refuses nothing of its."""
    peer = pytest.importorskip("runcycles.models", reason="the official client is not installed")
    request = peer.ReservationCreateRequest(
        idempotency_key="k",
        subject=peer.Subject(tenant="acme", agent="bot", dimensions={"run_id": "r"}),
        action=peer.Action(kind="llm.completion", name="m1", tags=["a"]),
        estimate=peer.Amount(unit=peer.Unit.USD_MICROCENTS, amount=5),
        overage_policy=peer.CommitOveragePolicy.REJECT,
        metadata={"a": None, "b": 1.5},
    )
    body = json.dumps(request.model_dump(exclude_none=True)).encode()
    understood = decode(ReservationCreateRequest, body)
    assert understood.metadata == {"a": None, "b": 1.5}
    assert json.loads(encode(codec.payload_of(understood))) == json.loads(body)


# Encoding.

OURS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(Unit),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=OURS)
def test_both_encoders_write_the_same_bytes(value: object) -> None:
    """A reply is the same with and without the optional encoder, and reads back unchanged."""
    assert encode(value) == encode_plain(value)
    assert json.loads(encode(value)) == value


def test_replies_are_compact_utf8() -> None:
    """No spaces, no ASCII escapes, exact integers, members in the order given."""
    value = {"b": [1, True, None], "a": "é€😀", "n": 2**63 - 1}
    expected = '{"b":[1,true,null],"a":"é€😀","n":9223372036854775807}'.encode()
    assert encode(value) == encode_plain(value) == expected


def test_without_the_optional_encoder_the_standard_library_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base install has no msgspec."""
    assert codec._fastest_encoder() is not encode_plain
    monkeypatch.setitem(sys.modules, "msgspec.json", None)
    assert codec._fastest_encoder() is encode_plain


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_plain_encoder_refuses_what_is_not_json(value: float) -> None:
    """A reply that no parser reads is never sent."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_plain(value)
