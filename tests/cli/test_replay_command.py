"""`bursar replay` as people type it: what it prints, and the code that it exits with."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.__main__ import main
from bursar.cli.replay import command
from bursar.ledger import audit as auditing
from bursar.ledger.audit import audit
from bursar.ledger.ports import StoreError
from bursar.storage.sqlite.store import SqliteStore

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
# 900,000 microcents estimated and 600,000 spent each, with gpt-4 and --max-output 100.
ROWS = "".join(
    f"2023-11-16 18:17:{second},100,50\n" for second in ("00.0", "00.1", "00.2", "01.2", "01.3")
)
PRICED = ("--model", "gpt-4", "--max-output", "100", "--prices-on", "2026-01-01")


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Work in a new directory that holds a trace of five rows, and return the trace's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.csv").write_text(HEADER + ROWS)
    return "trace.csv"


class Ran:
    """One run of the command, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", ["bursar", "replay", *words])
            # cyclopts warns of an app that reads `sys.argv` in a test; here that is the test.
            warnings.filterwarnings("ignore", "Cyclopts application invoked", UserWarning)
            with pytest.raises(SystemExit) as left:
                main()
        self.code = left.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "timing"}


def test_json_by_hand(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole object, value by value: its keys are a promise."""
    ran = Ran(capsys, trace, "--budget", "0.021USD", *PRICED, "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    timing = document.pop("timing")
    source = document["model"].pop("source")
    message = document["first_denial"].pop("message")
    assert document == {
        "trace": {
            "file": "trace.csv",
            "rows": 5,
            "first": "2023-11-16 18:17:00.0000000",
            "last": "2023-11-16 18:17:01.3000000",
            "span_s": 1,
            "out_of_order": 0,
            "bad_rows": 0,
            "problems": [],
        },
        "unit": "USD_MICROCENTS",
        "model": {
            "name": "gpt-4",
            "provider": "openai",
            "price": "$30/input MTok, $60/output MTok",
            "prices_on": "2026-01-01",
            "rounding": "UP, each amount to a whole microcent",
        },
        "assumptions": {
            "max_output_tokens": 100,
            "first_token_ms": 200,
            "ms_per_token": 20.0,
            "overage_policy": "ALLOW_IF_AVAILABLE",
        },
        "interrupted": False,
        "requests": 5,
        "allowed": 3,
        "denied": 2,
        "denied_by_reason": {"BUDGET_EXCEEDED": 2},
        "in_flight": 0,
        "budget_microcents": 2_100_000,
        "spent_microcents": 1_800_000,
        "held_microcents": 0,
        "unlimited_microcents": 3_000_000,
        "uncharged_microcents": 0,
        "held_peak_microcents": 1_800_000,
        "held_peak_at": "2023-11-16 18:17:00.1000000",
        "running_peak": 2,
        "over_estimate": 0,
        "first_denial": {
            "row": 3,
            "line": 4,
            "at": "2023-11-16 18:17:00.2000000",
            "reason": "BUDGET_EXCEEDED",
            "estimate_microcents": 900_000,
            "spent_microcents": 0,
            "held_microcents": 1_800_000,
        },
        "cost_per_minute": [
            {
                "minute": "2023-11-16 18:17",
                "spent_microcents": 1_800_000,
                "committed": 3,
                "denied": 2,
            }
        ],
        "audit": {"ok": True, "entries": 8, "findings": []},
    }
    assert source.startswith("genai-prices ")
    assert "300000 USD_MICROCENTS remaining, 900000 requested" in message
    assert timing.pop("speedup") == "max"
    assert set(timing) == {"read_s", "replay_s", "audit_s", "total_s", "requests_per_s"}
    assert all(value >= 0 for value in timing.values())


def test_same_twice_and_at_any_speed(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Only `timing` differs between two runs, and between full speed and a pace."""
    words = (trace, "--budget", "0.021USD", *PRICED, "--json")
    first, second, paced = (
        Ran(capsys, *words, *more).document for more in ((), (), ("--speedup", "1000"))
    )
    assert untimed(first) == untimed(second) == untimed(paced)
    assert paced["timing"]["speedup"] == 1000


def test_budget_in_tokens_needs_no_model(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Input and output tokens are counted, and keys carry no currency."""
    for words in (
        ("--budget", "399tokens"),
        ("--budget", "399 tokens", "--unit", "TOKENS"),
        ("--budget", "399", "--unit", "tokens"),
        ("--budget", "0.399ktokens"),
    ):
        document = Ran(capsys, trace, *words, "--max-output", "100", "--json").document
        assert (document["unit"], document["model"]) == ("TOKENS", None)
        assert (document["budget"], document["spent"], document["denied"]) == (399, 300, 3)


def test_tables_for_people(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `--json` the report is text on standard output; a log gets no colours."""
    ran = Ran(capsys, trace, "--budget", "0.021USD", *PRICED)
    assert ran.code == 0
    assert "5: 3 allowed, 2 denied (BUDGET_EXCEEDED 2)" in ran.out
    assert "cost per minute" in ran.out
    assert "balanced: allocated = remaining + spent + reserved + debt, nothing held" in ran.out
    assert "\x1b" not in ran.out


REFUSED = {
    ("--budget", "20USD"): "--model is missing: name the model whose price applies",
    ("--budget", "20"): "--budget: '20' has no unit; write it like 20USD",
    ("--budget", "twenty"): "--budget: cannot read 'twenty' as an amount",
    ("--budget", "5credits"): "--budget '5credits' is in CREDITS, which a trace does not tell",
    ("--budget", "-1USD", *PRICED): "--budget: '-1USD' is negative, and an amount is at least 0; "
    "write it like 20USD",
    ("--budget", "5", "--unit", "RISK_POINTS"): "is in RISK_POINTS, which a trace does not tell",
    ("--budget", "5Mtokens", "--unit", "USD"): "--budget '5Mtokens' is in TOKENS, but --unit is "
    "USD_MICROCENTS; leave --unit out",
    ("--budget", "1USD", "--unit", "TOKENS"): "--budget '1USD' is in USD_MICROCENTS, but --unit",
    ("--budget", "1USD", "--unit", "EUR"): "--unit must be USD_MICROCENTS or TOKENS, not 'EUR'",
    ("--budget", "1USD", "--model", "gpt-4oo", "--provider", "openai"): "did you mean gpt-4o",
    ("--budget", "1USD", "--model", "gpt-4", "--provider", "opnai"): "did you mean openai?",
    ("--budget", "1USD", *PRICED, "--max-output", "0"): "--max-output must be from 1 to",
    ("--budget", "1USD", *PRICED, "--ms-per-token", "-1"): "--ms-per-token must be from 0 to",
    ("--budget", "1USD", *PRICED, "--ms-per-token", "nan"): "--ms-per-token must be from 0 to",
    ("--budget", "1USD", *PRICED, "--speedup", "0"): "--speedup must be max or a number above 0",
    ("--budget", "1USD", *PRICED, "--speedup", "inf"): "--speedup must be max or a number above",
    ("--budget", "1USD", *PRICED, "--speedup", "fast"): "--speedup must be max or a number above",
    ("--budget", "1USD", "--model", "o3", "--prices-on", "soon"): "--prices-on must be a day like",
    (
        "--budget",
        "1USD",
        *PRICED,
        "--store",
        "trace.csv",
    ): "--store: trace.csv exists; a replay starts",
    ("--budget", "1USD", *PRICED, "--store", "sqlite:///no/l.db"): "no is not a directory",
    ("--budget", "1USD", *PRICED, "--store", "postgres://h/d"): "--store must be sqlite:///FILE",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_bad_options_are_refused(
    trace: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """A wrong option is named with its fix; the code is 2 and nothing is printed or made."""
    ran = Ran(capsys, trace, *_last_wins(words))
    assert (ran.code, ran.out) == (2, "")
    assert REFUSED[words] in ran.err
    assert "Traceback" not in ran.err
    assert [path.name for path in Path().iterdir()] == ["trace.csv"]


def _last_wins(words: tuple[str, ...]) -> list[str]:
    """Drop an option that is given again later: repeating one is an error of its own."""
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    return [word for pair in pairs.items() for word in pair]


def test_options_of_the_wrong_type_are_refused(
    trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not a number, an unknown option and a missing budget end with code 2 as well."""
    for words in (
        ("--budget", "1USD", "--max-output", "many"),
        ("--budget", "1USD", "--max-outputs", "5"),
        (),
    ):
        ran = Ran(capsys, trace, *words)
        assert (ran.code, ran.out) == (2, "")


def test_bad_rows_stop_the_replay(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has file, line, column and reason; the code is 2 and nothing is replayed."""
    Path(trace).write_text(f"{HEADER}{ROWS}2023-11-16 18:17:05,abc,1\n{ROWS}")
    ran = Ran(capsys, trace, "--budget", "1USD", *PRICED, "--store", "kept.db")
    assert (ran.code, ran.out) == (2, "")
    assert (
        "trace.csv:7:2 ContextTokens: expected a whole number of at least 0, got 'abc'\n"
        "Correct them, or leave them out with --skip-bad." in ran.err
    )
    assert not Path("kept.db").exists()


def test_bad_rows_are_skipped_and_counted(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--skip-bad` the rest is replayed, and the report names what was left out."""
    Path(trace).write_text(HEADER + "x,1,1\n" * 6 + ROWS + "2023-11-16 18:17:05,-4,1\n")
    words = (trace, "--budget", "1USD", *PRICED, "--skip-bad")
    ran = Ran(capsys, *words, "--json")
    assert ran.code == 0
    assert (ran.document["requests"], ran.document["trace"]["bad_rows"]) == (5, 7)
    assert len(ran.document["trace"]["problems"]) == 5
    shown = Ran(capsys, *words).out
    assert "7 bad rows" in shown
    assert "trace.csv:2:1 TIMESTAMP: expected a time like" in shown
    assert "and 2 more" in shown


def test_missing_file(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is one line and code 2."""
    ran = Ran(capsys, "none.csv", "--budget", "1Mtokens")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.strip().endswith("none.csv: cannot be read: No such file or directory")


def test_ledger_is_kept_on_request(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--store` the ledger stays, sound and complete; a second run needs another file."""
    words = (trace, "--budget", "0.021USD", *PRICED, "--store", "sqlite:///kept.db")
    assert Ran(capsys, *words).code == 0
    store = SqliteStore.open(Path("kept.db"))
    report = audit(store.reader)
    store.close()
    assert (report.findings, report.entries) == ((), 8)
    assert Ran(capsys, *words).code == 2


def test_ledger_is_deleted_otherwise(
    trace: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A replay leaves nothing behind."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert Ran(capsys, trace, "--budget", "1USD", *PRICED).code == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_failed_audit_is_code_1(
    trace: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that is not sound is told loudly."""
    found = auditing.Report(1, 1, 8, ("the sum is off",))
    monkeypatch.setattr(auditing, "audit", lambda reader: found)
    ran = Ran(capsys, trace, "--budget", "1USD", *PRICED)
    assert ran.code == 1
    assert "the ledger failed its audit:\n  the sum is off" in ran.out
    ran = Ran(capsys, trace, "--budget", "1USD", *PRICED, "--json")
    assert ran.code == 1
    assert ran.document["audit"] == {"ok": False, "entries": 8, "findings": ["the sum is off"]}


def test_store_that_fails_is_one_line(
    trace: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails half way is a message and a code of its own, not a traceback."""

    def fail(*args: object) -> None:
        raise StoreError("the disk is on fire")

    monkeypatch.setattr(SqliteStore, "transact", fail)
    ran = Ran(capsys, trace, "--budget", "1USD", *PRICED)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "bursar: the replay stopped: the disk is on fire\n"


def test_ctrl_c_reports_what_was_replayed(tmp_path: Path) -> None:
    """Interrupted in the middle, it prints the totals so far and exits with 130."""
    rows = "".join(
        f"2023-11-16 18:{minute:02}:{second:02},100,50\n"
        for minute in range(60)
        for second in range(60)
    )
    (tmp_path / "trace.csv").write_text(HEADER + rows)
    words = ["replay", "trace.csv", "--budget", "1Mtokens", "--speedup", "20"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bursar.cli", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("replaying: ")  # it is in the middle now
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "interrupted, " in out
    assert "balanced: " in out
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["code", "conv"])
def test_recorded_traffic(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first 2,000 rows of a published trace replay and end in a balanced ledger."""
    whole = SHARED / f"AzureLLMInferenceTrace_{name}.csv"
    if not whole.exists():
        pytest.skip(f"the published trace is not there: {whole.name}")
    monkeypatch.chdir(tmp_path)
    with whole.open("rb") as source:
        Path("trace.csv").write_bytes(b"".join(source.readline() for _ in range(2_001)))
    document = Ran(capsys, "trace.csv", "--model", "gpt-4o", "--budget", "20USD", "--json").document
    assert document["requests"] == document["allowed"] == 2_000
    assert document["spent_microcents"] == document["unlimited_microcents"] > 0
    assert document["over_estimate"] == 0
    assert document["audit"] == {"ok": True, "entries": 4_002, "findings": []}


def test_default_output_limit_covers_the_published_traces() -> None:
    """No row of the published traces costs more than the default estimate."""
    paths = sorted(SHARED.glob("AzureLLMInferenceTrace_*.csv"))
    if not paths:
        pytest.skip("the published traces are not there")
    longest = max(
        int(line.rsplit(",", 1)[1]) for path in paths for line in path.read_text().splitlines()[1:]
    )
    assert longest == 1_899
    assert longest <= command.MAX_OUTPUT_TOKENS
