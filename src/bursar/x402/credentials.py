"""What an operator's own requests to a facilitator carry, such as a bearer token.

The rule that lives here: it is read from the environment or a file and goes into requests to the
facilitator that it was written for, and nowhere else: no message and no log shows a value. A file
is read again when it changes, for tokens are short-lived and are written by somebody else.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

TEXT_LENGTH_MAX: Final = 65_536
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OURS: Final = {"content-length", "content-type", "host", "transfer-encoding", "connection"}
_log = logging.getLogger("bursar.payments")

Headers = Mapping[str, Mapping[str, str]]
"""Header values by header name, by the facilitator's name."""


def read_headers(text: str, named: Collection[str] | None) -> Headers:
    """Return the headers of each facilitator from JSON: `{"NAME": {"Header": "value"}}`.

    Args:
        text: the JSON.
        named: the facilitators that there are; None where any may be named.

    Raises:
        ValueError: it is no such thing; the message says where, and shows no value.
    """
    if len(text) > TEXT_LENGTH_MAX:
        raise ValueError(f"it is above {TEXT_LENGTH_MAX} characters; is it the right file?")
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError('it is not JSON; write it like {"NAME": {"Header": "value"}}') from None
    if not isinstance(read, dict):
        raise ValueError('it must be an object, like {"NAME": {"Header": "value"}}')
    for name, headers in read.items():
        if named is not None and name not in named:
            known = ", ".join(sorted(named)) or "none"
            raise ValueError(f"no facilitator is named {name[:64]!r}; there is: {known}")
        if not isinstance(headers, dict):
            raise ValueError(f"facilitator {name} must have an object of headers")
        for header, value in headers.items():
            _check(name, header, value)
    return read


def _check(name: str, header: str, value: Any) -> None:
    if not _NAME.fullmatch(header) or header.lower() in _OURS:
        raise ValueError(f"facilitator {name}: {header[:64]!r} is no header that may be set")
    usable = isinstance(value, str) and value.isascii() and value.isprintable()
    if not usable or not value or value != value.strip():
        raise ValueError(
            f"facilitator {name}: the value of {header} must be printable ASCII text without "
            "spaces around it"
        )


class HeaderFile:
    """Headers in a file that somebody else writes; what was read last holds until it changes.

    Args:
        path: the file.
        named: the facilitators that there are; None where any may be named.

    Raises:
        ValueError: the file cannot be read, or holds no headers.
    """

    def __init__(self, path: Path, named: Collection[str] | None) -> None:
        self._path, self._named = path, named
        self._lock = threading.Lock()
        self._seen, self._headers = self._read()

    def of(self, name: str) -> Callable[[str], Mapping[str, str]]:
        """Return what a `Facilitator` of this name takes for its `headers`."""
        return lambda _: self.read().get(name, {})

    def read(self) -> Headers:
        """Return the headers as they are now; the last good ones where that cannot be read."""
        with self._lock:
            try:
                if self._mark() != self._seen:
                    self._seen, self._headers = self._read()
            except (OSError, ValueError) as error:  # half written, or being replaced: ask again
                said = str(error) if isinstance(error, ValueError) else "it cannot be read"
                _log.warning("%s: %s; the headers from before are used", self._path.name, said)
            return self._headers

    def _mark(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> tuple[tuple[int, int, int], Headers]:
        try:
            mark, text = self._mark(), self._path.read_bytes()[: TEXT_LENGTH_MAX + 1].decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self._path} is not text") from None
        except OSError as error:
            raise ValueError(f"{self._path} cannot be read: {error.strerror}") from None
        return mark, read_headers(text, self._named)
