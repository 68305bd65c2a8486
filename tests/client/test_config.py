"""What a configuration accepts, what it says when it refuses, and what it never shows."""

import dataclasses
from pathlib import Path

import pytest

from bursar.client.config import CyclesConfig
from bursar.client.heartbeat_failure import HeartbeatFailure

KEY = "cyc_live_topsecret"


def config(**values: object) -> CyclesConfig:
    return CyclesConfig(**{"base_url": "http://localhost", "api_key": KEY, **values})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names a server and a key, and nothing else of this family."""
    monkeypatch.setenv("CYCLES_BASE_URL", "http://localhost:7878")
    monkeypatch.setenv("CYCLES_API_KEY", KEY)
    return monkeypatch


def test_the_key_is_never_shown() -> None:
    """Neither repr nor str nor a formatted string holds the key."""
    shown = config()
    assert KEY not in f"{shown!r}{shown!s}{shown}{[shown]}"
    assert "http://localhost" in repr(shown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, True) for text in ("1", "true", "TRUE", "Yes", " on ", "tRuE")),
        *((text, False) for text in ("0", "false", "False", "NO", "off")),
        ("", True),
        ("  ", True),
    ],
)
def test_switches_read_the_usual_spellings(
    environment: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    """A switch means what people mean by it; set to nothing it keeps its default."""
    environment.setenv("CYCLES_RETRY_ENABLED", text)
    environment.setenv("CYCLES_JOURNAL_ENABLED", text)
    read = CyclesConfig.from_env()
    assert (expected, expected) == (read.retry_enabled, read.journal_enabled)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("RETRY_ENABLED", "y", "must be one of 1, true, yes, on, 0, false, no, off; got 'y'"),
        ("JOURNAL_ENABLED", "2", "must be one of 1, true, yes, on, 0, false, no, off; got '2'"),
        ("CONNECT_TIMEOUT", "2s", "must be a number such as 2.5; got '2s'"),
        ("RETRY_MAX_ATTEMPTS", "1.5", "must be a whole number such as 5; got '1.5'"),
        ("READ_TIMEOUT", "nan", "must be a number between 0.001 and 86400; got nan"),
        ("READ_TIMEOUT", "-1", "must be a number between 0.001 and 86400; got -1.0"),
        ("RETRY_MAX_ATTEMPTS", "-1", "must be a whole number between 0 and 1000; got -1"),
        ("HEARTBEAT_POLICY", "die", "must be one of warn, fail_on_finalize, cancel; got 'die'"),
        ("ON_COMMIT_FAILURE", "x", "must be one of journal, reset; got 'x'"),
        ("BASE_URL", "localhost:80", "must be an absolute URL such as http://localhost:7878"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(
    environment: pytest.MonkeyPatch, variable: str, text: str, said: str
) -> None:
    """The message names the variable, the limit and what was found."""
    environment.setenv(f"CYCLES_{variable}", text)
    with pytest.raises(ValueError) as caught:
        CyclesConfig.from_env()
    assert f"CYCLES_{variable} {said}" in str(caught.value)


def test_every_field_can_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    """Every field but the function has a variable of its own name."""
    written = {
        **{name: f"a-{name}" for name in ("tenant", "workspace", "app", "workflow", "agent")},
        "toolset": "a-toolset",
        "connect_timeout": "1.5",
        "read_timeout": "2.5",
        "retry_enabled": "off",
        "retry_max_attempts": "7",
        "retry_initial_delay": "0.25",
        "retry_multiplier": "3",
        "retry_max_delay": "9",
        "retry_flush_timeout": "0",
        "journal_enabled": "no",
        "journal_dir": "somewhere",
        "heartbeat_policy": "cancel",
        "on_commit_failure": "reset",
        "retry_sweep_interval": "5",
    }
    named = {field.name for field in dataclasses.fields(CyclesConfig)}
    assert set(written) == named - {"base_url", "api_key", "on_heartbeat_failure"}
    for name, text in written.items():
        environment.setenv(f"CYCLES_{name.upper()}", text)
    read = dataclasses.asdict(CyclesConfig.from_env())
    assert (
        read["connect_timeout"],
        read["read_timeout"],
        read["retry_enabled"],
        read["retry_max_attempts"],
    ) == (1.5, 2.5, False, 7)
    switches = {"off": "False", "no": "False"}
    numbers = {"3": "3.0", "9": "9.0", "0": "0.0", "5": "5.0"}
    for name, text in written.items():
        assert switches.get(text, numbers.get(text, text)) == str(read[name])


def test_the_prefix_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another prefix reads other variables, and a missing one is named with it."""
    monkeypatch.delenv("ACME_API_KEY", raising=False)
    monkeypatch.setenv("ACME_BASE_URL", "http://acme")
    with pytest.raises(ValueError, match=r"^ACME_API_KEY environment variable is required$"):
        CyclesConfig.from_env(prefix="ACME_")
    monkeypatch.setenv("ACME_API_KEY", KEY)
    assert CyclesConfig.from_env("ACME_").base_url == "http://acme"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"base_url": ""}, "base_url must be an absolute URL"),
        ({"base_url": "http://a b"}, "base_url must be an absolute URL"),
        ({"base_url": "http://a\n"}, "base_url must be an absolute URL"),
        ({"base_url": None}, "base_url must be text"),
        ({"api_key": ""}, "api_key must be a non-empty text"),
        ({"api_key": 5}, "api_key must be a non-empty text"),
        ({"tenant": 5}, "tenant must be text or None; got 5"),
        ({"connect_timeout": True}, "connect_timeout must be a number between"),
        ({"connect_timeout": "2"}, "connect_timeout must be a number between"),
        ({"connect_timeout": float("inf")}, "connect_timeout must be a number between"),
        ({"connect_timeout": 10**400}, "connect_timeout must be a number between"),
        ({"retry_max_attempts": 1.0}, "retry_max_attempts must be a whole number between"),
        ({"retry_enabled": "false"}, "retry_enabled must be True or False; got 'false'"),
        ({"on_heartbeat_failure": 5}, "on_heartbeat_failure must be a function"),
        ({"heartbeat_policy": []}, "heartbeat_policy must be one of warn"),
    ],
)
def test_a_value_that_cannot_work_is_refused(values: dict[str, object], said: str) -> None:
    """The constructor and a later assignment say the same."""
    with pytest.raises(ValueError) as caught:
        config(**values)
    assert said in str(caught.value)
    settings = config()
    ((name, value),) = values.items()
    with pytest.raises(ValueError) as again:
        setattr(settings, name, value)
    assert str(caught.value) == str(again.value)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX-Evil: 1", f"{KEY}é", f" {KEY}"])
def test_a_key_that_would_break_a_header_is_refused_unseen(
    environment: pytest.MonkeyPatch, key: str
) -> None:
    """The refusal says where the character stands and does not print the key."""
    environment.setenv("CYCLES_API_KEY", key)
    with pytest.raises(ValueError, match="CYCLES_API_KEY must") as caught:
        CyclesConfig.from_env()
    assert KEY not in str(caught.value)


def test_a_path_is_a_directory_too() -> None:
    """`journal_dir` takes a path object and keeps text."""
    assert config(journal_dir=Path("a") / "b").journal_dir == str(Path("a") / "b")


def test_a_heartbeat_failure_is_a_value() -> None:
    """Two reports of the same failure are equal, and none can be changed."""
    failure = HeartbeatFailure("rsv_1", "retrying", "503", 503, None, 7)
    assert failure == HeartbeatFailure("rsv_1", "retrying", "503", 503, None, 7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        failure.reason = "other"
