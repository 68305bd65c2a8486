"""The operator's key: given, or generated once and kept beside the store.

The rule that lives here: a generated key is readable by its owner alone, and good enough
only for a server that nobody but this machine can reach.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bursar import ids
from bursar.server.settings import ADMIN_KEY_LENGTH_MIN, Settings, is_header_text


class AdminKeyError(Exception):
    """No usable admin key; the message says what to do."""


@dataclass(frozen=True, slots=True)
class AdminKey:
    """The key, and the file it lies in if it was generated."""

    key: str
    file: Path | None


def check(settings: Settings) -> None:
    """Refuse what `obtain` would refuse, before there is a store; nothing is written.

    Raises:
        AdminKeyError: a server that others can reach has no explicit key, or the key's
            file is unusable or open to others.
    """
    if settings.admin_key:
        return
    if not is_loopback(settings.host):
        raise AdminKeyError(
            f"refusing to listen on {settings.host} without an explicit admin key: set "
            "BURSAR_ADMIN_KEY to a secret of your own, or listen on 127.0.0.1"
        )
    file = _file(settings)
    with _usable(file):
        if file.exists():
            _read(file)


def obtain(settings: Settings) -> AdminKey:
    """Return the admin key from the settings, or the store's own, generating it once.

    Raises:
        AdminKeyError: as for `check`, or the key's file cannot be written.
    """
    check(settings)
    if settings.admin_key:
        return AdminKey(settings.admin_key, None)
    file = _file(settings)
    with _usable(file):
        return AdminKey(_kept(file), file)


def _file(settings: Settings) -> Path:
    path = settings.store_path.absolute()
    return path.with_name(path.name + ".admin-key")


@contextlib.contextmanager
def _usable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AdminKeyError(f"admin key file {file}: {error.strerror}") from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _kept(file: Path) -> str:
    """Read the key's file, or write it with a fresh key, never readable by others."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(file)
    key = ids.new_admin_key()
    with os.fdopen(handle, "w", encoding="utf-8") as opened:
        opened.write(key + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    return key


def _read(file: Path) -> str:
    if file.stat().st_mode & 0o077:
        raise AdminKeyError(f"admin key file {file} is open to others; run: chmod 600 {file}")
    key = file.read_bytes().decode("utf-8", "replace").strip()
    if len(key) < ADMIN_KEY_LENGTH_MIN or not is_header_text(key):
        raise AdminKeyError(
            f"admin key file {file} holds no usable key; delete it to have one generated, or set "
            "BURSAR_ADMIN_KEY"
        )
    return key
