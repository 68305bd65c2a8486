"""`bursar key`, against a server."""

from typing import Any

import pytest

from bursar.cli.exits import EXIT_CREDENTIAL, EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_USAGE


@pytest.fixture
def tenant(operator: Any, request: pytest.FixtureRequest) -> str:
    """A tenant for one test."""
    name = request.node.name.split("[")[0].replace("_", "-")[:64]
    assert operator("tenant", "create", name).code == 0
    return str(name)


def made(operator: Any, tenant: str, *words: str) -> Any:
    ran = operator("key", "create", "--tenant", tenant, "--name", "bot", *words, "--json")
    assert ran.code == 0, ran.err
    return ran.document


def test_secret_is_shown_once(operator: Any, tenant: str) -> None:
    """Creating prints the secret with how to use it; nothing prints it again."""
    ran = operator("key", "create", "--tenant", tenant, "--name", "bot")
    secret = next(word for word in ran.out.split() if word.startswith("cyc_"))
    assert "export CYCLES_API_KEY" in ran.out
    assert ran.err == ""
    listed = operator("key", "list", "--tenant", tenant)
    assert listed.out.count("bot") == 1
    assert secret not in listed.out
    as_tenant = operator("balances", "--api-key", secret, "--json")
    assert as_tenant.document == {"balances": [], "has_more": False}


def test_show_and_update(operator: Any, tenant: str) -> None:
    """What a key may do is told in words, and replaced whole."""
    key = made(operator, tenant, "--permission", "balances:read", "--scope", "agent:reader")
    assert key["permissions"] == ["balances:read"]
    shown = operator("key", "show", key["key_id"])
    assert "balances:read" in shown.out
    assert "agent:reader" in shown.out
    ran = operator("key", "update", key["key_id"], "--any-scope", "--name", "new", "--json")
    assert ran.document["name"] == "new"
    assert "scope_filter" not in ran.document
    assert operator("key", "show", key["key_id"], "--json").document == ran.document


def test_revoke_is_final(operator: Any, tenant: str) -> None:
    """A revoked key is refused from then on, by name."""
    key = made(operator, tenant)
    ran = operator("key", "revoke", key["key_id"], "--reason", "rotated", "--json")
    assert (ran.document["status"], ran.document["revoked_reason"]) == ("REVOKED", "rotated")
    refused = operator("balances", "--api-key", key["key_secret"], "--json")
    assert refused.code == EXIT_CREDENTIAL
    assert "revoked" in refused.error["message"]
    changed = operator("key", "update", key["key_id"], "--name", "x", "--json")
    assert (changed.code, changed.error["error"]) == (EXIT_REFUSED, "KEY_REVOKED")
    assert len(operator("key", "list", "--tenant", tenant, "--status", "REVOKED").out.split()) > 6


def test_wrong_input(operator: Any, tenant: str) -> None:
    """A wrong permission names the right ones; a secret is no id and is not repeated."""
    ran = operator("key", "create", "--tenant", tenant, "--name", "x", "--permission", "all")
    assert ran.code == EXIT_USAGE
    assert "reservations:create" in ran.err
    for words in (("show",), ("revoke",), ("update",)):
        extra = ("--name", "x") if words == ("update",) else ()
        ran = operator("key", *words, "cyc_live_mistaken", *extra)
        assert ran.code == EXIT_USAGE
        assert "mistaken" not in ran.err
    assert operator("key", "update", "key_0").code == EXIT_USAGE
    both = operator("key", "update", "key_0", "--scope", "agent:x", "--any-scope")
    assert both.code == EXIT_USAGE
    assert operator("key", "show", "key_0").code == EXIT_NOT_FOUND
    assert operator("key", "revoke", "key_0").code == EXIT_NOT_FOUND
    assert operator("key", "create", "--tenant", "nobody", "--name", "x").code == EXIT_NOT_FOUND
    assert operator("key", "create", "--name", "x").code == EXIT_USAGE
    assert operator("key", "list", "--status", "LOST").code == EXIT_USAGE
