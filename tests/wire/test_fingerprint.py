"""The fingerprint: equal for every spelling of one request, different for any other request."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bursar.vocabulary import OveragePolicy, RolloverPolicy, Unit
from bursar.wire.admin import BudgetCreateRequest
from bursar.wire.codec import canonical, decode, fingerprint, fingerprint_of, payload_of
from bursar.wire.runtime import EventCreateRequest, ReservationCreateRequest

NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=12)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
FREE = st.dictionaries(
    TEXT,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
SUBJECTS = st.fixed_dictionaries(
    {"tenant": NAMES},
    optional={
        "workspace": NAMES,
        "agent": NAMES,
        "dimensions": st.dictionaries(TEXT, TEXT, max_size=3),
    },
)
REQUESTS = st.fixed_dictionaries(
    {
        "idempotency_key": NAMES,
        "subject": SUBJECTS,
        "action": st.fixed_dictionaries(
            {"kind": NAMES, "name": NAMES}, optional={"tags": st.lists(NAMES, max_size=3)}
        ),
        "estimate": st.fixed_dictionaries(
            {
                "unit": st.sampled_from([unit.value for unit in Unit]),
                "amount": st.integers(0, 2**63 - 1),
            }
        ),
    },
    optional={
        "ttl_ms": st.integers(1_000, 86_400_000),
        "grace_period_ms": st.integers(0, 60_000),
        "overage_policy": st.sampled_from([policy.value for policy in OveragePolicy]),
        "dry_run": st.booleans(),
        "metadata": FREE,
    },
)
DEFAULTS: dict[str, object] = {
    "ttl_ms": 60_000,
    "grace_period_ms": 5_000,
    "overage_policy": "ALLOW_IF_AVAILABLE",
    "dry_run": False,
}
BASE: dict[str, Any] = {
    "idempotency_key": "k-1",
    "subject": {"tenant": "acme", "agent": "bot"},
    "action": {"kind": "llm.completion", "name": "m1"},
    "estimate": {"unit": "TOKENS", "amount": 300},
}


def of(body: object, **how: Any) -> str:
    return fingerprint_of(decode(ReservationCreateRequest, json.dumps(body, **how).encode()))


def shuffled(value: Any, data: st.DataObject) -> Any:
    """The same value with the members of every object in another order."""
    if isinstance(value, dict):
        members = data.draw(st.permutations(list(value.items())))
        return {key: shuffled(item, data) for key, item in members}
    if isinstance(value, list):
        return [shuffled(item, data) for item in value]
    return value


@settings(deadline=None)
@given(body=REQUESTS, data=st.data())
def test_order_spacing_and_escapes_never_matter(body: dict[str, Any], data: st.DataObject) -> None:
    """A retry that is serialized by another library is still the same request."""
    spelled = of(
        shuffled(body, data),
        indent=data.draw(st.sampled_from([None, 0, 3])),
        ensure_ascii=data.draw(st.booleans()),
    )
    assert spelled == of(body)


@settings(deadline=None)
@given(body=REQUESTS, named=st.sets(st.sampled_from(sorted(DEFAULTS))))
def test_spelling_out_a_default_never_matters(body: dict[str, Any], named: set[str]) -> None:
    """An absent field and its protocol default are one request."""
    bare = {key: value for key, value in body.items() if key not in named}
    assert of({**bare, **{name: DEFAULTS[name] for name in named}}) == of(bare)


def meaning(body: dict[str, Any]) -> str:
    """What a body says, computed without the code under test (1, 1.0 and true differ)."""
    said = {key: value for key, value in body.items() if DEFAULTS.get(key, ...) != value}
    # `False == 0` and `5000 == 5000.0` cannot occur: the models refuse the odd spelling.
    return repr(sorted_members(said))


def sorted_members(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_members(value[key]) for key in sorted(value)}
    return [sorted_members(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(one=REQUESTS, other=REQUESTS)
def test_two_requests_agree_exactly_when_they_say_the_same(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """No two different requests share a fingerprint, no request has two."""
    assert (of(one) == of(other)) == (meaning(one) == meaning(other))


@settings(deadline=None)
@given(body=REQUESTS, data=st.data())
def test_any_changed_value_changes_it(body: dict[str, Any], data: st.DataObject) -> None:
    """One value replaced by another valid one, anywhere, is another request."""
    other = data.draw(REQUESTS)
    name = data.draw(st.sampled_from(sorted(other)))
    changed = {**body, name: other[name]}
    assume(meaning(changed) != meaning(body))
    assert of(changed) != of(body)


@pytest.mark.parametrize(
    "change",
    [
        {"idempotency_key": "k-2"},
        {"subject": {"tenant": "acme"}},
        {"subject": {"tenant": "acme", "agent": "Bot"}},
        {"subject": {"tenant": "acme", "agent": "bot", "dimensions": {}}},
        {"action": {"kind": "llm.completion", "name": "m2"}},
        {"action": {"kind": "llm.completion", "name": "m1", "tags": []}},
        {"estimate": {"unit": "CREDITS", "amount": 300}},
        {"estimate": {"unit": "TOKENS", "amount": 301}},
        {"ttl_ms": 60_001},
        {"grace_period_ms": 0},
        {"overage_policy": "REJECT"},
        {"dry_run": True},
        {"metadata": {}},
        {"metadata": {"a": None}},
        {"metadata": {"a": 1}},
        {"metadata": {"a": 1.0}},
        {"metadata": {"a": True}},
        {"metadata": {"a": "1"}},
        {"metadata": {"a": [1, 2]}},
        {"metadata": {"a": [2, 1]}},
        {"metadata": {"a": 2**53}},
        {"metadata": {"a": 2**53 + 1}},
    ],
)
def test_each_of_these_is_another_request(change: dict[str, Any]) -> None:
    """Every field counts, nulls and kinds of number inside free objects included."""
    assert of({**BASE, **change}) != of(BASE)


def test_all_of_these_differ_from_each_other() -> None:
    """Amounts that a double cannot tell apart are told apart."""
    amounts = [2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1]
    found = {of({**BASE, "estimate": {"unit": "TOKENS", "amount": n}}) for n in amounts}
    assert len(found) == len(amounts)


def test_a_request_built_in_python_has_the_fingerprint_of_its_wire_form() -> None:
    """The embedded ledger and the server recognise each other's retries."""
    request = ReservationCreateRequest(
        **{**BASE, "overage_policy": OveragePolicy.REJECT, "ttl_ms": None}
    )
    assert fingerprint_of(request) == of({**BASE, "overage_policy": "REJECT"})


