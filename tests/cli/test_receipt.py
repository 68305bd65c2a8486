"""`bursar receipt`: keys for receipts, and a verdict that a script can rely on."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.ap2.signing import SigningKey, sign_receipt
from bursar.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE

Run = Callable[..., Any]
RECEIPT = {
    "schema": "runtime_authority.ap2.payment.charge.v1",
    "reservation_id": "res-1",
    "amount_micros": 100,
}


@pytest.fixture
def key(bursar: Run, tmp_path: Path) -> Path:
    ran = bursar("receipt", "keygen", str(tmp_path / "key.pem"))
    assert (ran.code, ran.err) == (EXIT_OK, "")
    return tmp_path / "key.pem"


@pytest.fixture
def receipt(key: Path, tmp_path: Path) -> Path:
    signed = sign_receipt(RECEIPT, SigningKey.from_file(key))
    (tmp_path / "receipt.json").write_text(json.dumps(signed))
    return tmp_path / "receipt.json"


def public(key: Path) -> str:
    return f"{key}.pub"


def test_keygen_makes_a_pair_for_its_owner(bursar: Run, tmp_path: Path) -> None:
    """The private key is nobody else's to read, and both files name the same key."""
    ran = bursar("receipt", "keygen", str(tmp_path / "k"), "--json")
    made = SigningKey.from_file(tmp_path / "k")
    assert ran.document == {
        "private": str(tmp_path / "k"),
        "public": str(tmp_path / "k.pub"),
        "key_id": made.key_id,
    }
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert (tmp_path / "k.pub").read_bytes() == made.public.pem()


def test_keygen_overwrites_nothing(bursar: Run, tmp_path: Path, key: Path) -> None:
    """Neither half; and what could not be made whole is not left behind."""
    before = key.read_bytes()
    assert bursar("receipt", "keygen", str(key)).code == EXIT_USAGE
    assert key.read_bytes() == before
    (tmp_path / "new.pub").write_text("mine")
    ran = bursar("receipt", "keygen", str(tmp_path / "new"))
    assert (ran.code, "new.pub: File exists" in ran.err) == (EXIT_USAGE, True)
    assert not (tmp_path / "new").exists()
    assert bursar("receipt", "keygen", str(tmp_path / "no" / "k")).code == EXIT_USAGE


def test_a_signed_receipt_is_valid(bursar: Run, receipt: Path, key: Path) -> None:
    ran = bursar("receipt", "verify", str(receipt), "--key", public(key))
    assert (ran.code, ran.err) == (EXIT_OK, "")
    assert "Receipt: valid" in ran.out
    assert "res-1" in ran.out


def test_json_says_what_was_found(bursar: Run, receipt: Path, key: Path) -> None:
    ran = bursar("receipt", "verify", str(receipt), "--key", public(key), "--json")
    assert ran.document == {
        "status": "valid",
        "reason": "every field is as the key's holder signed it",
        "key_id": SigningKey.from_file(key).key_id,
        "schema": RECEIPT["schema"],
        "reservation_id": "res-1",
    }


def test_a_new_key_is_given_beside_the_old_one(
    bursar: Run, receipt: Path, key: Path, tmp_path: Path
) -> None:
    bursar("receipt", "keygen", str(tmp_path / "next.pem"))
    words = ["--key", public(tmp_path / "next.pem")]
    assert bursar("receipt", "verify", str(receipt), *words).code == EXIT_FAILED
    assert bursar("receipt", "verify", str(receipt), *words, "--key", public(key)).code == EXIT_OK


def changed(receipt: Path, **fields: object) -> None:
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | fields))


@pytest.mark.parametrize(
    ("status", "prepare", "with_key"),
    [
        ("untrusted", lambda path: None, False),
        ("unsigned", lambda path: path.write_text(json.dumps(RECEIPT)), True),
        ("unsigned", lambda path: path.write_text(json.dumps(RECEIPT)), False),
        ("invalid", lambda path: changed(path, amount_micros=99), True),
        ("invalid", lambda path: changed(path, more=1), True),
        ("invalid", lambda path: changed(path, amount_micros=2**60), True),
        ("invalid", lambda path: changed(path, signature="x"), True),
    ],
)
def test_what_proves_nothing_fails(
    bursar: Run,
    receipt: Path,
    key: Path,
    status: str,
    prepare: Callable[[Path], object],
    with_key: bool,
) -> None:
    """Exit code 1 and the reason, with and without `--json`."""
    prepare(receipt)
    words = ["receipt", "verify", str(receipt), *(["--key", public(key)] if with_key else [])]
    ran = bursar(*words)
    assert (ran.code, ran.err) == (EXIT_FAILED, "")
    assert f"Receipt: {status}" in ran.out
    ran = bursar(*words, "--json")
    assert (ran.code, ran.document["status"]) == (EXIT_FAILED, status)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "not a receipt"),
        (b'{"schema": 1}', "not a receipt"),
        (b'{"schema": "runtime_authority.x", "schema": "runtime_authority.y"}', "stands twice"),
        (b"\xff", "not UTF-8"),
        (b" " * 2_000_000, "larger than"),
    ],
)
def test_what_is_no_receipt_is_refused(
    bursar: Run, tmp_path: Path, content: bytes, said: str
) -> None:
    """Exit code 2, one line on standard error, nothing on standard output."""
    (tmp_path / "file").write_bytes(content)
    ran = bursar("receipt", "verify", str(tmp_path / "file"))
    assert (ran.code, ran.out, ran.err.count("\n")) == (EXIT_USAGE, "", 1)
    assert said in ran.err


def test_a_file_cut_off_anywhere_is_never_valid(bursar: Run, receipt: Path, key: Path) -> None:
    text = receipt.read_bytes()
    for length in range(0, len(text), 7):
        receipt.write_bytes(text[:length])
        ran = bursar("receipt", "verify", str(receipt), "--key", public(key))
        assert ran.code == EXIT_USAGE


def test_a_key_that_cannot_be_read_is_named(
    bursar: Run, receipt: Path, key: Path, tmp_path: Path
) -> None:
    """A missing file, the private half, and something else: which option, which file, what."""
    for path, said in (
        (tmp_path / "none", "none: No such file"),
        (key, "key.pem: this is a private key"),
        (receipt, "receipt.json: not a public key in PEM form"),
    ):
        ran = bursar("receipt", "verify", str(receipt), "--key", str(path), "--json")
        assert (ran.code, ran.out) == (EXIT_USAGE, "")
        assert ran.error["message"].startswith("--key: ")
        assert said in ran.error["message"]
    ran = bursar("receipt", "verify", str(tmp_path / "none"))
    assert (ran.code, "No such file" in ran.err) == (EXIT_USAGE, True)
