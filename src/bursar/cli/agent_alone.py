"""One process at a time on a session: the second one is told, and changes nothing.

The rule that lives here: the hold is the operating system's. It ends with the process that has
it, however that ends, so nothing is ever left to be cleaned up.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bursar.cli.exits import EXIT_USAGE, CommandError


@contextmanager
def alone(session: Path | None) -> Iterator[None]:
    """Hold a session's file for this process; without a session there is nothing to hold.

    Raises:
        CommandError: another process runs this session, or its folder cannot be used.
    """
    if session is None:
        yield
        return
    try:
        session.parent.mkdir(parents=True, exist_ok=True)
        lock = session.with_suffix(".lock").open("a")
    except OSError as error:
        raise CommandError(EXIT_USAGE, f"--session: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise CommandError(
                EXIT_USAGE,
                f"--session: another process runs {session.name}; wait for it, or name another",
            ) from taken
        yield
