"""Exit codes, and the error that carries one.

The rule that lives here: a command that cannot do its job says why in one line on
standard error and exits with a code that a script can tell apart. A traceback is a defect.
"""

from __future__ import annotations

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
"""The command did its job and the answer is bad: an audit found something."""
EXIT_USAGE: Final = 2
"""Wrong arguments, settings or input."""
EXIT_STORE: Final = 3
"""The store cannot be opened: foreign, corrupt, another schema, or in use."""
EXIT_ADMIN_KEY: Final = 4
"""No usable admin key for the address to listen on."""
EXIT_LISTEN: Final = 5
"""The address or port cannot be used."""
EXIT_INTERRUPTED: Final = 130
"""Stopped with Ctrl-C."""
EXIT_PIPE: Final = 141
"""Whoever read the output went away, as in `bursar replay ... | head`."""


class CommandError(Exception):
    """A command that cannot go on: a message for people and an exit code for programs."""

    def __init__(self, code: int, message: str) -> None:
        """Keep the exit code and the message."""
        super().__init__(message)
        self.code = code
