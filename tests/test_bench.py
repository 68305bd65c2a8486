"""The benchmark works and reports what its documentation says; how fast is not tested."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
RUN_WITHIN_S = 120
MACHINE = {"cores", "system", "python", "sqlite", "bursar", "flush_p50_ms"}
FIGURE = {
    *("name", "budget", "clients", "requests", "errors", "requests_per_s"),
    *("p50_ms", "p99_ms", "client_cpu", "ratio"),
}
STORED = {
    *("reservations", "fill_s", "requests_per_s", "ratio", "errors", "start_up_ms"),
    *("start_up_new_ms", "memory_bytes", "file_bytes"),
}
LIVE = {"guards", "memory_bytes", "beats", "without_beat", "late", "latest_ms"}
SDK = {"guard", "import", "import_and_client", "live", "journal"}
AGENT = {"turn", "watched_turn", "model_turn", "async_cancel", "sync_cancel", "loops"}

PAYMENTS = {
    *("open", "closed", "fill_s", "claim", "start_up", "scrape", "missed"),
    *("visited_s", "visited_open_only_s", "visited_ratio"),
    *("file_bytes", "file_open_only_bytes"),
}
PAYMENTS_E2E = {
    *("payments", "seed", "with_mishap", "verdicts", "wrong_verdicts", "paid_twice"),
    *("settles_most", "orphans", "orphans_found", "orphans_made_up", "orphans_told"),
    *("after_finality_s", "played_s", "payments_per_s", "decided_s", "decisions_per_s"),
}


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "run.py"), *options],
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )


def test_bench_reports(tmp_path: Path) -> None:
    """A short run measures every case, finds the ledger balanced, and leaves nothing behind."""
    process = run("--quick", "--seconds", "0.1", "--json", "--folder", str(tmp_path))
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout)
    parts = {"machine", "plan", "figures", "stored", "sdk", "agent", "payments", "aims"}
    parts |= {"ledger", "errors"}
    assert document.keys() == parts
    assert document["machine"].keys() == MACHINE
    asked = {"seconds": 0.1, "rounds": 1, "stored": 10_000, "clients": [1, 50], "guards": 1_000}
    assert document["plan"] == asked
    http = [
        *[("http fixed answer", "shared")],
        *[("http reserve", "shared"), ("http reserve", "leaves")],
        *[("http reserve+commit", "shared"), ("http reserve+commit", "leaves")],
    ]
    measured = [(*case, clients) for clients in (1, 50) for case in http]
    measured += [("embedded reserve+commit", "shared", clients) for clients in (1, 50)]
    rows = document["figures"]
    assert [(row["name"], row["budget"], row["clients"]) for row in rows] == measured
    for row in rows:
        assert row.keys() == FIGURE
        assert row["errors"] == 0
        assert row["requests"] >= row["clients"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert [row["ratio"] for row in rows if row["name"] == "http fixed answer"] == [1.0, 1.0]
    assert document["ledger"]["findings"] == []
    written = sum(row["requests"] for row in rows if row["name"] != "http fixed answer")
    assert document["ledger"]["entries"] > written
    assert document["stored"].keys() == STORED
    assert document["stored"]["reservations"] == 10_000
    check_sdk(document["sdk"])
    check_agent(document["agent"])
    check_payments(document["payments"])
    assert len(document["aims"]) == 20
    assert document["errors"] == 0
    assert list(tmp_path.iterdir()) == []


def check_sdk(sdk: dict[str, Any]) -> None:
    """Every figure of the SDK is there, and each live guard was kept alive."""
    assert sdk.keys() == SDK
    assert sdk["guard"].keys() == {"journal_off", "journal_on"}
    for kinds in sdk["guard"].values():
        assert kinds.keys() == {"sync", "async"}
        for took in kinds.values():
            assert took.keys() == {"bursar", "runcycles", "ratio"}
            for one in (took["bursar"], took["runcycles"]):
                assert 0 < one["min_us"] <= one["median_us"]
    for times in (sdk["import"], sdk["import_and_client"]):
        assert times.keys() == {"bursar_ms", "runcycles_ms", "ratio"}
        assert min(times.values()) > 0
    live, journal = sdk["live"], sdk["journal"]
    assert live.keys() == LIVE
    assert (live["guards"], live["without_beat"]) == (1_000, 0)
    assert live["beats"] >= 1_000
    assert live["memory_bytes"] > 0
    assert journal.keys() == {"writes_per_s", "write_p50_ms", "flush_p50_ms"}
    assert journal["write_p50_ms"] > journal["flush_p50_ms"] > 0


def check_agent(agent: dict[str, Any]) -> None:
    """Every figure of the turn loop is there, and each loop completed."""
    assert agent.keys() == AGENT
    for name in ("turn", "watched_turn", "model_turn"):
        assert agent[name].keys() == {"min_us", "median_us", "floor_us", "ratio"}
        assert 0 < agent[name]["min_us"] <= agent[name]["median_us"]
        assert min(agent[name].values()) > 0
    for name in ("async_cancel", "sync_cancel"):
        assert 0 < agent[name]["p50_ms"] <= agent[name]["p99_ms"]
        assert 0 < agent[name]["floor_p50_ms"] <= agent[name]["floor_p99_ms"]
        assert agent[name]["ratio"] > 0
    loops = agent["loops"]
    assert min(loops["turns_per_s"], loops["floor_s"], loops["ratio"]) > 0
    assert (loops["loops"], loops["failed"], loops["turns"]) == (1_000, 0, 5_000)


def check_payments(payments: dict[str, Any]) -> None:
    """Every figure of payments is there, and none that was due was missed."""
    assert payments.keys() == PAYMENTS
    assert (payments["open"], payments["closed"], payments["missed"]) == (500, 5_000, 0)
    for name in ("claim", "start_up", "scrape"):
        assert payments[name].keys() == {"ms", "open_only_ms", "ratio"}
        assert min(payments[name].values()) > 0
    assert payments["file_bytes"] > payments["file_open_only_bytes"] > 0


def test_payments_on_a_chain_are_judged() -> None:
    """A few payments with mishaps: every promise is kept, and each figure is there."""
    process = subprocess.run(
        [sys.executable, str(BENCH / "payments_e2e.py"), "--payments", "15", "--json"],
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )
    found = json.loads(process.stdout)
    if "missing" in found:
        assert process.returncode == 2
        pytest.skip(found["missing"])
    assert process.returncode == 0, process.stdout + process.stderr
    assert found.keys() == PAYMENTS_E2E
    assert (found["payments"], sum(found["verdicts"].values())) == (15, 15)
    assert found["wrong_verdicts"] == found["paid_twice"] == found["orphans_made_up"] == 0
    assert found["orphans"] == found["orphans_found"] == found["orphans_told"] > 0
    assert found["after_finality_s"].keys() == {"p50", "p90", "max"}


def test_bench_prints_a_table(tmp_path: Path) -> None:
    """The table says of each aim whether it is reached, and what the audit found."""
    process = run("--quick", "--seconds", "0.1", "--folder", str(tmp_path))
    assert process.returncode == 0, process.stderr
    *_, audited = process.stdout.splitlines()
    assert audited.startswith("0 requests failed; the ledger has ")
    assert audited.endswith("it balances")
    verdicts = [line.split()[-1] for line in process.stdout.splitlines() if " >= " in line]
    assert len(verdicts) == 3
    assert "1,000 live guards: " in process.stdout
    assert set(verdicts) <= {"reached", "MISSED"}


def test_a_part_alone(tmp_path: Path) -> None:
    """Whoever works on one part measures that one, with its aims."""
    process = run("--quick", "--only", "agent", "--json", "--folder", str(tmp_path))
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout)
    assert document.keys() == {"machine", "plan", "agent", "aims", "errors"}
    check_agent(document["agent"])
    assert len(document["aims"]) == 5
    shown = run("--quick", "--only", "agent", "--folder", str(tmp_path)).stdout.splitlines()
    verdicts = [line.split()[-1] for line in shown if " <= " in line]
    assert len(verdicts) == 5
    assert set(verdicts) <= {"reached", "MISSED"}
    assert any(line.startswith("under a deadline") for line in shown)
    refused = run("--only", "everything")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "choose from" in refused.stderr


@pytest.mark.parametrize("seconds", ["0", "5.1", "soon"])
def test_bench_is_bounded(seconds: str) -> None:
    """A run cannot be asked to take long, or no time at all."""
    process = run("--seconds", seconds)
    assert (process.returncode, process.stdout) == (2, "")
    assert "--seconds" in process.stderr
