"""`bursar tenant`, against a server."""

import json
from typing import Any

import pytest

from bursar.cli.exits import (
    EXIT_CREDENTIAL,
    EXIT_DECLINED,
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_USAGE,
)
from conftest import Served


def create(operator: Any, tenant: str, *more: str) -> Any:
    ran = operator("tenant", "create", tenant, *more, "--json")
    assert ran.code == 0, ran.err
    return ran.document


def test_create_and_show(operator: Any, schemas: Any) -> None:
    """What was given is stored, shown to programs as the wire says it and to people in words."""
    words = ("--name", "Acme", "--overage", "REJECT", "--ttl-ms", "120000", "--meta", "team=a=b")
    made = create(operator, "made", *words)
    assert made["metadata"] == {"team": "a=b"}
    assert operator("tenant", "show", "made", "--json").document == made
    shown = operator("tenant", "show", "made").out
    assert "REJECT" in shown
    assert "2 min" in shown


def test_create_again(operator: Any) -> None:
    """The same again is fine; another name for the same id is refused with what to do."""
    first = create(operator, "again")
    assert create(operator, "again") == first
    ran = operator("tenant", "create", "again", "--name", "Other", "--json")
    assert ran.code == EXIT_REFUSED
    assert ran.out == ""
    assert ran.error["error"] == "DUPLICATE_RESOURCE"
    assert ran.error["status"] == 409
    assert "Choose another id" in ran.error["message"]


def test_list_pages(operator: Any) -> None:
    """A list goes on behind the page of the server, up to its bound, and says what is left."""
    for number in range(5):
        create(operator, f"paged-{number}")
    every = operator("tenant", "list", "--search", "paged-", "--json").document
    assert len(every["tenants"]) == 5
    assert every["has_more"] is False
    some = operator("tenant", "list", "--search", "paged-", "--limit", "2")
    assert some.out.count("paged-") == 4  # id and name of two
    assert "there are more: raise --limit" in some.err
    none = operator("tenant", "list", "--search", "nobody")
    assert (none.code, none.out) == (0, "")
    assert "bursar tenant create" in none.err


def test_update_suspend_reactivate(operator: Any) -> None:
    """Each says what it did and how to undo it; nothing to change is a mistake."""
    create(operator, "changed")
    ran = operator("tenant", "update", "changed", "--name", "New", "--extensions", "3", "--json")
    assert ran.document["name"] == "New"
    assert ran.document["max_reservation_extensions"] == 3
    suspended = operator("tenant", "suspend", "changed")
    assert "SUSPENDED" in suspended.out
    assert "undo: bursar tenant reactivate changed\n" in suspended.out
    assert operator("tenant", "reactivate", "changed", "--json").document["status"] == "ACTIVE"
    assert operator("tenant", "update", "changed").code == 2


def test_close_asks(operator: Any) -> None:
    """Closing needs a yes, says what it takes along, and is final."""
    create(operator, "ending")
    ran = operator("tenant", "close", "ending")
    assert ran.code == EXIT_DECLINED
    assert "releases 0 active reservations" in ran.err
    assert "closes 0 budgets and revokes 0 keys" in ran.err
    assert operator("tenant", "show", "ending", "--json").document["status"] == "ACTIVE"
    assert operator("tenant", "close", "ending", "--yes", "--json").document["status"] == "CLOSED"
    refused = operator("tenant", "reactivate", "ending")
    assert refused.code == EXIT_USAGE  # the protocol finds such a request invalid
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "suspend", "reactivate", "close"])
def test_unknown_tenant(operator: Any, command: str) -> None:
    """A tenant that is not there has an exit code of its own."""
    ran = operator("tenant", command, "nobody", "--json")
    assert ran.code == EXIT_NOT_FOUND
    assert ran.error["error"] == "TENANT_NOT_FOUND"


def test_wrong_input(operator: Any) -> None:
    """What the server finds invalid is said in its words; what is no option, too."""
    ran = operator("tenant", "create", "Not Valid")
    assert ran.code == 2
    assert "tenant_id" in ran.err
    for words in (
        ("tenant", "create", "x", "--overage", "MAYBE"),
        ("tenant", "create", "fine", "--meta", "no-equals"),
        ("tenant", "list", "--limit", "0"),
        ("tenant", "list", "--bogus"),
        ("tenant", "fire", "acme"),
    ):
        ran = operator(*words, "--json")
        assert (ran.code, ran.error["error"]) == (2, "USAGE"), words


def test_keys_decide(bursar: Any, served: Served) -> None:
    """No key and a wrong key are told apart in words, and neither is printed."""
    nothing = bursar("tenant", "list", "--base-url", served.url)
    assert nothing.code == EXIT_CREDENTIAL
    assert "BURSAR_ADMIN_KEY" in nothing.err
    wrong = bursar("tenant", "list", "--base-url", served.url, "--admin-key", "wrong-key", "--json")
    assert wrong.code == EXIT_CREDENTIAL
    assert wrong.error["status"] == 401
    assert "wrong-key" not in json.dumps(wrong.error)
