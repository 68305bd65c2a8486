"""What is shown: tables that fit, bars, times, and questions."""

import io
import sys
from typing import Any

import pytest

from bursar.cli.exits import EXIT_DECLINED, CommandError
from bursar.cli.remote.asking import confirm
from bursar.cli.remote.show import Column, Show, amount, field, printable, span, text_of
from bursar.cli.remote.usage import bar, used

COLUMNS = (
    Column("id", field("id")),
    Column("scope", field("scope"), fold=True),
    Column("left", field("left"), number=True),
    Column("made", field("made"), extra=True),
)
ROWS = [{"id": "i" * 20, "scope": "s" * 40, "left": 1_000, "made": "2026-11-21"}]


def shown(capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    document: dict[str, Any] = {"rows": ROWS, "has_more": False}
    Show(as_json=False, width=width).listing(document, ROWS, COLUMNS, "none")
    return capsys.readouterr().out.splitlines()


def test_wide_table_is_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is room nothing is folded, left out or followed by blanks."""
    lines = shown(capsys, 200)
    assert [line.split() for line in lines[::2]] == [
        ["id", "scope", "left", "made"],
        ["i" * 20, "s" * 40, "1000", "2026-11-21"],
    ]
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [80, 60, 50])
def test_narrow_table_drops_then_folds(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What is extra goes first; an id and a figure stay whole."""
    lines = shown(capsys, width)
    assert "made" not in lines[0]
    assert any("i" * 20 in line and "1000" in line for line in lines)
    assert "".join(lines).count("s") - 1 == 40  # the title has one, too
    assert max(map(len, lines)) <= width


def test_very_narrow_terminal_gets_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no table fits each row is a block that has everything."""
    lines = shown(capsys, 30)
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "id",
        "scope",
        "left",
        "made",
    ]
    assert max(map(len, lines)) <= 30


def test_server_cannot_steer_the_terminal() -> None:
    """Escape sequences are shown, not sent."""
    assert printable("a\x1b[2Jb\r\x07\u202e") == "a\\x1b[2Jb\\x0d\\x07\\x202e"


def test_bar() -> None:
    """A bar says how much is used; a debt is more than full, nothing allocated has none."""

    def row(allocated: int, remaining: int) -> dict[str, Any]:
        return {"allocated": {"amount": allocated}, "remaining": {"amount": remaining}}

    assert bar(row(100, 100)).plain == "░░░░░░░░░░   0%"
    assert bar(row(1_000, 999), ascii_only=True).plain == "#.........   0%"
    assert bar(row(1_000, 1)).plain == "█████████░  99%"
    assert bar(row(100, -50)).plain == "██████████ 150%"
    assert bar(row(0, 0)).plain == ""
    assert used({}) is None


def test_values() -> None:
    """Amounts, lengths of time and fields are written as people write them."""
    assert amount({"unit": "USD_MICROCENTS", "amount": -150_000_000}) == "-$1.50"
    assert amount({"unit": "APPLES", "amount": 1_000}) == "1,000 APPLES"
    assert amount(None) == ""
    assert [span(ms) for ms in (0, 1_500, 90_000, 7_200_000, None)] == [
        *("0 ms", "1,500 ms", "90 s", "2 h"),
        "",
    ]
    assert text_of({"a": True, "b": None, "c": {"d": "é"}}, "c") == '{"d": "é"}'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "agreed"), [("acme\n", True), ("yes\n", False), ("\n", False), ("", False)]
)
def test_confirm(typed: str, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the name itself is a yes."""
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    if agreed:
        confirm("acme", "It is final.", yes=False)
        return
    with pytest.raises(CommandError, match="nothing was changed") as raised:
        confirm("acme", "It is final.", yes=False)
    assert raised.value.code == EXIT_DECLINED
