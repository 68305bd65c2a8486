"""Pending settlements on disk: what was spent is known after a crash.

The rule that lives here: `write` returns when the record would survive a power cut, and a
file is deleted only while it still holds the settlement that is done. Several threads and
processes may use one directory. Whoever calls decides what a failure means.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path

from bursar.client.exceptions import CyclesError
from bursar.client.journal_format import (
    CORRUPT,
    REJECTED,
    SUFFIX,
    TEMPORARY,
    Identity,
    Record,
    UnreadableRecord,
    decode_record,
    encode_record,
    file_name,
    legacy_file_name,
)

__all__ = ["Identity", "Journal", "JournalError", "Record", "default_directory"]

TEMPORARY_KEPT_MS = 3_600_000
SET_ASIDE_MAX = 1_000

_log = logging.getLogger("bursar.journal")


class JournalError(CyclesError):
    """The journal could not be read or written; the message names the place and the fix."""


def default_directory() -> Path:
    """Return where journals are kept if no `journal_dir` is set; all SDKs use this place."""
    return Path.home() / ".runcycles" / "commit-journal"


class Journal:
    """The pending settlements of one identity.

    `directory` is the folder of all journals; the identity has a folder of its own in it,
    which nobody else may read. Folders above it are never changed.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, identity: Identity) -> None:
        self.identity = identity
        self.directory = Path(directory or default_directory()) / identity.fingerprint
        self._private = False

    def write(self, record: Record) -> None:
        """Put a record on disk, in place of the one of the same reservation.

        Raises:
            JournalError: it is not on disk; what stood there before still does.
        """
        try:
            name, data = file_name(record.reservation_id), encode_record(record)
        except (TypeError, ValueError, RecursionError) as unfit:
            raise JournalError(
                f"reservation {record.reservation_id!r} cannot be journaled: {unfit};"
                " metadata and metrics must be JSON values"
            ) from unfit
        with self._explained("write"):
            self._make_private()
            temporary = self._write_temporary(name, data)
            try:
                with self._locked():
                    os.replace(temporary, self.directory / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            _sync(self.directory)

    def discard(self, reservation_id: str, key: str) -> bool:
        """Delete the record of a settlement that is done; return whether there was one.

        A file that by now holds another settlement stays.

        Raises:
            JournalError: the file could not be read or deleted.
        """
        try:
            names = (file_name(reservation_id), legacy_file_name(reservation_id))
        except UnicodeEncodeError:
            return False  # such an id was never written
        found = False
        missing = contextlib.suppress(FileNotFoundError)
        with self._explained("discard"), missing, self._locked():
            for name in names:
                found |= self._unlink_same(name, reservation_id, key)
        return found

    def set_aside(self, reservation_id: str, key: str) -> bool:
        """Keep the record of a settlement that the server rejected as `*.rejected`.

        Nothing sends it again: it is known spend that only an operator can account for.
        Returns whether there was one; a file that by now holds another settlement stays.

        Raises:
            JournalError: the file could not be read or renamed.
        """
        try:
            name = file_name(reservation_id)
        except UnicodeEncodeError:
            return False  # such an id was never written
        missing = contextlib.suppress(FileNotFoundError)
        with self._explained("set aside in"), missing, self._locked():
            return self._same(name, reservation_id, key) and bool(self._move_aside(name, REJECTED))
        return False

    def load(self) -> list[Record]:
        """Return the records of this identity's server, in the order of their file names.

        A record that cannot be read is set aside as `*.corrupt` and reported to the logger
        `bursar.journal`. A file with a name of earlier clients is renamed.

        Raises:
            JournalError: the folder cannot be read.
        """
        with self._explained("read"):
            try:
                names = sorted(n for n in os.listdir(self.directory) if n.endswith(SUFFIX))
            except FileNotFoundError:
                return []
            records: dict[str, Record] = {}
            # Standard names first: an older file must find out that it is outdated.
            for name in sorted(names, key=lambda name: (not name.startswith("v2-"), name)):
                record = self._read(name)
                if record is not None and record.base_url == self.identity.base_url:
                    standard = file_name(record.reservation_id)
                    if name == standard or self._migrate(name, standard, record):
                        records[standard] = record
            return [records[name] for name in sorted(records)]

    def sweep(self, now_ms: int) -> None:
        """Remove what interrupted writes left behind, once it is an hour old."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.directory):
                if entry.name.endswith(TEMPORARY):
                    with contextlib.suppress(OSError):
                        if entry.stat().st_mtime * 1000 < now_ms - TEMPORARY_KEPT_MS:
                            os.unlink(entry.path)

    def _make_private(self) -> None:
        """Create the folder, or close it to others if it was open; once for each journal."""
        if self._private and self.directory.is_dir():
            return
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if self.directory.stat().st_mode & 0o077:
            # Another owner's folder cannot be closed, and the files in it are private anyway.
            with contextlib.suppress(PermissionError):
                self.directory.chmod(0o700)
        _sync(self.directory.parent)
        self._private = True

    def _write_temporary(self, name: str, data: bytes) -> Path:
        path = self.directory / f"{name}.{os.getpid()}.{os.urandom(4).hex()}{TEMPORARY}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        return path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes from changing files; never entered twice."""
        folder = os.open(self.directory, os.O_RDONLY)
        try:
            # A file system without locks is no reason to give up the journal.
            with contextlib.suppress(OSError):
                flock(folder, LOCK_EX)
            yield
        finally:
            os.close(folder)  # which unlocks

    def _read(self, name: str) -> Record | None:
        """Return the record in a file, or None if it is gone, unreadable or set aside."""
        try:
            data = (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None  # another process settled it meanwhile
        except OSError as failed:
            _log.warning("Cannot read journal entry %s: %s", name, failed.strerror)
            return None
        try:
            record = decode_record(data)
            file_name(record.reservation_id)
        except ValueError as damaged:
            with self._locked(), contextlib.suppress(FileNotFoundError):
                # Unless another process wrote a whole record in its place meanwhile.
                if (self.directory / name).read_bytes() == data:
                    self._quarantine(name, damaged)
            return None
        return record

    def _quarantine(self, name: str, damaged: ValueError) -> None:
        aside = self._move_aside(name, CORRUPT)
        if aside is not None:
            _log.warning(
                "Skipping corrupt journal entry %s: %s; set aside as %s", name, damaged, aside
            )

    def _move_aside(self, name: str, suffix: str) -> str | None:
        """Rename a file to the next free name with `suffix`; return it, or None if full."""
        stem = name.removesuffix(SUFFIX)
        for number in range(SET_ASIDE_MAX):
            aside = f"{stem}.{number}{suffix}" if number else f"{stem}{suffix}"
            if self._move(name, aside):
                return aside
        return None

    def _migrate(self, name: str, standard: str, record: Record) -> bool:
        """Give a file its standard name; return False if a newer file has it already."""
        with self._locked(), contextlib.suppress(FileNotFoundError, UnreadableRecord):
            if self._move(name, standard):
                return True
            newer = decode_record((self.directory / standard).read_bytes())
            if newer.reservation_id == record.reservation_id:
                os.unlink(self.directory / name)
        return False

    def _move(self, name: str, target: str) -> bool:
        """Rename a file unless the target exists, which a plain rename would replace."""
        if (self.directory / target).exists():
            return False
        os.rename(self.directory / name, self.directory / target)
        return True

    def _unlink_same(self, name: str, reservation_id: str, key: str) -> bool:
        if not self._same(name, reservation_id, key):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.directory / name)
            return True
        return False

    def _same(self, name: str, reservation_id: str, key: str) -> bool:
        """Return whether a file holds this very settlement."""
        try:
            stored = decode_record((self.directory / name).read_bytes())
            return (stored.reservation_id, stored.key) == (reservation_id, key)
        except (FileNotFoundError, UnreadableRecord):
            return False

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as failed:
            raise JournalError(
                f"cannot {what} the journal in {self.directory}: {failed.strerror or failed};"
                " make the folder writable, or set journal_dir to one that is"
            ) from failed


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
