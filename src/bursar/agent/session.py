"""A session in memory: its state, its lock, and the one turn that may change it.

The rule that lives here: at most one open turn. A turn is open until its gate is decided, so
a worker that nobody waits for any more does not keep the session busy, and cannot change it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bursar.agent.gate import Gate, Verdict
from bursar.agent.results import TurnResult
from bursar.agent.scope import CancelScope
from bursar.agent.sessions import DEFAULT_DIRECTORY, Folder, checked_id, save_session
from bursar.agent.state import SessionState


class TurnInProgressError(RuntimeError):
    """A second turn was submitted to a session while one is open; nothing was done."""


class Session:
    """The state of one session, and how it changes.

    `save_to` is where each committed turn is saved before it is visible; None saves nothing.
    """

    def __init__(self, state: SessionState, save_to: Folder = None, revision: int = 0) -> None:
        """Begin with a state, of which `save_to` holds `revision`."""
        checked_id(state.session_id)
        self._lock = threading.RLock()
        self._gate: Gate | None = None
        self._save_to = None if save_to is None else Path(save_to)
        self._revisions: dict[str, int] = {}
        if self._save_to is not None:
            self._revisions[os.path.abspath(self._save_to)] = revision
        self.state = state

    def begin(self, event: threading.Event | None) -> Gate:
        """Open a turn; a scope closes it when it fires.

        Raises:
            TurnInProgressError: another turn is open.
        """
        with self._lock:
            if self._gate is not None and not self._gate.decided:
                raise TurnInProgressError(
                    f"session {self.state.session_id!r} has an open turn; wait for it or cancel"
                    " it, or use an engine for each conversation"
                )
            gate = self._gate = Gate(self._lock)
        if isinstance(event, CancelScope):
            event.enter(gate)
        return gate

    @property
    def saves(self) -> bool:
        """Whether a commit writes a file."""
        return self._save_to is not None

    def commit(self, gate: Gate, after: SessionState, result: TurnResult) -> Verdict:
        """Make `after` the state, durably first, unless the turn was closed."""
        return gate.commit(result, self._publishing(after))

    def flush(self) -> None:
        """Remember that the transcript was written."""
        with self._lock:
            self.state = replace(self.state, flushed=True)

    def persist(self, directory: Folder) -> Path:
        """Save the state as it is now, in `directory` or where each turn is saved."""
        folder = directory or self._save_to or DEFAULT_DIRECTORY
        with self._lock:
            path = self._save(self.state, folder)
            self.flush()
        return path

    def _publishing(self, after: SessionState) -> Callable[[], None]:
        def publish() -> None:
            if self._save_to is None:
                self.state = after
            else:
                self._save(after, self._save_to)
                self.state = replace(after, flushed=True)

        return publish

    def _save(self, state: SessionState, folder: str | os.PathLike[str]) -> Path:
        place = os.path.abspath(folder)
        revision = self._revisions.get(place, 0)
        path = save_session(state, folder, revision=revision)
        self._revisions[place] = revision + 1
        return path
