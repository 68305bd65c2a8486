"""Files that appear whole or not at all.

The rule that lives here: what is being written has the name `FILE.partial` and is locked; it
gets its own name in one step, after it is on disk. What a kill leaves is that partial file,
which the next run takes over.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bursar.cli.exits import EXIT_FAILED, EXIT_USAGE, CommandError


@contextmanager
def partial(path: Path) -> Iterator[BinaryIO]:
    """Give a new private file to write to; it is gone afterwards unless it was `publish`ed.

    Raises:
        CommandError: it cannot be written, or another command is writing it.
    """
    name = partial_name(path)
    try:
        file = os.fdopen(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), "w+b")
    except OSError as error:
        raise CommandError(
            EXIT_USAGE, f"{path} cannot be written: {name.name}: {error.strerror}"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(
                EXIT_USAGE, f"{path} is being written by another command (it has {name.name})"
            ) from None
        file.truncate(0)
        try:
            yield file
        finally:
            with suppress(FileNotFoundError):
                name.unlink()


def partial_name(path: Path) -> Path:
    """Return the name that a file has while it is not whole."""
    return path.with_name(path.name + ".partial")


def publish(written: Path, path: Path, *, replacing: bool) -> None:
    """Give a file that is whole and synced its own name, in one step, and sync the folder.

    Raises:
        CommandError: there is a file of that name, and it may not be replaced.
    """
    if replacing:
        written.replace(path)
    else:
        try:
            os.link(written, path)  # unlike a rename, it never replaces anything
            written.unlink()
        except FileExistsError:
            raise taken(path) from None
        except OSError:  # a file system without hard links
            if path.exists():
                raise taken(path) from None
            written.rename(path)
    sync_folder(path.parent)


def taken(path: Path) -> CommandError:
    """Return the error for a name that is in use."""
    return CommandError(EXIT_USAGE, f"{path} exists; name a new file, or move that one away")


def sync_folder(folder: Path) -> None:
    """Make the names of a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def no_space(path: Path) -> CommandError:
    """Return the error for a disk that is full."""
    return CommandError(
        EXIT_FAILED, f"no space left for {path}; nothing was written under that name"
    )
