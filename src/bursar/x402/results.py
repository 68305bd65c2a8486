"""Answers that were paid for, kept so that a payer whose connection broke gets the same one.

The rule that lives here: an answer is kept for its payment, whole or not at all, and the
oldest goes first when there is no more room. It is a convenience: what was delivered is
written in the payment's record, and nothing is run twice because an answer is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

ANSWERS_MAX: Final = 1_000
BYTES_MAX: Final = 64 * 1024 * 1024
ANSWER_BYTES_MAX: Final = 1024 * 1024
BOUND_MAX: Final = 10**15


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What a handler answered."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def size(self) -> int:
        """Return how much room it takes."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


def check_bounds(**bounds: int) -> None:
    """Refuse bounds under which no answer could ever be kept, or that no file can hold.

    Raises:
        ValueError: there is such a one.
    """
    for name, value in bounds.items():
        if not 1 <= value <= BOUND_MAX:
            raise ValueError(f"{name} must be from 1 to {BOUND_MAX}; got {value!r}")


class Results(Protocol):
    """Where answers are kept; one that several processes share lets each of them answer."""

    def get(self, payment_id: str) -> StoredAnswer | None:
        """Return the answer of a payment, if it is still there."""
        ...

    def put(self, payment_id: str, answer: StoredAnswer) -> None:
        """Keep an answer, if there is room."""
        ...


class MemoryResults:
    """Answers in this process, up to a number and a size.

    Args:
        answers_max: so many are kept.
        bytes_max: and so much of them.

    Raises:
        ValueError: one of these is below 1.
    """

    def __init__(self, *, answers_max: int = ANSWERS_MAX, bytes_max: int = BYTES_MAX) -> None:
        check_bounds(answers_max=answers_max, bytes_max=bytes_max)
        self._lock = Lock()
        self._kept: OrderedDict[str, StoredAnswer] = OrderedDict()
        self._answers_max, self._bytes_max, self._size = answers_max, bytes_max, 0

    def get(self, payment_id: str) -> StoredAnswer | None:
        """Return the answer of a payment, if it is still there."""
        with self._lock:
            return self._kept.get(payment_id)

    def put(self, payment_id: str, answer: StoredAnswer) -> None:
        """Keep an answer; one that is larger than all the room is not kept."""
        if answer.size > self._bytes_max:
            return
        with self._lock:
            if (old := self._kept.pop(payment_id, None)) is not None:
                self._size -= old.size
            self._kept[payment_id] = answer
            self._size += answer.size
            while self._size > self._bytes_max or len(self._kept) > self._answers_max:
                _, gone = self._kept.popitem(last=False)
                self._size -= gone.size
