"""Ctrl-C, as a story hears it: once, and never between a process and whoever stops it.

The rule that lives here: the first signal interrupts, and the later ones are ignored, because
what follows is cleaning up. While something is started that must be stopped again, a signal waits.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns signals that would end this process at once into one `KeyboardInterrupt`."""

    def __init__(self) -> None:
        """Change nothing yet."""
        self._seen = self._waits = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back, unless one ended the story: then the process ends next."""
        if not self._seen:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Hold a signal back until the end of the block.

        Raises:
            KeyboardInterrupt: one came.
        """
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        if self._seen:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: object) -> None:
        self._seen = True
        for each in SIGNALS:  # also for the end of the interpreter, which forgets our handlers
            signal.signal(each, signal.SIG_IGN)
        if not self._waits:
            raise KeyboardInterrupt
