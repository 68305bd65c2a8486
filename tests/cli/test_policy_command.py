"""`bursar policy`, against a server."""

import json
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.exits import EXIT_NOT_FOUND, EXIT_USAGE
from bursar.cli.remote.rules import effect

OPTIONS = (
    *("--priority", "3", "--description", "why", "--max-tokens", "2000", "--max-steps", "4"),
    *("--allow-tool", "search", "--deny-tool", "shell", "--deny-tool", "mail"),
    *("--cooldown-ms", "500", "--overage", "REJECT", "--ttl-ms", "90000"),
    *("--ttl-max-ms", "120000", "--extensions", "2", "--reservations-per-minute", "60"),
    *("--commits-per-minute", "70", "--effective-from", "2026-01-01T00:00:00Z"),
    *("--effective-until", "2036-01-01T00:00:00Z"),
)
FIELDS = {
    "priority": 3,
    "description": "why",
    "caps": {
        "max_tokens": 2000,
        "max_steps_remaining": 4,
        "tool_allowlist": ["search"],
        "tool_denylist": ["shell", "mail"],
        "cooldown_ms": 500,
    },
    "commit_overage_policy": "REJECT",
    "reservation_ttl_override": {
        "default_ttl_ms": 90000,
        "max_ttl_ms": 120000,
        "max_extensions": 2,
    },
    "rate_limits": {"max_reservations_per_minute": 60, "max_commits_per_minute": 70},
    "effective_from": "2026-01-01T00:00:00.000Z",
    "effective_until": "2036-01-01T00:00:00.000Z",
}


@pytest.fixture
def tenant(operator: Any, request: pytest.FixtureRequest) -> str:
    """A tenant for one test."""
    name = request.node.name.split("[")[0].replace("_", "-")[:64]
    assert operator("tenant", "create", name).code == 0
    return str(name)


def create(operator: Any, tenant: str, *words: str) -> Any:
    ran = operator("policy", "create", *words, "--tenant", tenant, "--json")
    assert ran.code == 0, ran.err
    return ran.document


def test_every_field_has_an_option(operator: Any, tenant: str) -> None:
    """Each option becomes the field of the wire that it is for."""
    row = create(operator, tenant, "all", "agent:*", *OPTIONS)
    assert {name: row[name] for name in FIELDS} == FIELDS
    assert len(effect(row)) == 12
    shown = operator("policy", "show", row["policy_id"], "--tenant", tenant)
    for sentence in effect(row):
        assert sentence in shown.out


@pytest.mark.parametrize("form", ["toml", "json"])
def test_from_a_file(operator: Any, tenant: str, form: str, tmp_path: Path) -> None:
    """A file says the same, in the fields of the wire; an option beats it, within objects too."""
    path = tmp_path / f"policy.{form}"
    fields = {"name": f"by-{form}", "scope_pattern": "agent:*", "rate_limits": {}}
    if form == "json":
        path.write_text(json.dumps(fields | {"caps": {"max_tokens": 1, "cooldown_ms": 2}}))
    else:
        path.write_text(
            'name = "by-toml"\nscope_pattern = "agent:*"\neffective_from = 2026-01-01T00:00:00Z\n'
            "[caps]\nmax_tokens = 1\ncooldown_ms = 2\n"
        )
    row = create(operator, tenant, "--file", str(path), "--max-tokens", "9")
    assert row["name"] == f"by-{form}"
    assert row["caps"] == {"max_tokens": 9, "cooldown_ms": 2}


def test_update_clear_disable_enable(operator: Any, tenant: str) -> None:
    """What is left out stays, what is cleared goes, and a policy is switched off and on."""
    row = create(operator, tenant, "p", "agent:*", "--max-tokens", "1", "--ttl-ms", "5000")
    words = ("policy", "update", row["policy_id"], "--clear", "caps", "--priority", "7", "--json")
    changed = operator(*words).document
    assert "caps" not in changed
    assert changed["priority"] == 7
    assert changed["reservation_ttl_override"] == {"default_ttl_ms": 5000}
    off = operator("policy", "disable", row["policy_id"])
    assert f"bursar policy enable {row['policy_id']}" in off.out
    active = ("policy", "list", "--tenant", tenant, "--status", "ACTIVE", "--json")
    assert operator(*active).document["policies"] == []
    assert operator("policy", "enable", row["policy_id"], "--json").document["status"] == "ACTIVE"
    assert len(operator(*active).document["policies"]) == 1
    assert "a lease is 5 s unless asked for" in operator("policy", "list", "--tenant", tenant).out


def test_tenant_manages_its_own(operator: Any, tenant: str) -> None:
    """A tenant's key needs no --tenant."""
    key = operator("key", "create", "--tenant", tenant, "--name", "k", "--json").document
    own = ("--api-key", key["key_secret"], "--json")
    row = operator("policy", "create", "mine", "agent:*", "--max-tokens", "5", *own).document
    assert operator("policy", "list", *own).document["policies"] == [row]
    assert operator("policy", "show", row["policy_id"], *own).document == row


def test_wrong_input(operator: Any, tenant: str, tmp_path: Path) -> None:
    """What is missing, unreadable or contradictory is said by name."""
    bad = tmp_path / "bad"
    bad.write_text("name = ")
    for words, said in (
        (("create", "--tenant", tenant), "NAME is missing"),
        (("create", "x", "--tenant", tenant), "PATTERN is missing"),
        (("create", "x", "agent:*"), "--tenant is missing"),
        (("create", "x", "agent:*:", "--tenant", tenant), "scope_pattern"),
        (("create", "--file", str(bad), "--tenant", tenant), "neither TOML nor JSON"),
        (("create", "--file", str(tmp_path / "gone"), "--tenant", tenant), "cannot read"),
        (("list",), "--tenant is missing"),
        (("show", "pol_0"), "--tenant is missing"),
        (("update", "pol_0"), "nothing to change"),
        (("update", "pol_0", "--clear", "caps", "--max-tokens", "1"), "--clear contradicts"),
    ):
        ran = operator("policy", *words, "--json")
        assert ran.code == EXIT_USAGE, (words, ran)
        assert said in ran.error["message"], words
    assert operator("policy", "show", "pol_0", "--tenant", tenant).code == EXIT_NOT_FOUND
    for verb in ("enable", "disable"):
        assert operator("policy", verb, "pol_0").code == EXIT_NOT_FOUND
