"""Options and wire requests become plans, or say what is wrong with them."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from bursar import Action, Amount, CyclesConfig, ReservationCreateRequest, Subject
from bursar.client.options import Options, given_once, held_plan
from bursar.client.plans import KEY_LENGTH_MAX, action_of, derived_key, subject_of

CONFIG = CyclesConfig("http://localhost", "key", tenant="acme", app="shop", agent="")
ACTION = {"kind": "llm.completion", "name": "gpt-4o"}
TEN = {"unit": "TOKENS", "amount": 10}
REQUEST: dict[str, Any] = {"action": ACTION, "estimate": TEN}


def keys() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"key-{next(numbers)}"


def plan(**options: Any) -> Any:
    return held_plan(None, options, CONFIG, keys())


def asked(request: Any) -> Any:
    return held_plan(request, {}, CONFIG, keys())


def test_defaults() -> None:
    """The client's own subject, an unknown action, a minute, and three fresh keys."""
    made = plan(estimate=5)
    assert made.body() == {
        "idempotency_key": "key-1",
        "subject": {"tenant": "acme", "app": "shop"},
        "action": {"kind": "unknown", "name": "unknown"},
        "estimate": {"unit": "USD_MICROCENTS", "amount": 5},
        "ttl_ms": 60_000,
        "overage_policy": "ALLOW_IF_AVAILABLE",
    }
    assert (made.create_key, made.commit_key, made.release_key) == ("key-1", "key-2", "key-3")


def test_functions_are_called_with_the_arguments_of_the_action() -> None:
    """Each option may be one; without a guarded function a callable is a value."""
    options = Options.read(
        {
            "estimate": lambda n, **more: n * more["price"],
            "agent": lambda n, **_: f"bot-{n}",
            "action_tags": lambda *_, **__: ["a", "b"],
            "dimensions": lambda n, **_: {"n": str(n)},
            "idempotency_key": lambda n, **_: f"run-{n}",
            "metadata": lambda n, **_: {"n": n},
            "commit_metadata": lambda n, **_: {"m": n},
        },
    )
    asked = options.at(options.functions(), (3,), {"price": 4})
    made = asked.plan(asked.terms(CONFIG), keys())
    assert made.estimate == 12
    assert made.subject == {
        "tenant": "acme",
        "app": "shop",
        "agent": "bot-3",
        "dimensions": {"n": "3"},
    }
    assert made.action["tags"] == ["a", "b"]
    assert (made.create_key, made.commit_key) == ("run-3", "commit-run-3")
    assert (made.metadata, made.commit_metadata) == ({"n": 3}, {"m": 3})
    with pytest.raises(ValueError, match="estimate must be a non-negative int64, got <function"):
        plan(estimate=keys)


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        (None, {}, "estimate is required: the most that the action should cost"),
        ({"estimate": 1}, {"estimate": 2}, "options given twice: estimate; give each once"),
        (5, {"estimate": 1}, "options must be a mapping or keywords, got int"),
        ({"estimate": 1}, {"colour": 1, "ttl": 5}, "unknown options: colour, ttl; known are "),
    ],
)
def test_options_are_a_closed_list(given: Any, more: Any, said: str) -> None:
    """A typing mistake is an error, not a default."""
    with pytest.raises(TypeError, match=said):
        Options.read(given_once(given, more))


