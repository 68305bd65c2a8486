"""Whether this thread is in the middle of a garbage collection.

The rule that lives here: a collection begins wherever memory is asked for, also while this
very thread holds a lock of a connection pool. What a finalizer does in it must not wait for
anything: it writes down what was spent, and leaves the rest to the background. What lost its
last reference outside of a collection ends where its owner let go of it, and may wait.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable

_collector: int | None = None
_afterwards: list[Callable[[], None]] = []


def collecting() -> bool:
    """Return whether this thread runs finalizers of a collection."""
    return _collector == threading.get_ident()


def after(action: Callable[[], None]) -> None:
    """Run `action` once every finalizer of the running collection has run; now if there is none.

    Weak references call back before the finalizers: what they call lost may still be used.
    """
    if collecting():
        _afterwards.append(action)
    else:
        action()


def _watch(phase: str, info: dict[str, int]) -> None:
    global _collector
    if phase == "start":
        _collector = threading.get_ident()
        return
    _collector = None
    with contextlib.ExitStack() as all_of_them:  # also if one of them raises
        while _afterwards:
            all_of_them.callback(_afterwards.pop())


gc.callbacks.append(_watch)
