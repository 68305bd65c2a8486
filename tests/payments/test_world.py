"""Every small world, seen in every way: no verdict is final and wrong.

The truth is what the token did with one nonce. What an endpoint shows of it is cut: it may
lag, hide logs, hide receipts, or know no final block. All combinations are enumerated.
"""

import itertools
from dataclasses import dataclass

import pytest

from bursar.payments.outcome import Trigger
from bursar.x402 import evm
from bursar.x402.decide import NEGATIVE, Verdict, decide
from bursar.x402.reading import Question, Reading
from bursar.x402.rpc import Block, Log, Receipt

ASSET, PAYER, SHOP, MALLORY = ("0x" + digit * 40 for digit in "1234")
NONCE = "0x" + "cd" * 32
VALUE, VALID_BEFORE, HEIGHT = 7, 1_000, 50
QUESTION = Question(1, ASSET, PAYER, SHOP, VALUE, NONCE, VALID_BEFORE, 0)
TRUTHS = ("unused", "paid", "other payee", "other value", "canceled", "no transfer", "batch")
ENDS = ("paid", "other payee", "other value", "canceled", "no transfer", "batch")


@dataclass(frozen=True, slots=True)
class World:
    """What happened, in which block of height 40, and how much of it can be seen."""

    truth: str
    final_height: int
    final_time: int
    head_height: int
    logs_shown: bool
    known: bool

    def reading(self, name: str = "one") -> Reading:
        """Return what an honest endpoint with this view reads."""
        final = Block(self.final_height, f"0x{self.final_height:064x}", self.final_time)
        happened = self.truth in ENDS
        used = happened and self.final_height >= 40
        if not self.known:
            return Reading(name, problem="no final block")
        if used:
            ends = end_of(self.truth) if self.logs_shown else ()
            return Reading(name, final, True, ends)
        recent = happened and self.head_height >= 40 and self.logs_shown
        head = Block(self.head_height, f"0x{self.head_height:064x}", self.final_time + 1)
        if self.final_time >= VALID_BEFORE:
            return Reading(name, final, False)
        return Reading(name, final, False, (), head, end_of(self.truth) if recent else ())

    def possible(self) -> bool:
        """Leave out worlds that no chain can be: used by a transfer after its time was over."""
        moved = self.truth in ENDS and self.truth != "canceled"
        late = self.final_height < 40 and self.final_time >= VALID_BEFORE
        return self.head_height >= self.final_height and not (moved and late)


def log(index: int, topic: str, first: str, second: str, data: str = "0x") -> Log:
    topics = (topic, evm.topic(first), second)
    return Log(ASSET, topics, data, 40, f"0x{40:064x}", "0x" + "ee" * 32, index)


def transfer(index: int, to: str, value: int) -> Log:
    return log(index, evm.TRANSFER, PAYER, evm.topic(to), "0x" + evm.word(value))


def end_of(truth: str) -> tuple[tuple[Log, Receipt], ...]:
    """Return the logs of a truth, as its receipt holds them."""
    used = log(1, evm.AUTHORIZATION_USED, PAYER, NONCE)
    neighbour = log(3, evm.AUTHORIZATION_USED, PAYER, "0x" + "ff" * 32)
    rows: dict[str, list[Log]] = {
        "paid": [used, transfer(2, SHOP, VALUE)],
        "other payee": [used, transfer(2, MALLORY, VALUE)],
        "other value": [used, transfer(2, SHOP, VALUE - 1)],
        "canceled": [log(1, evm.AUTHORIZATION_CANCELED, PAYER, NONCE)],
        "no transfer": [used],
        # Ours went to Mallory, and another authorization's transfer looks just like ours.
        "batch": [used, transfer(2, MALLORY, VALUE), neighbour, transfer(4, SHOP, VALUE)],
    }
    receipt = Receipt("0x" + "ee" * 32, True, 40, f"0x{40:064x}", tuple(rows[truth]))
    return ((rows[truth][0], receipt),)


WORLDS = [
    world
    for world in itertools.starmap(
        World,
        itertools.product(
            TRUTHS,
            (39, 40, HEIGHT),
            (VALID_BEFORE - 1, VALID_BEFORE, VALID_BEFORE + 900),
            (39, 40, HEIGHT),
            (True, False),
            (True, False),
        ),
    )
    if world.possible()
]


def wrong(verdict: Verdict, truth: str) -> bool:
    """Say whether a final verdict contradicts the truth."""
    meant = {
        Trigger.SETTLED: {"paid"},
        Trigger.EXPIRED: {"unused", "canceled"},
        Trigger.VOIDED: {"canceled"},
        Trigger.MISDIRECTED: {"other payee", "other value"},
    }
    return verdict.trigger in meant and truth not in meant[verdict.trigger]


def test_there_are_worlds_of_every_kind() -> None:
    assert len(WORLDS) >= 384
    reached = {decide(QUESTION, [world.reading()], VALID_BEFORE).trigger for world in WORLDS}
    assert reached == {
        *(Trigger.SETTLED, *NEGATIVE, Trigger.INCLUDED),
        *(Trigger.UNDECIDED, Trigger.UNREACHABLE),
    }


@pytest.mark.parametrize("truth", TRUTHS)
def test_no_final_verdict_is_wrong(truth: str) -> None:
    for world in WORLDS:
        if world.truth == truth:
            verdict = decide(QUESTION, [world.reading()], VALID_BEFORE)
            assert not wrong(verdict, truth), world


@pytest.mark.parametrize("truth", TRUTHS)
def test_two_views_of_one_world(truth: str) -> None:
    """Two endpoints that see different parts of one truth never make a wrong verdict of it."""
    views = [world for world in WORLDS if world.truth == truth]
    decided = 0
    for one, two in itertools.product(views, views):
        verdict = decide(QUESTION, [one.reading("one"), two.reading("two")], VALID_BEFORE)
        assert not wrong(verdict, truth), (one, two)
        decided += verdict.trigger in (Trigger.SETTLED, *NEGATIVE)
    # A look-alike in the same transaction, and a use without a transfer, are for an operator.
    assert (decided == 0) is (truth in ("no transfer", "batch"))


@pytest.mark.parametrize("truth", ["unused", "canceled"])
def test_absence_needs_both(truth: str) -> None:
    """A second endpoint that says nothing, or lags, keeps the payment unknown."""
    sure = World(truth, HEIGHT, VALID_BEFORE, HEIGHT, True, True)
    assert decide(QUESTION, [sure.reading()], VALID_BEFORE).trigger in NEGATIVE
    for other in (
        World(truth, HEIGHT, VALID_BEFORE, HEIGHT, True, False),
        World(truth, 39, VALID_BEFORE - 1, 39, True, True),
    ):
        both = decide(QUESTION, [sure.reading("a"), other.reading("b")], VALID_BEFORE)
        assert both.trigger not in NEGATIVE


def test_nobody_asked() -> None:
    assert decide(QUESTION, [], 0).trigger is Trigger.UNREACHABLE
