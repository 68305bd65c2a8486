"""What a new user types wrongly, and what is said to that."""

from typing import Any

import pytest

from bursar.cli.exits import EXIT_USAGE
from test_reference import remote_commands


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tenant", "show"), "TENANT_ID requires an argument. See: bursar tenant show --help"),
        (("tenant", "fire"), "See: bursar tenant --help"),
        (("frobnicate",), "See: bursar --help"),
        (("tenant", "list", "--limit", "many"), "See: bursar tenant list --help"),
        (("budget", "create", "tenant:acme", "-5USD"), "an amount cannot be negative, got -5USD."),
        (("tenant", "show", "a/b"), "'a/b' is not an id"),
        (("reservations", "a/b"), "'a/b' is not an id"),
        (("tenant", "show", ""), "'' is not an id"),
    ],
)
def test_a_mistake_is_told_in_one_line(bursar: Any, words: tuple[str, ...], said: str) -> None:
    """It says what is wrong and where the help is, and asks no server."""
    ran = bursar(*words, BURSAR_ADMIN_KEY="k", CYCLES_BASE_URL="http://127.0.0.1:9")
    assert (ran.code, ran.out, ran.err.count("\n")) == (EXIT_USAGE, "", 1)
    assert said in ran.err


def test_every_help_has_an_example() -> None:
    """The help of each command and group that speaks to a server shows how it is typed."""
    found = list(remote_commands())
    assert len(found) > 40
    missing = [words for words, _, about in found if f"Example: bursar {words}" not in about]
    assert missing == []
