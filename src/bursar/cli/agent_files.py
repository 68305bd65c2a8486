"""The files of a session that `bursar agent run` was given: `NAME.json` and what is beside it.

The rule that lives here: whatever is wrong with them is told as a mistake of `--session`, before
anybody is asked, and they stay as they are.

| file | has |
|---|---|
| `NAME.json` | the session |
| `NAME.calls` | what came of the actions of a turn that is not saved yet; who has it runs alone |
| `NAME.ledger` | the ledger, where no server is named |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bursar.agent import StoredSession, load_session
from bursar.agent.alone import FileInUseError
from bursar.agent.calls import Calls, FileCalls
from bursar.agent.sessions import checked_id
from bursar.cli.exits import EXIT_USAGE, CommandError
from bursar.client.aio import AsyncCyclesClient
from bursar.ledger.ports import StoreUnusable


@contextmanager
def calls_of(session: Path | None) -> Iterator[Calls]:
    """Hold a session for this process; without one there is nothing to hold.

    Raises:
        CommandError: another process runs this session, or its files cannot be used.
    """
    if session is None:
        yield Calls()
        return
    try:
        checked_id(session.stem)
        calls = FileCalls(session.with_suffix(".calls"))
    except FileInUseError as taken:
        raise CommandError(
            EXIT_USAGE,
            f"--session: another process runs {session.name}; wait for it, or name another",
        ) from taken
    except OSError as error:
        raise CommandError(EXIT_USAGE, f"--session: {error.strerror or error}") from error
    except ValueError as error:
        raise CommandError(EXIT_USAGE, f"--session: {error}") from error
    with calls:
        yield calls


def stored(session: Path | None) -> StoredSession | None:
    """Return the session that a file holds, if there is one."""
    try:
        if session is None or not session.exists():
            return None
        return load_session(session.stem, session.parent)
    except ValueError as error:
        raise CommandError(EXIT_USAGE, f"--session: {error}") from error


def embedded_client(session: Path | None) -> AsyncCyclesClient:
    """Return a client whose ledger is beside the session, or in memory."""
    if session is None:
        return AsyncCyclesClient.embedded(":memory:")
    try:
        return AsyncCyclesClient.embedded(session.with_suffix(".ledger"))
    except (OSError, ValueError, StoreUnusable) as error:
        raise CommandError(EXIT_USAGE, f"--session: {error}") from error
