"""Verdicts from readings alone: what contradicts what, and whose clock ends a window."""

from dataclasses import replace

import pytest

from bursar.payments.outcome import Trigger
from bursar.x402 import evm
from bursar.x402.decide import FUTURE_S, decide
from bursar.x402.reading import Question, Reading
from bursar.x402.rpc import Block, Log, Receipt

ASSET, PAYER, SHOP = "0x" + "aa" * 20, "0x" + "01" * 20, "0x" + "5a" * 20
NONCE, NOW, PAID_AT = "0x" + "07" * 32, 1_800_000_000, 100
ASKED = Question(1, ASSET, PAYER, SHOP, 100, NONCE, NOW + 3_600, NOW)


def block(number: int, time_s: int = NOW, fork: int = 0) -> Block:
    return Block(number, f"0x{fork * 2**64 + number:064x}", time_s)


def end(kind: str = evm.AUTHORIZATION_USED, to: str = SHOP) -> tuple[Log, Receipt]:
    """Return the log that ended the nonce in block PAID_AT, and its receipt."""
    here, transaction = block(PAID_AT), "0x" + "77" * 32
    about = (PAID_AT, here.hash, transaction)
    used = Log(ASSET, (kind, evm.topic(PAYER), NONCE), "0x", *about, 0)
    topics = (evm.TRANSFER, evm.topic(PAYER), evm.topic(to))
    moved = Log(ASSET, topics, f"0x{100:064x}", *about, 1)
    return used, Receipt(transaction, True, PAID_AT, here.hash, (used, moved))


def shows(name: str, final: int, kind: str = evm.AUTHORIZATION_USED, to: str = SHOP) -> Reading:
    """Return the reading of an endpoint that has the nonce used in a final block."""
    return Reading(name, final=block(final), used=True, ends=(end(kind, to),))


def lacks(name: str, final: int, time_s: int = NOW, fork: int = 0) -> Reading:
    """Return the reading of an endpoint that has the nonce unused in its final block."""
    head = block(final + 10, time_s)
    return Reading(name, final=block(final, time_s, fork), used=False, head=head)


def ahead(name: str) -> Reading:
    """Return the reading of an endpoint that shows the payment in a block that is not final."""
    return replace(lacks(name, PAID_AT - 50), recent=(end(),))


USES = {
    "paid": shows("one", 101),
    "canceled": shows("one", 101, evm.AUTHORIZATION_CANCELED),
    "stolen": shows("one", 101, to=PAYER),
    "without a log": Reading("one", final=block(PAID_AT), used=True),
    "not final": ahead("one"),
}


@pytest.mark.parametrize("use", sorted(USES))
@pytest.mark.parametrize("newer", [0, 1, 100])
def test_used_and_unused_are_two_chains(use: str, newer: int) -> None:
    """Whoever has a final block as new as the use, and says unused, contradicts it."""
    readings = [USES[use], lacks("two", PAID_AT + newer)]
    for pair in (readings, readings[::-1]):
        found = decide(ASKED, pair, NOW)
        assert (found.trigger, found.disagreement) == (Trigger.UNREACHABLE, True)
        assert f"block {PAID_AT}" in found.reason


@pytest.mark.parametrize(
    ("use", "trigger"), [("paid", Trigger.SETTLED), ("not final", Trigger.INCLUDED)]
)
def test_an_endpoint_that_lags_contradicts_nothing(use: str, trigger: Trigger) -> None:
    found = decide(ASKED, [USES[use], lacks("two", PAID_AT - 1)], NOW)
    assert (found.trigger, found.disagreement) == (trigger, False)


def test_an_endpoint_that_could_not_read_contradicts_nothing() -> None:
    down = Reading("two", final=block(PAID_AT + 9), problem="it was too busy")
    assert decide(ASKED, [shows("one", 101), down], NOW).trigger is Trigger.SETTLED


def test_a_final_block_has_one_hash() -> None:
    found = decide(ASKED, [lacks("one", 50), lacks("two", 50, fork=1)], NOW)
    assert (found.trigger, found.disagreement) == (Trigger.UNREACHABLE, True)
    assert "final block 50 has two hashes" in found.reason
    assert decide(ASKED, [lacks("one", 50), lacks("two", 50)], NOW).trigger is Trigger.UNDECIDED


@pytest.mark.parametrize("window_s", [1, 60, 300, FUTURE_S, 3_600])
@pytest.mark.parametrize("endpoints", [1, 2])
def test_no_block_of_the_future_ends_a_window(window_s: int, endpoints: int) -> None:
    """However far ahead of our clock it is, and however many endpoints say so."""
    asked = replace(ASKED, valid_before=NOW + window_s)
    for ahead_s in (window_s, window_s + 1, 3_600, 7_199, 10**6):
        told = [lacks(f"rpc{number}", 200, NOW + ahead_s) for number in range(endpoints)]
        found = decide(asked, told, NOW)
        expected = Trigger.UNDECIDED if ahead_s <= FUTURE_S else Trigger.UNREACHABLE
        assert found.trigger is expected
        assert "our clock" in found.reason
        assert decide(asked, told, NOW + ahead_s).trigger is Trigger.EXPIRED


def test_one_that_invents_the_future_expires_nothing_beside_an_honest_one() -> None:
    asked = replace(ASKED, valid_before=NOW + 300)
    found = decide(asked, [lacks("liar", 201, NOW + 400), lacks("honest", 200)], NOW)
    assert found.trigger is Trigger.UNDECIDED


def test_our_clock_alone_ends_no_window() -> None:
    """It may be fast by any time: the block's own time is what counts."""
    found = decide(ASKED, [lacks("one", 200, ASKED.valid_before - 1)], ASKED.valid_before + 10**6)
    assert found.trigger is Trigger.UNDECIDED
