"""A file that was embedded is the ledger of a server, at once or later, and stays whole."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bursar
from bursar import CyclesClient, CyclesConfig
from bursar.ledger.audit import audit
from bursar.storage.sqlite.store import SqliteStore
from conftest import Served

STEPS, COST = 40, 10
PROGRAM = f"""
import sys
from bursar import CyclesClient
with CyclesClient.embedded("ledger.db", agent=sys.argv[1]) as client:
    for _ in range({STEPS}):
        client.reserve(estimate=20, unit="TOKENS").commit({COST})
"""


def admin(served: Served, path: str, **body: object) -> Any:
    headers = {"X-Admin-API-Key": served.admin_key}
    request = urllib.request.Request(served.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_program_moves_to_a_server_by_one_line(
    tmp_path: Path, serve: Callable[[Path], Served]
) -> None:
    """Two programs embed the file while a server serves it; not one commit is lost or doubled."""
    with CyclesClient.embedded(tmp_path / "ledger.db", agent="first") as embedded:
        embedded.create_budget("10k tokens")
        embedded.reserve(estimate=20, unit="TOKENS").commit(COST)
    served = serve(tmp_path)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, agent],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(bursar.__file__).parents[1])},
        )
        for agent in ("second", "third")
    ]
    key = admin(served, "/v1/admin/api-keys", tenant_id="default", name="moved")["key_secret"]
    config = CyclesConfig(
        served.url, key, tenant="default", agent="fourth", journal_dir=str(tmp_path / "journal")
    )
    with CyclesClient(config) as remote:
        for _ in range(STEPS):
            remote.reserve(estimate=20, unit="TOKENS").commit(COST)
        assert [program.wait(60) for program in programs] == [0, 0]
        (balance,) = remote.typed.iter_balances(tenant="default")
    assert (balance.spent.amount, balance.reserved.amount) == (COST * (3 * STEPS + 1), 0)
    store = SqliteStore.open(tmp_path / "ledger.db")
    try:
        assert audit(store.reader).findings == ()
    finally:
        store.close()


def test_a_tenant_of_a_server_is_embedded_under_the_name_it_has(
    tmp_path: Path, serve: Callable[[Path], Served]
) -> None:
    """Whoever embeds a server's file spends from the budgets that its operator has made."""
    served = serve(tmp_path)
    admin(served, "/v1/admin/tenants", tenant_id="acme", name="Acme Inc.")
    budget: dict[str, Any] = {"unit": "TOKENS", "allocated": {"unit": "TOKENS", "amount": 100}}
    admin(served, "/v1/admin/budgets", tenant_id="acme", scope="tenant:acme", **budget)
    for _ in range(2):
        with CyclesClient.embedded(tmp_path / "ledger.db", tenant="acme") as embedded:
            embedded.reserve(estimate=20, unit="TOKENS").commit(COST)
            (balance,) = embedded.typed.iter_balances(tenant="acme")
    assert balance.spent.amount == 2 * COST
