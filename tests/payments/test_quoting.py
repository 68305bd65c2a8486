"""What a facilitator quotes of a payment is not kept, however it is written."""

import base64
import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.outcome import Trigger
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.x402.authorization import Authorization
from bursar.x402.facilitators.answer import RAW_CHARS_MAX, SettleAnswer
from bursar.x402.presented import Presented
from bursar.x402.quoting import QUOTED, is_secret, kept
from payments.paying import Payer
from payments.selling import Shop, payload

PAYER, PAYEE = "0x" + "1a" * 20, "0x" + "5a" * 20
SIGNED = Authorization(PAYER, PAYEE, 1, 0, 2_000_000_000, "0x" + "7e" * 32)
SIGNATURE = random.Random(402).randbytes(64).hex() + "1b"
INNER = {"signature": "0x" + SIGNATURE, "authorization": SIGNED.to_wire()}
PAYLOAD = {"x402Version": 2, "accepted": {}, "payload": INNER}
PRESENTED = Presented(2, 8453, SIGNED, "0x" + SIGNATURE, PAYLOAD)
R, S = SIGNATURE[:64], SIGNATURE[64:128]


def encoded(value: Any, **more: Any) -> str:
    return base64.b64encode(json.dumps(value, **more).encode()).decode()


QUOTES = {
    "plain": "0x" + SIGNATURE,
    "capitals": "0X" + SIGNATURE.upper(),
    "cut": SIGNATURE[:-1],
    "the beginning": SIGNATURE[:24],
    "a short beginning": SIGNATURE[:14],
    "the end": SIGNATURE[100:],
    "r and s": json.dumps({"r": "0x" + R, "s": "0x" + S, "v": 27}),
    "r and s as numbers": json.dumps({"r": int(R, 16), "s": int(S, 16)}),
    "r and s as text": f"r={int(R, 16)} s={int(S, 16)}",
    "words of eight": " ".join(SIGNATURE[at : at + 8] for at in range(0, 130, 8)),
    "bytes": ":".join(SIGNATURE[at : at + 2] for at in range(0, 130, 2)),
    "numbers": json.dumps(list(bytes.fromhex(SIGNATURE))),
    "payload": encoded(PAYLOAD),
    "spaced payload": encoded(PAYLOAD, indent=2),
    "inner": encoded(INNER, separators=(",", ":")),
    "url": base64.urlsafe_b64encode(json.dumps(PAYLOAD).encode()).decode().rstrip("="),
    "shifted": encoded(PAYLOAD)[3:],
    "raw": base64.b64encode(bytes.fromhex(SIGNATURE)).decode(),
    "lines": base64.encodebytes(json.dumps(PAYLOAD).encode()).decode(),
}


def leaks(text: str) -> list[str]:
    """Return every piece of the signature that can be read in a text."""
    seen = text.lower()
    hexed = [SIGNATURE[at : at + 12] for at in range(119)]
    numbers = [str(int(part, 16))[:16] for part in (R, S)]
    raw = [base64.b64encode(bytes.fromhex(SIGNATURE))[at : at + 16].decode() for at in range(60)]
    whole = [quote[at : at + 20] for quote in QUOTES.values() for at in range(0, len(quote), 20)]
    long = [one for one in (*numbers, *raw, *whole) if len(one) >= 16]
    return [one for one in hexed if one in seen] + [one for one in long if one in text]


@pytest.mark.parametrize("how", QUOTES)
@pytest.mark.parametrize("before", ["", "x" * 5, "p" * (RAW_CHARS_MAX - 160)])
def test_no_quote_is_kept(how: str, before: str) -> None:
    for text in (f"{before} {QUOTES[how]} end", f'{{"m":"{before}","q":{QUOTES[how]!r}}}'):
        for end in (RAW_CHARS_MAX, len(before) + 40, len(before) + 150):
            assert leaks(kept(text[:end], PRESENTED)) == [], how


def test_what_an_operator_needs_is_kept() -> None:
    transaction = "0x" + "ab3" * 21 + "c"
    said = json.dumps(
        {
            "success": False,
            "errorReason": "invalid_exact_evm_eip3009_not_supported",
            "errorMessage": "insufficient funds: 12 of 10000, at 2026-11-21T10:43:56",
            "transaction": transaction,
            "payer": PAYER,
            "to": PAYEE,
            "nonce": SIGNED.nonce,
        }
    )
    assert kept(said, PRESENTED, transaction) == said


def test_a_piece_that_is_left_keeps_nothing() -> None:
    assert kept(f"sig {SIGNATURE[:16]}", PRESENTED) == QUOTED
    assert is_secret("0x" + R, PRESENTED)
    assert not is_secret(SIGNED.nonce, PRESENTED)


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.mark.parametrize("where", ["raw", "reason", "transaction", "payment_id"])
def test_nothing_of_a_signature_is_in_the_file(
    where: str, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    """Whichever field of an answer it comes in."""
    said = payload(payer)
    secret = said["payload"]["signature"].removeprefix("0x")
    quoted: dict[str, Any] = {
        "raw": {"raw": "q" * 700 + secret + encoded(said)},
        "reason": {"reason": secret[:64]},
        "transaction": {"transaction": "0x" + secret[:64]},
        "payment_id": {"payment_id": encoded(said["payload"])[:256]},
    }[where]
    answer = SettleAnswer(**({"trigger": Trigger.LOST, "reason": "http_500"} | quoted))

    async def settle(*_: Any) -> SettleAnswer:
        return answer

    file = tmp_path / "ledger.db"
    with (
        closing(open_payments(file)) as store,
        Shop(*(dollar, facilitator), store=store, wait_s=0.2) as shop,
    ):
        till: Any = shop.sells._till
        till._facilitator.settle = settle
        assert shop.get(said=said).status_code == 503
        assert len(store.events(shop.only().payment_id)) >= 3
        written = b"".join(one.read_bytes() for one in tmp_path.glob("ledger.db*"))
    seen = written.decode("latin-1").lower()
    assert [secret[at : at + 12] for at in range(119) if secret[at : at + 12] in seen] == []
    assert base64.b64encode(b'{"signature": "0x')[:20].lower() not in written.lower()