RANGES: list[tuple[dict[str, Any], str]] = [
    ({"estimate": -1}, "estimate must be a non-negative int64, got -1"),
    ({"estimate": True}, "estimate must be a non-negative int64, got True"),
    ({"estimate": 1.5}, "estimate must be a non-negative int64, got 1.5"),
    ({"estimate": 2**63}, "estimate must be a non-negative int64"),
    ({"estimate": Amount.tokens(5)}, "estimate must be a non-negative int64, got Amount"),
    ({"unit": "EUR"}, "unit must be one of USD_MICROCENTS, TOKENS, CREDITS, RISK_POINTS; got"),
    ({"ttl_ms": 999}, "ttl_ms must be between 1000 and 86400000, got 999"),
    ({"ttl_ms": None}, "ttl_ms must be between 1000 and 86400000, got None"),
    ({"grace_period_ms": 60_001}, "grace_period_ms must be between 0 and 60000, got 60001"),
    ({"overage_policy": "MAYBE"}, "overage_policy must be one of REJECT, "),
    ({"idempotency_key": ""}, "idempotency_key must be between 1 and 256 characters"),
    ({"idempotency_key": "k" * 257}, "idempotency_key must be between 1 and 256 characters"),
    ({"idempotency_key": "\ud83d"}, "idempotency_key must not contain a lone surrogate"),
    ({"agent": "a" * 129}, "agent"),
    ({"agent": 5}, "agent"),
    ({"dimensions": "gpu"}, "dimensions must be a mapping of texts, got 'gpu'"),
    ({"dimensions": {f"d{n}": "x" for n in range(17)}}, "dimensions"),
    ({"action_kind": "k" * 65}, "kind"),
    ({"action_tags": "gpu"}, r"action_tags must be a list of texts, got 'gpu'; write \['gpu'\]"),
    ({"action_tags": 5}, "action_tags must be a list of texts, got 5"),
    ({"action_tags": ["t"] * 11}, "tags"),
    ({"metadata": {"a": object()}}, "metadata must be a mapping of JSON values"),
    ({"metadata": {"a": float("nan")}}, "metadata must be a mapping of JSON values"),
    ({"metadata": {"a": "\ud83d"}}, "metadata must be a mapping of JSON values"),
    ({"commit_metadata": 5}, "commit_metadata must be a mapping of JSON values"),
    ({"dry_run": True}, "dry_run: a dry run holds nothing to guard; use decide"),
]


@pytest.mark.parametrize(
    ("options", "said"), RANGES, ids=[f"{next(iter(o))}-{n}" for n, (o, _) in enumerate(RANGES)]
)
def test_values_are_checked_before_anything_is_sent(options: dict[str, Any], said: str) -> None:
    """The message names the option and its limit."""
    with pytest.raises(ValueError, match=said):
        plan(**{"estimate": 1, **options})


def test_a_client_without_a_subject_needs_one() -> None:
    """Somebody has to pay; dimensions alone name nobody."""
    nobody = CyclesConfig("http://localhost", "key")
    with pytest.raises(ValueError, match="Subject must have at least one standard field"):
        held_plan(None, {"estimate": 1, "dimensions": {"a": "b"}}, nobody, keys())


def test_a_wire_request_is_taken_as_it_is() -> None:
    """Model and mapping alike; its own key names the later steps; its subject is complete."""
    model = ReservationCreateRequest(
        idempotency_key="run-1",
        subject=Subject(tenant="other"),
        action=Action(**ACTION),
        estimate=Amount.tokens(10),
        ttl_ms=5_000,
        grace_period_ms=100,
        overage_policy="REJECT",
        metadata={"a": 1},
    )
    for request in (model, model.model_dump(mode="json", exclude_none=True)):
        made = asked(request)
        assert made.body() == model.model_dump(mode="json", exclude_none=True)
        assert (made.commit_key, made.release_key) == ("commit-run-1", "release-run-1")


def test_what_a_wire_request_leaves_out() -> None:
    """The client's subject, a minute, fresh keys; the overage policy is the server's."""
    assert asked(REQUEST).body() == {
        "idempotency_key": "key-1",
        "subject": {"tenant": "acme", "app": "shop"},
        "action": ACTION,
        "estimate": TEN,
        "ttl_ms": 60_000,
    }


