"""Sessions on disk: one file each, replaced as a whole, after each committed turn.

The rule that lives here: a file is replaced only by somebody who knows its revision, and what
`save` has returned for survives a power cut. A session id is the name of a file and nothing
else: it cannot name a place.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

from bursar.agent.session_format import SessionFormatError, decode_session, encode_session
from bursar.agent.state import SessionState

DEFAULT_DIRECTORY = ".bursar_sessions"
SUFFIX = ".json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TEMPORARY = ".saving-"

Folder = str | os.PathLike[str] | None


class SessionIdError(ValueError):
    """An id that cannot name a session."""


class SessionNotFoundError(KeyError):
    """There is no session of this id in this directory."""

    def __str__(self) -> str:
        """Return the message; a `KeyError` would show it in quotes."""
        return str(self.args[0]) if self.args else ""


class SessionSaveError(OSError):
    """A session could not be saved; its file is as it was."""


class SessionDeleteError(OSError):
    """A session is there and could not be deleted."""


class SessionConflictError(RuntimeError):
    """Somebody else saved the session meanwhile; its file is as they left it."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as its file has it; `revision` counts how often it was saved."""

    state: SessionState
    revision: int
    directory: Path = Path(DEFAULT_DIRECTORY)

    @property
    def session_id(self) -> str:
        """Its id, which is also the name of its file."""
        return self.state.session_id

    @property
    def messages(self) -> tuple[str, ...]:
        """The latest prompts."""
        return self.state.messages

    @property
    def input_tokens(self) -> int:
        """Of all committed turns."""
        return self.state.usage.input_tokens

    @property
    def output_tokens(self) -> int:
        """Of all committed turns."""
        return self.state.usage.output_tokens


def save_session(state: SessionState, directory: Folder = None, *, revision: int) -> Path:
    """Write a session as revision `revision + 1`, in place of `revision`; 0 is no file.

    Raises:
        SessionIdError: the id cannot name a file.
        SessionConflictError: the file has another revision.
        SessionSaveError: the file system refused; what stood there still does.
    """
    path = _path(state.session_id, directory)
    data = encode_session(state, revision + 1)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _temporary(path) as (file, name):
            _expect(path, revision)
            os.ftruncate(file, 0)
            _write(file, data)
            os.fsync(file)
            os.replace(name, path)
        sync(path.parent)
    except OSError as refused:
        raise SessionSaveError(
            refused.errno,
            f"session {state.session_id!r} is not saved: {refused.strerror}; its folder must be"
            " one that can be written, and have room",
            str(path),
        ) from refused
    return path


def load_session(session_id: str, directory: Folder = None) -> StoredSession:
    """Read a session.

    Raises:
        SessionIdError: the id cannot name a file.
        SessionNotFoundError: there is no such file.
        SessionFormatError: the file is not a session, cannot be read, or is of a later version.
    """
    path = _path(session_id, directory)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SessionNotFoundError(
            f"no session {session_id!r} in {path.parent}; list_sessions() shows what is there"
        ) from None
    except OSError as refused:
        raise SessionFormatError(
            f"{path} cannot be read as a session: {refused.strerror}; name another session"
        ) from refused
    state, revision = decode_session(data, str(path))
    if state.session_id != session_id:
        raise SessionFormatError(
            f"{path} holds session {state.session_id!r}; a session's file is named after it"
        )
    return StoredSession(state, revision, path.parent)


def list_sessions(directory: Folder = None) -> list[str]:
    """Return the ids of the sessions in a directory, sorted; none if it is not there."""
    try:
        names = os.listdir(_folder(directory))
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    return sorted(stem for stem in stems if _ID.fullmatch(stem))


def delete_session(session_id: str, directory: Folder = None) -> bool:
    """Delete a session; return whether there was one.

    Raises:
        SessionIdError: the id cannot name a file.
        SessionDeleteError: it is there and stays.
    """
    path = _path(session_id, directory)
    try:
        with _temporary(path):
            path.unlink()
        sync(path.parent)
    except FileNotFoundError:
        return False
    except OSError as refused:
        raise SessionDeleteError(
            refused.errno, f"session {session_id!r} stays: {refused.strerror}", str(path)
        ) from refused
    return True


def checked_id(session_id: str) -> str:
    """Return an id that can name a session.

    Raises:
        SessionIdError: it cannot.
    """
    if not _ID.fullmatch(session_id):
        raise SessionIdError(
            f"session_id {session_id[:140]!r} must be 1 to 128 letters, digits, dots, dashes or"
            " underscores, and begin with a letter or a digit"
        )
    return session_id


def _folder(directory: Folder) -> Path:
    return Path(DEFAULT_DIRECTORY if directory is None else directory)


def _path(session_id: str, directory: Folder) -> Path:
    # Not `with_suffix`, which would cut an id with a dot in it.
    return _folder(directory) / f"{checked_id(session_id)}{SUFFIX}"


def _expect(path: Path, revision: int) -> None:
    try:
        _, found = decode_session(path.read_bytes(), str(path))
    except FileNotFoundError:
        found = 0
    if found != revision:
        raise SessionConflictError(
            f"{path} is at revision {found}, not {revision}: somebody else saved this session;"
            " load it again, or give this one another session_id"
        )


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, Path]]:
    """Open the file that will replace `path`, and keep other savers of it away.

    It has one name for each session, so that a process that was killed leaves at most one,
    which the next saver takes over. Whoever waited for its lock may find that it has become
    the session's file meanwhile: then it is not the one to write to.
    """
    name = path.with_name(f"{_TEMPORARY}{path.name}")
    while True:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(file, LOCK_EX)
            if _is_named(file, name):
                try:
                    yield file, name
                finally:
                    if _is_named(file, name):
                        os.unlink(name)
                return
        finally:
            os.close(file)


def _is_named(file: int, name: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(name))
    except FileNotFoundError:
        return False


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.pwrite(file, view, len(data) - len(view)) :]


def sync(folder: Path) -> None:
    """Make a rename durable."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
