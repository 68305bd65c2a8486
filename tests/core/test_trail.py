"""The words of the audit log: every verb has its operation, its resource and its id."""

from typing import get_args

import pytest

from bursar.core import trail
from bursar.core.commands import AnyCommand


def test_every_verb_has_its_words() -> None:
    """A command without a row in the table would be an operation that nobody can filter."""
    assert {command.__name__ for command in get_args(AnyCommand)} == set(trail.VERBS)


@pytest.mark.parametrize(
    ("verb", "changes", "resource_id"),
    [
        ("CreateTenant", "{}", "acme"),
        ("CloseTenant", '{"budgets":[["tenant:acme","TOKENS"]]}', "acme"),
        ("Reserve", "{}", None),
        ("Expire", '{"reservations":[["r-1","EXPIRED"]]}', "r-1"),
        ("Decide", "{}", None),
        ("Debit", '{"asked":{"event_id":"ev-1"}}', "ev-1"),
        ("Debit", "{}", None),
        ("Fund", '{"budgets":[["tenant:acme","CREDITS"]]}', "tenant:acme/CREDITS"),
        ("UpdateBudget", "{}", None),
        ("UpdateKey", '{"keys":[["key_1"]]}', "key_1"),
        ("UpdatePolicy", '{"policies":[["pol_1"]]}', "pol_1"),
        ("SomethingNew", '{"budgets":[["tenant:acme","TOKENS"]]}', None),
    ],
)
def test_resource_ids(verb: str, changes: str, resource_id: str | None) -> None:
    """An entry is about the first record of its kind that it changed."""
    assert resource_id == trail.resource_id_of(verb, "acme", changes)


def test_a_bulk_action_on_tenants_is_about_no_single_one() -> None:
    assert trail.resource_id_of("FinishBulkTenants", trail.ADMIN, "{}") is None


def test_an_unknown_verb_is_an_operation_of_that_name() -> None:
    """A log of a newer version is still readable."""
    assert trail.operation_of("SomethingNew") == "somethingNew"
    assert trail.resource_type_of("SomethingNew") is None