def test_other_requests_have_their_own_defaults() -> None:
    """The rule is in one place for all of them."""
    event = {**{k: v for k, v in BASE.items() if k != "estimate"}, "actual": BASE["estimate"]}
    assert fingerprint_of(EventCreateRequest(**event)) == fingerprint_of(
        EventCreateRequest(**event, overage_policy=OveragePolicy.ALLOW_IF_AVAILABLE)
    )
    assert fingerprint_of(EventCreateRequest(**event)) != fingerprint_of(
        EventCreateRequest(**event, overage_policy=OveragePolicy.REJECT)
    )
    budget: dict[str, Any] = {"scope": "s", "unit": "TOKENS", "allocated": BASE["estimate"]}
    assert payload_of(BudgetCreateRequest(**budget, rollover_policy=RolloverPolicy.NONE)) == budget


def test_stored_fingerprints_stay_valid() -> None:
    """This value is in databases: a change of the canonical form would break every retry."""
    spelled = (
        b'{"action":{"kind":"llm.completion","name":"m1"},'
        b'"estimate":{"amount":300,"unit":"TOKENS"},"idempotency_key":"k-1",'
        b'"subject":{"agent":"bot","tenant":"acme"}}'
    )
    request = decode(ReservationCreateRequest, json.dumps({**BASE, **DEFAULTS}).encode())
    assert canonical(payload_of(request)) == spelled
    assert fingerprint_of(request) == sha256(spelled).hexdigest()
    assert fingerprint_of(request) == (
        "6824ac1f31fb77c80be1cf869c6138a725d746916b34ef3818d5bd60966c153d"
    )


def test_the_canonical_form_is_sorted_compact_exact_ascii() -> None:
    """Nothing in it depends on the encoder of replies."""
    value = {"b": 2**70, "a": [-(2**63), 1e16, -0.0, 1e-7], "é": "€\n", "": None, "U": Unit.TOKENS}
    assert canonical(value) == (
        b'{"":null,"U":"TOKENS","a":[-9223372036854775808,1e+16,-0.0,1e-07],'
        b'"b":1180591620717411303424,"\\u00e9":"\\u20ac\\n"}'
    )
    assert fingerprint(value) == sha256(canonical(value)).hexdigest()


def test_the_canonical_form_refuses_what_is_not_json() -> None:
    """NaN has no fingerprint."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})
