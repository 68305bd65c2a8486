"""The report shows what the document says, on a terminal, in a log and in a narrow window."""

import io
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from bursar.authority.render import render
from bursar.cli.replay import report
from bursar.cli.replay.chart import HEIGHT, busiest, chart
from bursar.cli.replay.pricing import ModelTariff, TokenTariff, priced
from bursar.cli.replay.progress import lines, progress
from bursar.cli.replay.show import show
from bursar.cli.replay.simulate import Replay, ServiceTime, VirtualClock
from bursar.cli.replay.tally import Minute, Tally
from bursar.cli.replay.trace import Problem, Row, Trace
from bursar.integrations.genai_prices import ListPrice
from bursar.ledger.service import Ledger
from bursar.testing.memory import MemoryStore
from bursar.vocabulary import Unit

START_MINUTE = 28_335_977  # 2023-11-16 18:17 UTC


def minutes(*spent: int, denied: tuple[int, ...] = ()) -> dict[int, Minute]:
    return {
        START_MINUTE + at: Minute(amount, 1, int(at in denied)) for at, amount in enumerate(spent)
    }


def test_chart_by_hand() -> None:
    """The dearest minute fills the height, half of it half, and the smallest cost still shows."""
    drawn = chart(minutes(64, 32, 1, 0, 9, denied=(1, 4)), 80)
    assert drawn is not None
    assert drawn.title == "cost per minute"
    assert list(drawn.bars) == ["█", "█", "█", "█", "██", "██", "██  ▁", "██▁ █"]
    assert drawn.denied == " x  x"
    assert drawn.axis == "18:17 to 18:21"
    assert busiest(minutes(64, 64, 1)) == ("2023-11-16 18:17", 64)


def test_chart_without_unicode() -> None:
    """A terminal without Unicode gets the same columns in ASCII."""
    drawn = chart(minutes(64, 32, 1), 80, ascii_only=True)
    assert drawn is not None
    assert all(line.isascii() for line in drawn.bars)
    assert list(drawn.bars)[4:] == ["##", "##", "##", "##."]


def test_chart_axis_has_both_ends() -> None:
    """Where there is room, the first and last minute stand under their columns."""
    drawn = chart(minutes(*range(1, 59)), 80)
    assert drawn is not None
    assert drawn.axis == "18:17" + " " * 48 + "19:14"
    assert max(map(len, drawn.bars)) == 58


@pytest.mark.parametrize("width", [1, 20, 40, 79])
def test_chart_fits_its_width(width: int) -> None:
    """A long trace shares columns, says so, and shows the days."""
    drawn = chart(minutes(*[5] * 10_000), width)
    assert drawn is not None
    assert "each column is" in drawn.title
    assert max(map(len, drawn.bars)) <= max(width, 20)
    assert len(drawn.bars) == HEIGHT
    assert "2023-11-16 18:17" in drawn.axis
    assert "2023-11-23 16:56" in drawn.axis


def test_chart_of_centuries_is_small() -> None:
    """Two requests a lifetime apart make a chart, not a memory problem."""
    drawn = chart({0: Minute(5, 1, 0), 4_000_000_000: Minute(5, 1, 0)}, 80)
    assert drawn is not None
    assert max(map(len, drawn.bars)) == 80


def test_chart_of_nothing() -> None:
    """Without a minute there is no chart; with denials only, no bars."""
    assert chart({}, 80) is None
    assert busiest({}) is None
    drawn = chart(minutes(0, 0, denied=(0, 1)), 80)
    assert drawn is not None
    assert (list(drawn.bars), drawn.denied) == ([], "xx")


# --- the whole report -------------------------------------------------------------------------


def replayed(
    budget: int, *, max_output: int = 100, interrupt: bool = False
) -> tuple[dict[str, Any], str]:
    """Replay four rows of gpt-4 and return the document and what a plain console shows."""
    start = START_MINUTE * 600_000_000
    rows = [Row(at, at + 1, start + at * 20_000_000, 100, 50) for at in range(1, 5)]
    trace = Trace("t[red].csv", rows, 7, [Problem("t[red].csv", 9, 2, "no")], 1)
    tariff = ModelTariff(ListPrice("gpt-4", None, date(2026, 1, 1)))
    requests = priced(trace, tariff, max_output, lambda done: None)
    store, clock = MemoryStore(), VirtualClock()
    unit = Unit.USD_MICROCENTS
    left = [1]

    def due(ticks: int) -> bool:
        left[0] -= 1
        return not interrupt or left[0] >= 0

    tally = Replay(Ledger(store, clock, render), clock, unit, budget, "gpt-4").run(
        requests, ServiceTime(Decimal(20)), due=due
    )
    terms = report.Terms(unit, budget, max_output, 20.0, None)
    closing = report.close(store.reader, tally, unit)
    document = report.document(trace, tariff, terms, tally, closing, report.Timing(0.5, 2.0, 0.25))
    shown = io.StringIO()
    show(document, tally.minutes, Console(file=shown, width=100))
    return document, shown.getvalue()


