"""What users said, for replay.

The rule that lives here: a transcript that an engine shows is a copy. Writing to it changes
nothing of the session, whose state has one way to change.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class TranscriptStore:
    """Prompts in order, and whether they were written somewhere.

    >>> store = TranscriptStore()
    >>> store.append("hello")
    >>> store.replay()
    ('hello',)
    """

    entries: list[str] = field(default_factory=list)
    flushed: bool = False

    def append(self, entry: str) -> None:
        """Add a prompt; what was flushed before is no longer all of it."""
        self.entries.append(entry)
        self.flushed = False

    def compact(self, keep_last: int = 10) -> None:
        """Keep the last prompts only."""
        self.entries[:] = kept(tuple(self.entries), keep_last)

    def replay(self) -> tuple[str, ...]:
        """Return the prompts."""
        return tuple(self.entries)

    def flush(self) -> None:
        """Remember that everything was written."""
        self.flushed = True


def kept(entries: tuple[str, ...], keep_last: int) -> tuple[str, ...]:
    """Return the last `keep_last` entries; none for 0."""
    return entries[-keep_last:] if keep_last > 0 else ()
