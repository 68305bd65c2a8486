"""Bursar: runtime authority for AI agents.

The rule that lives here: importing this package is light. It loads no optional dependency
and no server code, and it offers exactly the names in `__all__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["__version__"]

if TYPE_CHECKING:
    __version__: str
else:
    # Looked up when asked for: reading package metadata costs more than the rest of the import.
    # Hidden from type checkers, which would otherwise believe that every attribute exists.
    def __getattr__(name: str) -> str:
        """Return the installed version for `__version__`; nothing else is made up."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("bursar")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
