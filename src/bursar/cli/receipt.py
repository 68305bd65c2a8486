"""`bursar receipt`: check a receipt without anybody's help, and make the keys for it.

The rule that lives here: only a signature by a key that the reader named ends with exit code 0.
Nothing is sent anywhere, and nothing in the file decides which key to believe.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from bursar.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from bursar.cli.remote.show import Show

if TYPE_CHECKING:
    from bursar.ap2.signing import PublicKey

RECEIPT_BYTES_MAX = 1024 * 1024
ABOUT = """Check receipts of payments, and make the keys that sign them.

A receipt says what was decided and charged under a mandate. It is not signed unless the program
that made it was given a key. Nothing here needs a server.

Example: bursar receipt verify receipt.json --key operator.pem.pub
"""

Json = Annotated[bool, Parameter(name="--json", negative="")]
Keys = Annotated[list[Path] | None, Parameter(negative="")]

app = App(name="receipt", help=ABOUT)


@app.command
def verify(file: Path, /, *, key: Keys = None, as_json: Json = False) -> int:
    """Say whether a receipt is as the holder of a key signed it.

    Exit code 0: valid, signed by a key that was given. 1: it proves nothing, since it is unsigned,
    was changed, or is signed by a key that was not given. 2: the file is not a receipt, or a key
    cannot be read.

    Example: bursar receipt verify receipt.json --key operator.pem.pub

    Parameters
    ----------
    file
        The receipt, a JSON file.
    key
        A public key in PEM form that you trust; repeat for more, as while keys change.
    as_json
        Answer with JSON; a failure is JSON on standard error.
    """
    _need_the_extra()
    from bursar.ap2.canonical import CanonicalError, read_json
    from bursar.ap2.signing import ReceiptStatus, is_receipt, verify_receipt

    keys = [_public(path) for path in key or ()]
    try:
        document = read_json(_read(file))
    except CanonicalError as error:
        raise CommandError(EXIT_USAGE, f"{file}: {error}") from error
    if not is_receipt(document):
        raise CommandError(EXIT_USAGE, f"{file}: not a receipt: its `schema` says otherwise")
    verdict = verify_receipt(document, keys)
    told = {
        "status": verdict.status.value,
        "reason": verdict.reason,
        "key_id": verdict.key_id,
        "schema": document["schema"],
        "reservation_id": document.get("reservation_id"),
    }
    facts = [
        ("why", verdict.reason),
        ("schema", str(document["schema"])),
        ("reservation", str(document.get("reservation_id") or "")),
    ]
    Show(as_json=as_json).result(told, f"Receipt: {verdict.status.value}", facts)
    return EXIT_OK if verdict.status is ReceiptStatus.VALID else EXIT_FAILED


@app.command
def keygen(file: Path, /, *, as_json: Json = False) -> int:
    """Make a key that signs receipts: FILE, for its owner alone, and FILE.pub for everybody.

    The private key is not encrypted; only its owner may read it (mode 0600). Nothing is ever
    overwritten.

    Example: bursar receipt keygen operator.pem

    Parameters
    ----------
    file
        Where the private key goes; the public one goes beside it.
    as_json
        Answer with JSON; a failure is JSON on standard error.
    """
    _need_the_extra()
    from bursar.ap2.signing import SEED_BYTES, SigningKey

    made = SigningKey(os.urandom(SEED_BYTES))
    public = file.with_name(f"{file.name}.pub")
    _write(file, made.pem(), 0o600)
    try:
        _write(public, made.public.pem(), 0o644)
    except CommandError:
        file.unlink()  # half a pair is of no use, and would stand in the way of the next attempt
        raise
    document = {"private": str(file), "public": str(public), "key_id": made.key_id}
    facts = [("private", str(file)), ("public", str(public)), ("key id", made.key_id)]
    Show(as_json=as_json).result(document, "Made a key for receipts", facts)
    return EXIT_OK


def _need_the_extra() -> None:
    """Say what to install, where the packages that sign are missing."""
    try:
        import bursar.ap2.signing  # noqa: F401 - it is asked whether it can be imported
    except ModuleNotFoundError as error:
        raise CommandError(EXIT_USAGE, str(error)) from error


def _public(path: Path) -> PublicKey:
    from bursar.ap2.signing import PublicKey, SigningError

    try:
        return PublicKey.from_file(path)
    except SigningError as error:
        said = str(error)
        where = "" if said.startswith(f"{path}:") else f"{path}: "
        raise CommandError(EXIT_USAGE, f"--key: {where}{said}") from error


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(RECEIPT_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(EXIT_USAGE, f"{file}: {error.strerror}") from error


def _write(file: Path, content: bytes, mode: int) -> None:
    """Write a new file that nobody else could read for a moment."""
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise CommandError(EXIT_USAGE, f"{file}: {error.strerror}") from error
    with os.fdopen(opened, "wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
