"""The benchmark works and reports what its documentation says; how fast is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
RUN_WITHIN_S = 120
MACHINE = {"cores", "system", "python", "sqlite", "bursar", "flush_p50_ms"}
FIGURE = {
    *("name", "clients", "requests", "errors", "requests_per_s"),
    *("p50_ms", "p99_ms", "client_cpu", "ratio"),
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
    process = run("--seconds", "0.1", "--json", "--folder", str(tmp_path))
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout)
    assert document.keys() == {"machine", "seconds", "figures", "ledger"}
    assert document["machine"].keys() == MACHINE
    assert document["seconds"] == 0.1
    assert [(row["name"], row["clients"]) for row in document["figures"]] == [
        (name, clients)
        for name in ("http fixed answer", "http reserve+commit", "embedded reserve+commit")
        for clients in (1, 10, 50)
    ]
    for row in document["figures"]:
        assert row.keys() == FIGURE
        assert row["errors"] == 0
        assert row["requests"] >= row["clients"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert {row["ratio"] for row in document["figures"][:3]} == {1.0}
    assert document["ledger"]["findings"] == []
    assert document["ledger"]["entries"] > sum(row["requests"] for row in document["figures"][3:])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "5.1", "soon"])
def test_bench_is_bounded(seconds: str) -> None:
    """A run cannot be asked to take long, or no time at all."""
    process = run("--seconds", seconds)
    assert (process.returncode, process.stdout) == (2, "")
    assert "--seconds" in process.stderr
