"""How often a source may fail to say who it is: the throttle of failed authentication.

The rule that lives here: failing attempts alone are counted, in windows of one minute for
each source, and past the limit a source is told to wait. Memory is bounded: sources beyond
`SOURCES_MAX` share one count. Time is an argument; nothing here reads a clock.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from bursar.authority.call import Refusal, refuse
from bursar.core.throttle import seconds
from bursar.core.trail import Failure
from bursar.vocabulary import ErrorCode

WINDOW_MS = 60_000
SOURCES_MAX = 10_000
EVERYBODY_ELSE = ""
_IPV6_NETWORK_BITS = 64  # what one subscriber is given; fewer bits would hit neighbours


@dataclass(slots=True)
class _Window:
    """The failing attempts of one source since a moment."""

    start_ms: int
    count: int = 0
    row: Failure | None = None
    unwritten: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a failing attempt.

    Attributes:
        wait_ms: how long the source is told to wait; None while it is within its limit.
        is_written: whether the attempt gets a line of its own in the audit log.
    """

    wait_ms: int | None = None
    is_written: bool = True


class Attempts:
    """Counts failing attempts by source."""

    def __init__(self, per_minute_max: int, sources_max: int = SOURCES_MAX) -> None:
        """Allow so many failing attempts a minute; 0 counts nothing and allows all."""
        self._per_minute_max = per_minute_max
        self._sources_max = sources_max
        # In the order in which the windows began, so the ones that are over come first.
        self._windows: dict[str, _Window] = {}
        self._finished: list[Failure] = []

    def wait_ms(self, address: str, now_ms: int) -> int | None:
        """Return how long a source has to wait, None if it is within its limit."""
        if not self._windows:
            return None
        window = self._windows.get(self._counted_under(source_of(address)))
        if window is None or now_ms >= window.start_ms + WINDOW_MS:
            return None
        over = window.count >= self._per_minute_max
        return window.start_ms + WINDOW_MS - now_ms if over else None

    def count(self, address: str, now_ms: int) -> Verdict:
        """Count one failing attempt and return what becomes of it."""
        if not self._per_minute_max:
            return Verdict()
        self._close_windows(now_ms)
        key = self._counted_under(source_of(address))
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(now_ms)
        window.count += 1
        if window.count <= self._per_minute_max:
            return Verdict()
        wait_ms = window.start_ms + WINDOW_MS - now_ms
        if window.row is None:
            return Verdict(wait_ms)
        window.unwritten += 1
        return Verdict(wait_ms, is_written=False)

    def stand_for(self, address: str, row: Failure) -> None:
        """Let the line of the first attempt past the limit stand for those that follow."""
        window = self._windows.get(self._counted_under(source_of(address)))
        if window is not None:
            window.row = row

    def finished(self, now_ms: int) -> Sequence[Failure]:
        """Return the lines of windows that are over, with how many attempts they stand for."""
        self._close_windows(now_ms)
        found, self._finished = self._finished, []
        return found

    def _counted_under(self, source: str) -> str:
        if source in self._windows or len(self._windows) < self._sources_max:
            return source
        return EVERYBODY_ELSE

    def _close_windows(self, now_ms: int) -> None:
        while self._windows:
            source, window = next(iter(self._windows.items()))
            if now_ms < window.start_ms + WINDOW_MS:
                return
            del self._windows[source]
            if window.row is not None and window.unwritten:
                self._finished.append(replace(window.row, repeated=window.unwritten))


def throttled(wait_ms: int) -> Refusal:
    """Return the refusal of a source that has failed to authenticate too often."""
    return refuse(
        ErrorCode.LIMIT_EXCEEDED,
        "Too many requests without a valid credential came from this address; try again in "
        f"{seconds(wait_ms)} s, with a valid key",
        retry_after_ms=wait_ms,
    )


@lru_cache(maxsize=4_096)
def source_of(address: str) -> str:
    """Return what is counted together: an IPv4 address, or the network of an IPv6 one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False))
