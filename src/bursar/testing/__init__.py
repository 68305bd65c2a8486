"""Fakes to test with: the ledger without a disk, and a clock that is told the time.

The rule that lives here: a fake is a product. It passes the contract suite that the real
thing passes, and what it adds is only what a test needs to say.
"""

from bursar.testing.clock import FakeClock
from bursar.testing.memory import MemoryStore

__all__ = ["FakeClock", "MemoryStore"]
