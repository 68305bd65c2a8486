"""`bursar audit list`: every filter of the endpoint, as a table and as JSON."""

import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from bursar.cli.exits import EXIT_CREDENTIAL, EXIT_OK, EXIT_USAGE
from conftest import Served

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def trace(served: Served) -> str:
    """Be refused something, in a trace of one's own."""
    trace = "ab" * 16
    headers = {"X-Admin-API-Key": served.admin_key, "X-Cycles-Trace-Id": trace}
    request = urllib.request.Request(
        f"{served.url}/v1/admin/budgets", data=b'{"colour": 1}', headers=headers
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 400
    refused.value.close()
    return trace


@pytest.fixture
def told(operator: Run, trace: str) -> Callable[..., list[Any]]:
    """Make two tenants and a budget, and return a function that lists."""
    for name in ("acme", "other"):
        assert operator("tenant", "create", name).code == EXIT_OK
    operator("budget", "create", "tenant:acme", "5USD")

    def run(*words: str) -> list[Any]:
        ran = operator("audit", "list", *words, "--json", "--limit", "1000")
        assert ran.code == EXIT_OK, ran
        rows: list[Any] = ran.document["logs"]
        return rows

    return run


def test_each_filter_filters(told: Callable[..., list[Any]], trace: str) -> None:
    """Each is asked for what one line has, and shows only lines that have it."""
    everything = told()
    [made] = [row for row in told("--tenant", "acme") if row["operation"] == "createBudget"]
    filters = {
        ("--tenant", "acme"): lambda row: row["tenant_id"] == "acme",
        ("--operation", "createBudget"): lambda row: row["operation"] == "createBudget",
        ("--resource-type", made["resource_type"]): (
            lambda row: row.get("resource_type") == made["resource_type"]
        ),
        ("--resource-id", made["resource_id"]): (
            lambda row: row.get("resource_id") == made["resource_id"]
        ),
        ("--error-code", "INVALID_REQUEST"): (
            lambda row: row.get("error_code") == "INVALID_REQUEST"
        ),
        ("--error-code-exclude", "INVALID_REQUEST"): (
            lambda row: row.get("error_code") != "INVALID_REQUEST"
        ),
        ("--status", "201"): lambda row: row["status"] == 201,
        ("--status-min", "400"): lambda row: row["status"] >= 400,
        ("--status-max", "399"): lambda row: row["status"] <= 399,
        ("--since", made["timestamp"]): lambda row: row["timestamp"] >= made["timestamp"],
        ("--until", made["timestamp"]): lambda row: row["timestamp"] <= made["timestamp"],
        ("--trace-id", trace): lambda row: row["trace_id"] == trace,
        ("--request-id", made["request_id"]): (lambda row: row["request_id"] == made["request_id"]),
    }
    for words, has in filters.items():
        expected = [row["log_id"] for row in everything if has(row)]
        assert expected, words
        assert [row["log_id"] for row in told(*words)] == expected, words
    several = told("--operation", "createBudget", "--operation", "createTenant")
    assert {row["operation"] for row in several} == {"createBudget", "createTenant"}
    assert told("--key-id", "nobody") == []
    assert 0 < len(told("--search", made["resource_id"])) < len(everything)


def test_order_and_limit(told: Callable[..., list[Any]], operator: Run) -> None:
    newest = [row["timestamp"] for row in told()]
    assert newest == sorted(newest, reverse=True)
    oldest = [row["timestamp"] for row in told("--ascending")]
    assert oldest == sorted(newest)
    names = [row["operation"] for row in told("--sort-by", "operation", "--ascending")]
    assert names == sorted(names)
    ran = operator("audit", "list", "--limit", "1", "--json")
    assert (len(ran.document["logs"]), ran.document["has_more"]) == (1, True)


def test_the_table_shows_who_did_what(told: Callable[..., list[Any]], operator: Run) -> None:
    del told
    shown = operator("audit", "list").out
    for part in ("createTenant", "createBudget", "400 INVALID_REQUEST"):
        assert part in shown


def test_it_is_the_operators(bursar: Run, operator: Run, served: Served) -> None:
    assert bursar("audit", "list", CYCLES_BASE_URL=served.url).code == EXIT_CREDENTIAL
    assert operator("audit", "list", "--status", "7").code == EXIT_USAGE
