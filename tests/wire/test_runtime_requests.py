"""Every limit of the runtime requests: at it, below it and above it, with what is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar.wire import runtime
from bursar.wire.codec import BadRequest, decode
from bursar.wire.fields import Request

INT64_MAX = 2**63 - 1
AMOUNT = {"unit": "TOKENS", "amount": 1}
WHO = {"subject": {"tenant": "acme"}, "action": {"kind": "llm.completion", "name": "m1"}}

MINIMAL: dict[type[Request], dict[str, Any]] = {
    runtime.DecisionRequest: {"idempotency_key": "k", **WHO, "estimate": AMOUNT},
    runtime.ReservationCreateRequest: {"idempotency_key": "k", **WHO, "estimate": AMOUNT},
    runtime.CommitRequest: {"idempotency_key": "k", "actual": AMOUNT},
    runtime.ReleaseRequest: {"idempotency_key": "k"},
    runtime.ReservationExtendRequest: {"idempotency_key": "k", "extend_by_ms": 1},
    runtime.EventCreateRequest: {"idempotency_key": "k", **WHO, "actual": AMOUNT},
}


def body_of(model: type[Request], path: str, value: object) -> bytes:
    """The smallest valid body of `model` with the value at `path` replaced."""
    body = json.loads(json.dumps(MINIMAL[model]))
    *parents, last = path.split(".")
    node = body
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = value
    return json.dumps(body).encode()


def refusal(model: type[Request], body: bytes) -> str:
    """The message with which `body` is refused."""
    with pytest.raises(BadRequest) as caught:
        decode(model, body)
    return caught.value.message


# path, values that are accepted, then (value, what is said of it)
Case = tuple[str, list[object], list[tuple[object, str]]]

KEY: Case = (
    "idempotency_key",
    ["k", "x" * 256, "ключ:1"],
    [
        ("", "must be between 1 and 256 characters long, got 0"),
        ("x" * 257, "must be between 1 and 256 characters long, got 257"),
        ("a\x00", "must not contain the NUL character (U+0000), got "),
        (7, "must be a string, got 7"),
    ],
)


def amount(name: str) -> Case:
    return (
        f"{name}.amount",
        [0, 1, 2**53 + 1, INT64_MAX],
        [
            (-1, f"must be between 0 and {INT64_MAX}, got -1"),
            (INT64_MAX + 1, f"must be between 0 and {INT64_MAX}, got {INT64_MAX + 1}"),
            (1.5, "must be an integer, got 1.5"),
            (1.0, "must be an integer, got 1.0"),
            ("10", 'must be an integer, got "10"'),
            (True, "must be an integer, got true"),
            (None, "must be an integer, got null"),
            ([1], "must be an integer, got [1]"),
        ],
    )


def unit(name: str) -> Case:
    listed = "must be one of USD_MICROCENTS, TOKENS, CREDITS, RISK_POINTS, got "
    return (
        f"{name}.unit",
        ["USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS"],
        [("tokens", listed + '"tokens"'), ("", listed + '""'), (1, listed + "1")],
    )


def level(name: str) -> Case:
    said = "must consist of letters, digits, '_', '.' and '-', at least one of them, got "
    return (
        f"subject.{name}",
        ["a", "A-1_b.c", "x" * 128],
        [
            ("", said + '""'),
            ("a b", said + '"a b"'),
            ("a:b", said + '"a:b"'),
            ("a/b", said + '"a/b"'),
            ("a\n", said + '"a\\n"'),
            ("é", said + '"é"'),
            ("x" * 129, "must be at most 128 characters long, got 129"),
            (5, "must be a string, got 5"),
        ],
    )


POLICY: Case = (
    "overage_policy",
    ["REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"],
    [
        (
            "reject",
            'must be one of REJECT, ALLOW_IF_AVAILABLE, ALLOW_WITH_OVERDRAFT, got "reject"',
        )
    ],
)
FREE: Case = (
    "metadata",
    [{}, {"a": None, "b": [1, -2.5, "é", True, {"c": {}}]}, {"n": 2**64 - 1, "m": -(2**63)}],
    [("x", 'must be a JSON object, got "x"'), ([], "must be a JSON object, got []")],
)


def counter(name: str) -> Case:
    return (
        f"metrics.{name}",
        [0, INT64_MAX],
        [
            (-1, f"must be between 0 and {INT64_MAX}, got -1"),
            (2**63, f"must be between 0 and {INT64_MAX}, got {2**63}"),
            (1.5, "must be an integer, got 1.5"),
        ],
    )


METRICS: list[Case] = [
    *map(counter, ("tokens_input", "tokens_output", "latency_ms")),
    (
        "metrics.model_version",
        ["", "x" * 128],
        [("x" * 129, "must be at most 128 characters long, got 129")],
    ),
    ("metrics.custom", [{}, {"a": [1]}], [(1, "must be a JSON object, got 1")]),
    ("metrics.other", [], [(1, "unknown field")]),
]
SUBJECT: list[Case] = [
    *map(level, ("tenant", "workspace", "app", "workflow", "agent", "toolset")),
    (
        "subject.dimensions",
        [{}, {"run_id": "x" * 256, "Any Key!": ""}, {f"d{n}": "v" for n in range(16)}],
        [({f"d{n}": "v" for n in range(17)}, "must have at most 16 entries, got 17")],
    ),
    (
        "subject.dimensions.run_id",
        ["", "x" * 256],
        [
            ("x" * 257, "must be at most 256 characters long, got 257"),
            (1, "must be a string, got 1"),
            (None, "must be a string, got null"),
        ],
    ),
    ("subject.user", [], [("u", "unknown field")]),
    ("subject.agnt", [], [("u", "unknown field; did you mean agent?")]),
]
ACTION: list[Case] = [
    (
        "action.kind",
        ["k", "x" * 64],
        [
            ("x" * 65, "must be at most 64 characters long, got 65"),
            ("", "must not be blank or contain the NUL character (U+0000), got "),
            (" \t", "must not be blank or contain the NUL character (U+0000), got "),
        ],
    ),
    (
        "action.name",
        ["n", "x" * 256, "summarise, please"],
        [
            ("x" * 257, "must be at most 256 characters long, got 257"),
            ("\u2003", "must not be blank or contain the NUL character (U+0000), got "),
        ],
    ),
    (
        "action.tags",
        [[], ["x" * 64], ["t"] * 10],
        [
            (["t"] * 11, "must have at most 10 entries, got 11"),
            ("t", 'must be an array, got "t"'),
        ],
    ),
    ("action.policy_keys", [], [({"host": "example.org"}, "unknown field")]),
]
CASES: dict[type[Request], list[Case]] = {
    runtime.DecisionRequest: [
        *(KEY, *SUBJECT, *ACTION, amount("estimate"), unit("estimate"), FREE),
        ("ttl_ms", [], [(1000, "unknown field")]),
    ],
    runtime.ReservationCreateRequest: [
        *(KEY, *SUBJECT, *ACTION, amount("estimate"), unit("estimate"), POLICY, FREE),
        (
            "ttl_ms",
            [1000, 86_400_000],
            [
                (999, "must be between 1000 and 86400000, got 999"),
                (86_400_001, "must be between 1000 and 86400000, got 86400001"),
                ("1000", 'must be an integer, got "1000"'),
            ],
        ),
        (
            "grace_period_ms",
            [0, 60_000],
            [
                (-1, "must be between 0 and 60000, got -1"),
                (60_001, "must be between 0 and 60000, got 60001"),
            ],
        ),
        (
            "dry_run",
            [True, False],
            [("true", 'must be true or false, got "true"'), (1, "must be true or false, got 1")],
        ),
        ("observe_mode", [], [("OBSERVE", "unknown field")]),
    ],
    runtime.CommitRequest: [
        *(KEY, amount("actual"), unit("actual"), FREE, *METRICS),
        ("overage_policy", [], [("REJECT", "unknown field")]),
    ],
    runtime.ReleaseRequest: [
        KEY,
        ("reason", ["", "x" * 256], [("x" * 257, "must be at most 256 characters long, got 257")]),
        ("metadata", [], [({}, "unknown field")]),
    ],
    runtime.ReservationExtendRequest: [
        *(KEY, FREE),
        (
            "extend_by_ms",
            [1, 86_400_000],
            [
                (0, "must be between 1 and 86400000, got 0"),
                (86_400_001, "must be between 1 and 86400000, got 86400001"),
                (1.0, "must be an integer, got 1.0"),
            ],
        ),
    ],
    runtime.EventCreateRequest: [
        *(KEY, *SUBJECT, *ACTION, amount("actual"), unit("actual"), POLICY, FREE, *METRICS),
        (
            "client_time_ms",
            [0, INT64_MAX],
            [
                (-1, f"must be between 0 and {INT64_MAX}, got -1"),
                (2**63, f"must be between 0 and {INT64_MAX}, got {2**63}"),
            ],
        ),
        ("estimate", [], [(AMOUNT, "unknown field")]),
    ],
}

ACCEPTED = [
    pytest.param(model, path, value, id=f"{model.__name__}-{path}-{str(value)[:20]}")
    for model, cases in CASES.items()
    for path, accepted, _ in cases
    for value in accepted
]
REFUSED = [
    pytest.param(model, path, value, said, id=f"{model.__name__}-{path}-{str(value)[:20]!r}")
    for model, cases in CASES.items()
    for path, _, refused in cases
    for value, said in refused
]


@pytest.mark.parametrize(("model", "path", "value"), ACCEPTED)
def test_a_value_at_its_limit_is_accepted_and_kept(
    model: type[Request], path: str, value: object
) -> None:
    """What is allowed arrives unchanged."""
    kept: Any = decode(model, body_of(model, path, value))
    for name in path.split("."):
        kept = kept[name] if isinstance(kept, dict) else getattr(kept, name)
    assert kept == value


@pytest.mark.parametrize(("model", "path", "value", "said"), REFUSED)
def test_a_value_beyond_its_limit_is_refused_by_name(
    model: type[Request], path: str, value: object, said: str
) -> None:
    """The one message names the field, the limit and what was sent."""
    assert refusal(model, body_of(model, path, value)).startswith(f"{path}: {said}")


@pytest.mark.parametrize("model", MINIMAL, ids=lambda model: model.__name__)
def test_each_required_field_is_required(model: type[Request]) -> None:
    """Leaving out any member of the smallest body is refused, and only that is said."""
    for name in MINIMAL[model]:
        body = {key: value for key, value in MINIMAL[model].items() if key != name}
        assert refusal(model, json.dumps(body).encode()) == f"{name}: is required"


@pytest.mark.parametrize("model", MINIMAL, ids=lambda model: model.__name__)
def test_null_is_refused_on_the_wire_and_means_absent_in_python(model: type[Request]) -> None:
    """No field of a request is nullable, but Python callers may pass None."""
    optional = set(model.model_fields) - set(MINIMAL[model])
    for name in optional:
        assert refusal(model, body_of(model, name, None)).startswith(f"{name}: must be ")
        if model.model_fields[name].default is None:
            assert model(**{**MINIMAL[model], name: None}) == model(**MINIMAL[model])


def test_null_inside_a_nested_object_is_refused_with_its_path() -> None:
    """The walk for nulls goes into nested models, and not into free objects."""
    model = runtime.ReservationCreateRequest
    assert refusal(model, body_of(model, "subject.agent", None)) == (
        "subject.agent: must be left out or given a value; null is not accepted"
    )
    assert decode(model, body_of(model, "metadata", {"a": None})).metadata == {"a": None}


@pytest.mark.parametrize("subject", [{}, {"dimensions": {"run_id": "r"}}])
def test_a_subject_must_name_one_of_the_six_levels(subject: dict[str, Any]) -> None:
    """Dimensions alone, or nothing, name nobody."""
    model = runtime.DecisionRequest
    assert refusal(model, body_of(model, "subject", subject)) == (
        "subject: must have at least one of tenant, workspace, app, workflow, agent, toolset; "
        "dimensions alone name nobody"
    )


@pytest.mark.parametrize("name", ["tenant", "workspace", "app", "workflow", "agent", "toolset"])
def test_any_one_level_is_enough(name: str) -> None:
    """Gaps are allowed, a subject without a tenant too."""
    assert getattr(runtime.Subject.model_validate({name: "x"}), name) == "x"


def test_a_tag_is_limited_and_named_by_its_place() -> None:
    """Array members are named by index."""
    model = runtime.DecisionRequest
    body = body_of(model, "action.tags", ["ok", "x" * 65, 3])
    assert refusal(model, body) == (
        "action.tags[1]: must be at most 64 characters long, got 65; "
        "action.tags[2]: must be a string, got 3"
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": {"b": [0, 2**64]}}, "metadata.a.b[1]: must be an integer between "),
        ({"a": -(2**63) - 1}, "metadata.a: must be an integer between "),
        ({"a": float("nan")}, "metadata.a: must be a finite number"),
        ({"a": [float("-inf")]}, "metadata.a[0]: must be a finite number"),
        ({"a": "x\x00"}, "metadata.a: must not contain the NUL character"),
        ({"a\x00": 1}, "metadata: must not contain the NUL character"),
    ],
)
def test_free_objects_hold_only_what_every_store_can(value: object, said: str) -> None:
    """The refusal names the path inside the object."""
    for model in (runtime.DecisionRequest, runtime.CommitRequest, runtime.EventCreateRequest):
        assert refusal(model, body_of(model, "metadata", value)).startswith(said)
    model = runtime.CommitRequest
    custom = body_of(model, "metrics", {"custom": value})
    assert refusal(model, custom).startswith(said.replace("metadata", "metrics.custom"))


def nested(levels: int, wrap: type) -> object:
    """An object `levels` deep, counting itself."""
    value: object = 1
    for _ in range(levels - 1):
        value = [value] if wrap is list else {"n": value}
    return {"n": value}


@pytest.mark.parametrize("wrap", [list, dict])
def test_free_objects_may_be_32_levels_deep(wrap: type) -> None:
    """Level 33 is refused cleanly, in a free object and anywhere else."""
    model = runtime.CommitRequest
    decode(model, body_of(model, "metadata", nested(32, wrap)))
    for levels in (33, 300):
        too_deep = refusal(model, body_of(model, "metadata", nested(levels, wrap)))
        assert too_deep.endswith("must not be nested more than 32 levels deep")
        misplaced = refusal(model, body_of(model, "actual.unit", nested(levels, wrap)))
        assert misplaced.startswith("actual.unit: must be one of ")
