"""`bursar audit verify`: what is altered is found and named, whoever altered it."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from bursar.cli.exits import EXIT_FAILED, EXIT_STORE, EXIT_USAGE
from cli.copies.running import bursar, document, refused
from e2e.accounts import open_account
from e2e.servers import Servers

# What somebody with the file and a SQL prompt may do, and what is said of it.
TAMPERING = {
    "a balance": (
        "UPDATE budget SET spent = spent - 1",
        "allocated = remaining + spent + reserved + debt",
    ),
    "a balance that still adds up": (
        "UPDATE budget SET spent = spent - 1, remaining = remaining + 1",
        "but the log says",
    ),
    "a hold": (
        "UPDATE reservation SET estimate_amount = estimate_amount + 1 WHERE status = 'ACTIVE'",
        "but the active reservations hold",
    ),
    "an entry": (
        "UPDATE entry SET body = replace(body, '7', '8') WHERE seq = 9",
        "entry 9 was altered",
    ),
    "an entry in the middle, deleted": (
        "DELETE FROM entry WHERE seq = 9",
        "entries between them are missing",
    ),
    "the last entry, deleted": (
        "DELETE FROM entry WHERE seq = (SELECT max(seq) FROM entry)",
        "its head says",
    ),
    "the last entry, deleted, and the head moved": (
        "DELETE FROM entry WHERE seq = (SELECT max(seq) FROM entry);"
        "UPDATE head SET (seq, entry_hash, at_ms) ="
        " (SELECT seq, entry_hash, at_ms FROM entry ORDER BY seq DESC LIMIT 1)",
        "but the log says",
    ),
    "two entries, swapped": (
        "UPDATE entry SET seq = -1 WHERE seq = 8; UPDATE entry SET seq = 8 WHERE seq = 9;"
        "UPDATE entry SET seq = 9 WHERE seq = -1",
        "entry 8 does not continue the hash of entry 7",
    ),
    "a tenant, made up": (
        "INSERT INTO tenant SELECT 'ghost', name, status, created_at_ms, updated_at_ms,"
        " suspended_at_ms, closed_at_ms, parent_tenant_id, overage_policy, ttl_default_ms,"
        " ttl_max_ms, extensions_max, expiry_policy, metadata FROM tenant",
        "ghost is stored, but the log never made it",
    ),
}


def altered(good: Path, folder: Path, sql: str) -> Path:
    path = folder / "ledger.db"
    shutil.copyfile(good, path)
    database = sqlite3.connect(path)
    before = database.total_changes
    database.executescript(sql)
    assert database.total_changes > before
    database.commit()
    database.close()
    return path


def test_a_whole_ledger_has_no_findings_and_is_not_touched(good: Path, tmp_path: Path) -> None:
    """Not even a folder that cannot be written to is in the way."""
    path = tmp_path / "ledger.db"
    shutil.copyfile(good, path)
    path.chmod(0o400)
    said = document(bursar("audit", "verify", path, "--json"))
    assert said["ok"]
    assert said["heads"]["acme"]["seq"] == said["entries"] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.db"]


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found_and_named(good: Path, tmp_path: Path, what: str) -> None:
    sql, expected = TAMPERING[what]
    path = altered(good, tmp_path, sql)
    ran = bursar("audit", "verify", path, "--json", "--save-heads", tmp_path / "heads.json")
    assert ran.returncode == EXIT_FAILED
    assert any(expected in finding for finding in document(ran)["findings"])
    assert not (tmp_path / "heads.json").exists(), "the heads of a bad ledger are worth nothing"
    shown = bursar("audit", "verify", path)
    assert shown.returncode == EXIT_FAILED
    assert expected.split()[0] in shown.stdout


def test_a_log_cut_back_to_an_older_whole_state_needs_noted_heads(
    servers: Servers, tmp_path: Path
) -> None:
    """A server is asked for a backup, and judged here; then its file goes back a day."""
    server = servers.start()
    first = open_account(server, {"": 10})
    old, heads = tmp_path / "old.db", tmp_path / "heads.json"
    assert bursar("backup", old, server=server).returncode == 0
    with server.operator() as operator:
        operator.post("/v1/admin/api-keys", {"tenant_id": first.tenant, "name": "one more"})
    ran = bursar("audit", "verify", "--save-heads", heads, "--json", server=server)
    assert document(ran)["ok"]
    assert json.loads(heads.read_text())["heads"][first.tenant]["seq"] == 4
    assert document(bursar("audit", "verify", old, "--json"))["ok"]
    ran = bursar("audit", "verify", old, "--heads", heads, "--json")
    assert ran.returncode == EXIT_FAILED
    assert document(ran)["findings"] == [
        f"log of tenant {first.tenant}: ends at entry 3, but entry 4 was noted; missing: 1"
    ]
    open_account(server, {"": 10})
    again = bursar("audit", "verify", "--heads", heads, "--json", server=server)
    assert document(again)["ok"], "what came later is not missing"
    assert document(bursar("audit", "verify", server.store, "--heads", heads, "--json"))["ok"]


def test_a_rewritten_log_does_not_have_the_noted_hash(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    shutil.copyfile(good, path)
    heads = tmp_path / "heads.json"
    assert bursar("audit", "verify", path, "--save-heads", heads).returncode == 0
    note = json.loads(heads.read_text())
    note["heads"]["acme"] = {"seq": 5, "hash": "0" * 64}
    heads.write_text(json.dumps(note))
    ran = bursar("audit", "verify", path, "--heads", heads, "--json")
    assert document(ran)["findings"] == [
        "log of tenant acme: entry 5 is not the one that was noted"
    ]
    note["ledger"] = "another"
    heads.write_text(json.dumps(note))
    ran = bursar("audit", "verify", path, "--heads", heads, "--json")
    assert "were noted of ledger another" in document(ran)["findings"][0]


def test_what_cannot_be_read_is_said(tmp_path: Path, good: Path) -> None:
    refused(bursar("audit", "verify", tmp_path / "no.db"), EXIT_STORE)
    (tmp_path / "noise.json").write_text("{}")
    refused(bursar("audit", "verify", good, "--heads", tmp_path / "noise.json"), EXIT_USAGE)
