"""`bursar payments list`, `show`, `write-off` and `export` on a file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.exits import (
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_STORE,
    EXIT_USAGE,
)
from bursar.cli.payments.telling import TOKENS, age, value_of
from bursar.payments.outcome import Trigger, Work
from payments.world import NOW_MS, payment

Run = Callable[..., Any]
SETTLED = (Trigger.SENDING, Trigger.LOST, Trigger.SETTLED)
FAILED = {"work": Work.FAILED}


def test_what_is_listed_can_be_read_and_filtered(bursar: Run, put: Any, file: Path) -> None:
    """The newest first; a state is typed as it is shown; JSON has every field but the payload."""
    put("1", *SETTLED, after=FAILED)
    put(
        "2", Trigger.SENDING, Trigger.LOST, created_at_ms=NOW_MS + 1, after={"sealed_payload": b"S"}
    )
    base = ("eip155:8453", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913")
    put("3", network=base[0], asset=base[1], value=1_250_000, created_at_ms=NOW_MS + 2)
    shown = bursar("payments", "list", "--store", str(file))
    assert shown.code == EXIT_OK
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["pay_3", "pay_2", "pay_1"]
    assert "1.250000 USDC" in lines[2]
    assert "100,000,000,000,000,000,000 units" in lines[4]
    assert "ORPHANED" in lines[4]
    found = bursar(
        "payments", "list", "--store", f"sqlite:///{file}", "--money", "UNKNOWN", "--json"
    )
    [unknown] = found.document["payments"]
    assert (unknown["payment_id"], unknown["has_payload"]) == ("pay_2", True)
    assert "sealed_payload" not in unknown
    orphans = ("payments", "list", "--disposition", "ORPHANED", "--json")
    assert len(bursar(*orphans, BURSAR_STORE=str(file)).document["payments"]) == 1
    assert not bursar(*orphans, "--tenant", "nobody", BURSAR_STORE=str(file)).document["payments"]
    some = bursar("payments", "list", "--limit", "2", "--json", "--store", str(file)).document
    assert (len(some["payments"]), some["has_more"]) == (2, True)
    nothing = bursar("payments", "list", "--money", "VOIDED", "--store", str(file))
    assert (nothing.code, nothing.out, nothing.err) == (EXIT_OK, "", "no such payments\n")


def test_one_payment_shows_its_evidence(bursar: Run, put: Any, file: Path) -> None:
    """Every line of the history with what it rests on, for people and for programs."""
    put("1", *SETTLED, after=FAILED)
    shown = bursar("payments", "show", "pay_1", "--store", str(file))
    assert shown.code == EXIT_OK
    assert "Payment pay_1: SETTLED" in shown.out
    assert "block 7 (0xbbbb" in shown.out
    assert "rpc:test" in shown.out
    told = bursar("payments", "show", "pay_1", "--store", str(file), "--json").document
    history = [line["what"] for line in told["history"]]
    assert history == ["RECORDED", "SENDING", "LOST", "SETTLED"]
    assert told["history"][-1]["evidence"]["block_number"] == 7


def test_export_is_a_line_for_each(bursar: Run, put: Any, file: Path) -> None:
    for name in ("1", "2", "3"):
        put(name, *SETTLED, after=FAILED)
    told = bursar("payments", "export", "--store", str(file))
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert sorted(line["payment_id"] for line in lines) == ["pay_1", "pay_2", "pay_3"]
    assert all(len(line["history"]) == 4 for line in lines)
    assert bursar("payments", "export", "--json", "--store", str(file)).out == told.out


def test_a_loss_is_written_off_by_two(bursar: Run, put: Any, file: Path) -> None:
    put("1", *SETTLED, after=FAILED)
    put("2", Trigger.SENDING, Trigger.LOST)
    words = ("--reason", "payer is gone", "--by", "ann", "--store", str(file))
    alone = bursar("payments", "write-off", "pay_1", "--second", "Ann", *words)
    assert (alone.code, alone.out) == (EXIT_REFUSED, "")
    assert "cannot be the second person too" in alone.err
    for option, blank in (("--reason", "say why"), ("--second", "name somebody")):
        given = ["--reason", "r", "--second", "bob", "--by", "ann", "--store", str(file)]
        given[given.index(option) + 1] = " "
        silent = bursar("payments", "write-off", "pay_1", *given)
        assert (silent.code, silent.out) == (EXIT_USAGE, "")
        assert f"{option}: {blank}" in silent.err
    for _ in range(2):
        done = bursar("payments", "write-off", "pay_1", "--second", "bob", *words, "--json")
        assert (done.code, done.document["disposition"]) == (EXIT_OK, "WRITTEN_OFF")
        assert len(done.document["history"]) == 5
    assert done.document["history"][-1]["evidence"] == {
        "source": "operator:ann",
        "reason": "payer is gone (second person: bob)",
    }
    held = bursar("payments", "write-off", "pay_2", "--second", "bob", *words)
    assert (held.code, len(held.err.splitlines())) == (EXIT_REFUSED, 1)
    assert "is HELD (UNKNOWN" in held.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("list", "--store", "/nowhere/x.db"), EXIT_STORE, "does not exist"),
        (("list", "--limit", "0"), EXIT_USAGE, "--limit must be from 1 to 1000, got 0"),
        (("list", "--money", "GONE"), EXIT_USAGE, "Choose from"),
        (("show", "nix"), EXIT_NOT_FOUND, "there is no payment nix"),
        (("recheck", "nix"), EXIT_NOT_FOUND, "there is no payment nix"),
        (("recheck", "pay_1"), EXIT_USAGE, "nobody to ask about eip155:84532; give --rpc"),
        (
            ("recheck", "pay_1", "--rpc", "base=https://r.example/KEY"),
            EXIT_USAGE,
            "nobody to ask about eip155:84532 (eip155:8453 named)",
        ),
        (
            ("recheck", "pay_1", "--rpc", "https://r.example/KEY"),
            EXIT_USAGE,
            "--rpc: an RPC endpoint is NETWORK=URL",
        ),
        (("recheck", "pay_1", "--rpc", "eip155:1=ftp://r/KEY"), EXIT_USAGE, "begins with http"),
        (
            ("recheck", "pay_1", *("--rpc", "base=http://a/KEY") * 2),
            EXIT_USAGE,
            "a second witness is another one",
        ),
        (("mark-refunded", "pay_1", "0x12"), EXIT_USAGE, "0x and 64 hexadecimal digits"),
        (("write-off", "pay_1"), EXIT_USAGE, "--reason"),
    ],
)
def test_mistakes_are_one_line(
    bursar: Run, put: Any, file: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """Each says what is wrong and ends with its own code; no address is ever shown."""
    put("1", Trigger.SENDING, Trigger.LOST)
    more = () if "--store" in words else ("--store", str(file))
    ran = bursar("payments", *words, *more)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1)
    assert said in ran.err
    assert "KEY" not in ran.err
    as_json = bursar("payments", *words, *more, "--json")
    assert as_json.error["exit_code"] == code


def test_what_is_no_ledger_is_refused(bursar: Run, tmp_path: Path) -> None:
    """A file of something else is told in one line, and left as it was."""
    (tmp_path / "x.db").write_bytes(b"hello" * 500)
    ran = bursar("payments", "list", "--store", str(tmp_path / "x.db"))
    assert (ran.code, len(ran.err.splitlines())) == (EXIT_STORE, 1)
    assert (tmp_path / "x.db").read_bytes() == b"hello" * 500


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (-5, "0 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (3_725_000, "1 h 2 min"),
        (86_400_000 * 3 + 59_000, "3 d"),
    ],
)
def test_ages_are_two_units(ms: int, said: str) -> None:
    assert age(ms) == said


def test_values_are_exact() -> None:
    """Decimals only where the token is known, and then all of them."""
    (network, asset), _ = next(iter(TOKENS.items()))
    known = replace(payment(), network=network, asset=asset.upper().replace("X", "x"), value=5)
    assert value_of(known) == "0.000005 USDC"
    assert value_of(replace(known, network="eip155:5")) == "5 units"