MISSHAPEN: list[tuple[Any, type[Exception], str]] = [
    ({"estimate": 100}, ValueError, r"estimate must be an object, got 100; .*reserve\(estimate"),
    ({"action": ACTION}, ValueError, r'estimate is missing; write {"unit": "TOKENS"'),
    ({"estimate": TEN}, ValueError, r'action is missing; write {"kind": '),
    ({**REQUEST, "action": "chat"}, ValueError, "action must be an object, got 'chat'"),
    ({**REQUEST, "subject": "acme"}, ValueError, "subject must be an object, got 'acme'"),
    ({**REQUEST, "metadata": [1]}, ValueError, r"metadata must be an object, got \[1\]"),
    ({**REQUEST, "ttl": 5, "agent": "a"}, ValueError, "unknown fields agent, ttl; see Reservation"),
    ({**REQUEST, "estimate": {"amount": 5}}, ValueError, "unit must be one of .*; got None"),
    ({**REQUEST, "estimate": {}}, ValueError, "estimate must be a non-negative int64, got None"),
    ({**REQUEST, "estimate": {"unit": "TOKENS"}}, ValueError, "estimate must be a non-negative"),
    ({**REQUEST, "action": {"kind": "k"}}, ValueError, "name"),
    ({**REQUEST, "ttl_ms": "5"}, ValueError, "ttl_ms must be between"),
    ({**REQUEST, "idempotency_key": 5}, ValueError, "idempotency_key must be between 1 and 256"),
    ({**REQUEST, "dry_run": True}, ValueError, "dry_run: a dry run holds nothing"),
    (100, TypeError, "Unsupported body type: int"),
]


@pytest.mark.parametrize(("request_", "kind", "said"), MISSHAPEN)
def test_a_misshapen_request_is_explained(request_: Any, kind: type[Exception], said: str) -> None:
    """Field, what is wrong, and what to write; never an AttributeError."""
    with pytest.raises(kind, match=said):
        asked(request_)


def test_a_request_and_options_exclude_each_other() -> None:
    """Which of them wins would be a guess."""
    with pytest.raises(TypeError, match="give a request or options, not both"):
        held_plan(REQUEST, {"estimate": 1}, CONFIG, keys())


@pytest.mark.parametrize("length", [1, 249, 250, 256])
def test_derived_keys_fit_and_differ(length: int) -> None:
    """Every step of every key has its own, within the limit, and always the same."""
    key = "k" * length
    made = {derived_key(phase, key) for phase in ("commit", "release")}
    made |= {derived_key(phase, f"{key[:-1]}j") for phase in ("commit", "release")}
    assert len(made) == 4
    assert max(map(len, made)) <= KEY_LENGTH_MAX
    assert derived_key("commit", key) in made


def test_empty_levels_fall_back_and_empty_words_are_unknown() -> None:
    """As for the official client: "" is not a level."""
    assert subject_of(CONFIG, {"tenant": "", "workspace": "w"}) == {
        "tenant": "acme",
        "workspace": "w",
        "app": "shop",
    }
    assert action_of("", None, []) == {"kind": "unknown", "name": "unknown"}
    assert action_of("k", "n", ("t",)) == {"kind": "k", "name": "n", "tags": ["t"]}


def test_terms_are_made_anew_only_when_who_or_what_has_changed() -> None:
    """A list that grew, a level of the client that was set: both are seen at the next call."""
    config = CyclesConfig("http://localhost", "key", tenant="acme")
    tags, labels = ["a"], {"run": "1"}
    options = Options(estimate=1, action_tags=tags, dimensions=labels)
    first = options.terms(config)
    assert options.terms(config, first) is first
    tags.append("b")
    second = options.terms(config, first)
    assert (first.action["tags"], second.action["tags"]) == (["a"], ["a", "b"])
    labels["run"] = "2"
    third = options.terms(config, second)
    assert third.subject == {"tenant": "acme", "dimensions": {"run": "2"}}
    config.agent = "bot"
    fourth = options.terms(config, third)
    assert fourth.subject == third.subject | {"agent": "bot"}
    tags.append("x" * 65)
    with pytest.raises(ValueError, match="tags"):
        options.terms(config, fourth)


def test_a_function_of_the_arguments_is_asked_at_every_call() -> None:
    """What it says decides whether the terms of the last call still fit."""
    options = Options(estimate=1, agent=lambda name: name)
    functions = options.functions()
    first = options.at(functions, ("a",), {}).terms(CONFIG)
    assert options.at(functions, ("a",), {}).terms(CONFIG, first) is first
    assert options.at(functions, ("b",), {}).terms(CONFIG, first).subject["agent"] == "b"
