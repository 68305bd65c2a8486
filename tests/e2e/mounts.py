"""Small file systems of a test's own: read-only, or full.

The rule that lives here: a mount ends with the test, and a machine that cannot mount skips
with the reason it gave.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount an empty file system of this size on a new folder."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        # Lazily: a process that a failed test leaves for a moment must not keep the mount.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, size_bytes: int) -> None:
    """Give a mounted file system another size, as when somebody frees or takes space."""
    _mount("-o", f"remount,size={size_bytes}", str(folder))


def make_read_only(folder: Path) -> None:
    """Turn a mounted file system read-only; not even root writes to it then."""
    _mount("-o", "remount,ro", str(folder))


def _mount(*arguments: str) -> None:
    try:
        ran = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a file system of its own is needed, and this machine has no mount command")
    if ran.returncode != 0:
        pytest.skip(f"a file system of its own is needed: {ran.stderr.strip()}")
