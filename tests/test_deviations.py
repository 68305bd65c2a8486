"""The register of deviations names its tests, and what only a server shows is tested here."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from conftest import serving

ROOT = Path(__file__).resolve().parents[1]
REGISTER = ROOT / "docs" / "design" / "deviations.md"
ROW = re.compile(r"^\| (\d+) \|.*$", re.MULTILINE)
CASE = re.compile(r"\[`(tests/[\w/.]+)`\]\(\.\./\.\./([\w/.]+)\): `([^`]+)`")

Ask = Callable[..., tuple[int, Any]]
BUDGET = {
    "scope": "tenant:acme/agent:bot",
    "unit": "TOKENS",
    "allocated": {"unit": "TOKENS", "amount": 1_000},
}
RESERVE = {
    "subject": {"tenant": "acme", "agent": "bot"},
    "action": {"kind": "llm.completion", "name": "m"},
    "estimate": {"unit": "TOKENS", "amount": 1},
}


def test_every_row_names_a_test_that_exists() -> None:
    """Each row of the register names a case, and the case is in the file that it names."""
    rows = {int(match[1]): match[0] for match in ROW.finditer(REGISTER.read_text("utf-8"))}
    assert list(rows) == sorted(rows)
    assert len(rows) >= 19
    for row in rows.values():
        named = CASE.findall(row)
        assert named, row
        for shown, target, case in named:
            assert shown == target
            assert case in (ROOT / target).read_text(encoding="utf-8"), case


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Return a function that asks a server with one tenant and one budget."""
    with serving(tmp_path_factory.mktemp("deviations")) as served:

        def ask(method: str, path: str, key: str | None = None, **body: object) -> tuple[int, Any]:
            headers = {"X-Cycles-API-Key": key} if key else {"X-Admin-API-Key": served.admin_key}
            sent = json.dumps(body).encode() if method == "POST" else None
            request = urllib.request.Request(served.url + path, sent, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.load(error)

        assert ask("POST", "/v1/admin/tenants", tenant_id="acme", name="Acme")[0] == 201
        assert ask("POST", "/v1/admin/budgets", tenant_id="acme", **BUDGET)[0] == 201
        yield ask


@pytest.fixture
def new_key(ask: Ask) -> Callable[..., str]:
    """Return a function that makes API keys of the tenant."""

    def make(**fields: object) -> str:
        status, body = ask("POST", "/v1/admin/api-keys", tenant_id="acme", name="k", **fields)
        assert status == 201
        secret: str = body["key_secret"]
        return secret

    return make


def test_balances_have_two_forms(ask: Ask, new_key: Callable[..., str]) -> None:
    """Row 10: the filters choose between the runtime's rows and the admin plane's."""
    key = new_key()
    for query, form in (
        ("tenant=acme", "runtime"),
        ("agent=bot&unit=TOKENS", "runtime"),
        ("scope_prefix=tenant:acme", "admin"),
        ("unit=TOKENS", "admin"),
        ("tenant_id=acme", "admin"),
    ):
        status, body = ask("GET", f"/v1/balances?{query}", key)
        assert (status, "ledger_id" in body["balances"][0]) == (200, form == "admin"), query
    for query in ("", "limit=5", "include_children=true"):
        status, body = ask("GET", f"/v1/balances?{query}", key)
        assert (status, body["error"]) == (400, "INVALID_REQUEST"), query


def test_a_bad_key_is_401_everywhere(ask: Ask) -> None:
    """Row 12: an API key that is none is 401 on both planes."""
    for method, path in (
        ("GET", "/v1/balances?tenant=acme"),
        ("POST", "/v1/reservations"),
        ("GET", "/v1/admin/budgets"),
        ("POST", "/v1/admin/budgets"),
        ("GET", "/v1/auth/introspect"),
    ):
        status, body = ask(method, path, "cyc_live_nobody")
        assert (status, body["error"]) == (401, "UNAUTHORIZED"), path


def test_a_balance_names_its_leaf_and_its_path(ask: Ask, new_key: Callable[..., str]) -> None:
    """Row 19: `scope` is the last segment, `scope_path` the whole."""
    _, body = ask("GET", "/v1/balances?agent=bot", new_key())
    [balance] = body["balances"]
    assert (balance["scope"], balance["scope_path"]) == ("agent:bot", "tenant:acme/agent:bot")


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({}, 200, None),
        ({"permissions": ["reservations:commit"]}, 403, "reservations:create"),
        ({"permissions": ["admin:read"]}, 403, "reservations:create"),
        ({"permissions": ["admin:write"]}, 200, None),
        ({"scope_filter": ["agent:bot"]}, 200, None),
        ({"scope_filter": ["agent:other"]}, 403, "scope filter"),
    ],
    ids=str,
)
def test_permissions_and_filters_hold_on_the_runtime_plane(
    ask: Ask, new_key: Callable[..., str], fields: dict[str, Any], status: int, said: str | None
) -> None:
    """Row 20: a key may do what it was given, within its scope filter."""
    key = new_key(**fields)
    found, body = ask("POST", "/v1/reservations", key, idempotency_key=quote(key), **RESERVE)
    assert (found, said is None or said in body["message"]) == (status, True), body
