"""Scope paths: derived from a subject, validated for an operator, matched by whole segments."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core import scopes
from bursar.vocabulary import SCOPE_KINDS

values = st.text("abcXYZ019._-", min_size=1, max_size=128)
subjects = st.dictionaries(st.sampled_from(SCOPE_KINDS), values, min_size=1)


@pytest.mark.parametrize(
    ("subject", "paths"),
    [
        ({"tenant": "acme"}, ["tenant:acme"]),
        ({"tenant": "acme", "agent": "bot"}, ["tenant:acme", "tenant:acme/agent:bot"]),
        (
            {"toolset": "web", "app": "chat", "workspace": "prod", "tenant": "acme"},
            [
                "tenant:acme",
                "tenant:acme/workspace:prod",
                "tenant:acme/workspace:prod/app:chat",
                "tenant:acme/workspace:prod/app:chat/toolset:web",
            ],
        ),
        ({"agent": "X"}, ["agent:x"]),  # case 61
        ({"tenant": "Acme", "agent": "Bot.V2"}, ["tenant:acme", "tenant:acme/agent:bot.v2"]),
        ({}, []),
        ({"dimensions": "x"}, []),
    ],
)
def test_which_paths_a_subject_derives(subject: dict[str, str], paths: list[str]) -> None:
    assert tuple(paths) == scopes.derive(subject)


def test_all_six_levels_are_derived_in_the_protocols_order() -> None:
    subject = dict.fromkeys(reversed(SCOPE_KINDS), "v")
    paths = scopes.derive(subject)
    assert len(paths) == 6
    assert paths[-1] == "tenant:v/workspace:v/app:v/workflow:v/agent:v/toolset:v"


@given(subjects)
def test_every_path_is_a_prefix_of_the_next(subject: dict[str, str]) -> None:
    paths = scopes.derive(subject)
    assert len(paths) == len(subject)
    assert paths == scopes.prefixes(paths[-1])
    for outer, inner in pairwise(paths):
        assert inner.startswith(outer + "/")
        assert inner == f"{outer}/{scopes.leaf(inner)}"
    assert paths == scopes.derive({kind: value.upper() for kind, value in subject.items()})


@pytest.mark.parametrize(
    "scope",
    [
        "tenant:acme",
        "tenant:acme/agent:bot",
        "tenant:acme/workspace:a/app:b/workflow:c/agent:d/toolset:e",
        "tenant:acme/agent:A-1._z",
        "tenant:acme/agent:" + "n" * 128,
    ],
)
def test_a_scope_in_order_is_accepted(scope: str) -> None:
    assert scopes.problem(scope, "acme") is None


@pytest.mark.parametrize(
    ("scope", "wrong"),
    [
        ("", "segment '' must be kind:value"),
        ("acme", "segment 'acme' must be kind:value"),
        ("tenant:acme/", "segment '' must be kind:value"),
        ("tenant:acme/team:x", "kind one of tenant, workspace, app, workflow, agent, toolset"),
        ("tenant:acme/agent:b/app:a", "segment 'app:a' is out of order"),
        ("tenant:acme/agent:b/agent:c", "segment 'agent:c' is out of order"),
        ("tenant:acme/tenant:acme", "out of order"),
        ("tenant:acme/agent:", "value of 'agent' must be 1 to 128"),
        ("tenant:acme/agent:-x", "value of 'agent'"),
        ("tenant:acme/agent:x.", "value of 'agent'"),
        ("tenant:acme/agent:a b", "value of 'agent'"),
        ("tenant:acme/agent:a:b", "value of 'agent'"),
        ("tenant:acme/agent:é", "value of 'agent'"),
        ("tenant:acme/agent:x\n", "value of 'agent'"),
        ("tenant:acme/agent:" + "n" * 129, "value of 'agent' must be 1 to 128"),
        ("agent:bot", "must start with tenant:acme"),
        ("tenant:acme-corp", "must start with tenant:acme"),
        ("tenant:acme-corp/agent:b", "must start with tenant:acme"),
    ],
)
def test_a_scope_out_of_order_is_told_what_is_wrong(scope: str, wrong: str) -> None:
    assert wrong in str(scopes.problem(scope, "acme"))


@pytest.mark.parametrize(
    ("segments", "found"),
    [
        ({}, True),
        ({"tenant": "acme-corp"}, True),
        ({"tenant": "acme"}, False),  # case 40
        ({"tenant": "acme-corp", "agent": "BOT"}, True),
        ({"agent": "bo"}, False),
        ({"workspace": "bot"}, False),
    ],
)
def test_segments_match_as_a_whole(segments: dict[str, str], found: bool) -> None:
    assert found is scopes.contains("tenant:acme-corp/agent:bot", segments)


@pytest.mark.parametrize(
    ("scope_filter", "admitted"),
    [
        ((), True),
        (("workspace:eng",), True),
        (("Workspace:ENG",), True),
        (("workspace:en",), False),
        (("agent:*",), True),
        (("app:*",), False),
        (("work:*",), False),
        (("tenant:acme",), True),
        (("tenant:acme/workspace:eng",), True),
        (("tenant:acme/workspace:eng/agent:bot",), True),
        (("tenant:acme/workspace:e",), False),
        (("tenant:acme/agent:bot",), False),
        (("app:x", "agent:bot"), True),
        (("app:x", "agent:b"), False),
    ],
)
def test_a_scope_filter_admits_whole_segments_and_paths(
    scope_filter: tuple[str, ...], admitted: bool
) -> None:
    path = "tenant:acme/workspace:eng/agent:bot"
    assert admitted is scopes.within_filter(path, scope_filter)


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("workspace:eng", None),
        ("agent:*", None),
        ("tenant:*", None),
        ("tenant:acme", None),
        ("tenant:Acme", None),
        ("tenant:acme/workspace:eng", None),
        ("workspace:eng/agent:bot", None),
        ("foo", "segment 'foo' must be kind:value with kind one of tenant, "),
        ("agnet:*", "segment 'agnet:*' must be kind:value with kind one of tenant, "),
        ("workspace:", "value of 'workspace' must be 1 to 128 letters"),
        ("agent:a b", "value of 'agent' must be 1 to 128 letters"),
        ("", "segment '' must be kind:value"),
        ("*", "segment '*' must be kind:value"),
        ("tenant:other", "must start with tenant:acme, the tenant that owns the key"),
        ("tenant:other/agent:x", "must start with tenant:acme, the tenant that owns the key"),
        ("tenant:acme/agent:*", "value of 'agent' must be 1 to 128 letters"),
        ("agent:x/workspace:y", "segment 'workspace:y' is out of order"),
        ("agent:x/tenant:acme", "segment 'tenant:acme' is out of order"),
    ],
)
def test_a_scope_filter_that_nothing_can_fit_is_told_why(entry: str, wrong: str | None) -> None:
    said = scopes.filter_problem(entry, "acme")
    assert said is None if wrong is None else (said or "").startswith(wrong)


def test_a_path_too_long_for_a_sentence_is_shown_by_its_last_segment() -> None:
    whole = "tenant:" + "n" * 128 + "/agent:" + "n" * 18
    assert len(whole) == 160
    assert whole == scopes.shown(whole)
    assert scopes.shown(whole + "n") == "…/agent:" + "n" * 19