def test_report_for_people() -> None:
    """Every fact is there, exact, without colour codes, in a plain log."""
    document, shown = replayed(2_100_000)
    assert document["spent_microcents"] == 1_800_000
    for fact in (
        "t[red].csv: 4 rows, 0 min 6 s from 2023-11-16 18:17:02.0000000; 1 row out of order, "
        "sorted in",
        "7 bad rows\n               t[red].csv:9:2 ContextTokens: no\n               and 6 more",
        "gpt-4 of openai, $30/input MTok, $60/output MTok (genai-prices ",
        "prices of 2026-01-01",
        "rounded UP",
        "at most 100 output tokens; a request runs 200 ms and 20 ms per generated token",
        "4: 3 allowed, 1 denied (BUDGET_EXCEEDED 1)",
        "$0.018 of $0.021",
        "$0.024, had nothing been denied",
        "$0.009 at 2023-11-16 18:17:02.0000000",
        "1 request at peak",
        "row 4 (line 5) at 2023-11-16 18:17:08.0000000, BUDGET_EXCEEDED: $0.009 asked, $0.018 "
        "spent",
        "cost per minute; most in 2023-11-16 18:17: $0.018",
        "balanced: allocated = remaining + spent + reserved + debt, nothing held, 8 log entries",
        "replayed in 2.00 s (2 requests/s, each reserved and settled), 2.75 s in all",
    ):
        assert " ".join(fact.split()) in " ".join(shown.split()), fact
    assert "\x1b" not in shown
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_report_of_overage() -> None:
    """What cost more than its estimate is counted, and what could not be charged is named."""
    document, shown = replayed(500_000, max_output=10)
    assert (document["over_estimate"], document["uncharged_microcents"]) == (1, 100_000)
    assert "1 request cost more than estimated; $0.001 of that was not charged" in shown
    assert document["denied_by_reason"] == {"OVERDRAFT_LIMIT_EXCEEDED": 3}


def test_report_of_an_interrupted_replay() -> None:
    """It says that it was interrupted, and what is still held."""
    document, shown = replayed(2_000_000, interrupt=True)
    assert (document["interrupted"], document["in_flight"]) == (True, 1)
    assert "1: 1 allowed, 0 denied; interrupted, 1 in flight" in shown
    assert "$0.009 held" in shown
    assert document["audit"]["ok"]


def test_report_of_a_failed_audit() -> None:
    """Findings are listed, and the word balanced is not used."""
    document, _ = replayed(2_000_000)
    document["audit"] = {"ok": False, "entries": 8, "findings": ["the sum [bold]is off"]}
    shown = io.StringIO()
    show(document, {}, Console(file=shown, width=100))
    assert "the ledger failed its audit:\n  the sum [bold]is off" in shown.getvalue()
    assert "balanced" not in shown.getvalue()


def test_tokens_have_bare_keys() -> None:
    """Only amounts in US dollars end in `_microcents`."""
    trace = Trace("t.csv", [Row(1, 2, 0, 1, 1)])
    document = report.document(
        trace,
        TokenTariff(),
        report.Terms(Unit.TOKENS, 5, 1, 20.0, 2.5),
        Tally(),
        report.Closing(0, []),
        report.Timing(0, 0, 0),
    )
    assert (document["budget"], document["spent"], document["model"]) == (5, 0, None)
    assert not any(key.endswith("_microcents") for key in document)
    assert document["timing"]["requests_per_s"] == 0.0
    assert document["timing"]["speedup"] == 2.5


# --- progress ---------------------------------------------------------------------------------


def test_progress_in_a_log_is_a_line_a_second() -> None:
    """However often it is told, a line is written once a second, with the rate so far."""
    now = [0.0]
    written: list[str] = []
    advance = lines("replaying", 4_000, written.append, lambda: now[0])
    for done, at in ((10, 0.1), (1_000, 1.0), (1_500, 1.9), (3_000, 2.0)):
        now[0] = at
        advance(done)
    assert written == [
        "replaying: 1,000 of 4,000 requests (1,000/s)",
        "replaying: 3,000 of 4,000 requests (1,500/s)",
    ]


def test_progress_beside_json_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """In a log beside `--json` nothing is written; standard output is the report's alone."""
    with progress("replaying", 10, quiet=True) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal it is drawn on standard error."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress("replaying", 10, quiet=False) as advance:
        advance(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert "replaying" in err
    assert "10/10" in err
