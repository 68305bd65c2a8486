"""One holder of a file at a time: the second one is told, and changes nothing.

The rule that lives here: a hold is the operating system's and belongs to one process. It ends
with the process that took it, however that ends, so nothing is ever left to be cleaned up. A
forked child does not have it and does not prolong it.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

SUFFIX = ".lock"


class FileInUseError(RuntimeError):
    """Somebody else holds the file; nothing was changed."""


class Hold:
    """A file that is this process's until it is released.

    What is locked is a file beside it: the file itself may be replaced meanwhile.
    """

    def __init__(self, path: Path) -> None:
        """Take the file; its folder is made if it is not there.

        Raises:
            FileInUseError: somebody else holds it.
            OSError: the folder cannot be used.
        """
        self._path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path.with_name(path.name + SUFFIX), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as refused:
            why = (
                f"{path} cannot be used: {refused.strerror}; name a file in a folder that can be"
                " written"
            )
            raise OSError(refused.errno, why, refused.filename) from refused
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            os.close(lock)
            raise FileInUseError(
                f"{path} is in use, by another process or by another part of this one; wait until"
                " it is closed, or give this agent a file of its own"
            ) from taken
        except BaseException:
            os.close(lock)
            raise
        # Closing is enough: the lock ends with the last descriptor, and a child that closes its
        # own copy takes nothing from its parent.
        self._close = weakref.finalize(self, os.close, lock)
        _holds.add(self)

    def release(self) -> None:
        """Let somebody else have the file; a second time does nothing."""
        self._close()

    def check(self) -> None:
        """Do nothing while the file is held.

        Raises:
            FileInUseError: it was released, or this process is a fork of the one that took it.
        """
        if not self._close.alive:
            raise FileInUseError(
                f"{self._path} is not open here: it was closed, or opened before this process was"
                " forked; open it again"
            )


_holds: weakref.WeakSet[Hold] = weakref.WeakSet()


def _forked() -> None:
    for hold in list(_holds):
        hold.release()


os.register_at_fork(after_in_child=_forked)
