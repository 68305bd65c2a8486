"""Exit codes, and the error that carries one.

The rule that lives here: a command that cannot do its job says why in one line on
standard error and exits with a code that a script can tell apart. A traceback is a defect.
"""

from __future__ import annotations

from typing import Any, Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
"""The command did its job and the answer is bad: an audit found something, a row failed."""
EXIT_USAGE: Final = 2
"""Wrong arguments, settings or input, or a request that the server finds invalid (400)."""
EXIT_STORE: Final = 3
"""The store cannot be opened: foreign, corrupt, another schema, or in use."""
EXIT_ADMIN_KEY: Final = 4
"""No usable admin key for the address to listen on."""
EXIT_LISTEN: Final = 5
"""The address or port cannot be used."""
EXIT_UNREACHABLE: Final = 6
"""No server answers at the address; nothing was changed."""
EXIT_UNKNOWN: Final = 7
"""The answer was lost: the change may or may not have been made. The message says how to know."""
EXIT_CREDENTIAL: Final = 8
"""The key is missing, wrong, or may not do this (401, 403)."""
EXIT_NOT_FOUND: Final = 9
"""What the command names does not exist (404)."""
EXIT_REFUSED: Final = 10
"""The ledger says no: its state does not allow this (409, 410)."""
EXIT_SERVER: Final = 11
"""The server cannot do it now (429, 5xx), or what answers does not speak the protocol."""
EXIT_DECLINED: Final = 12
"""A change that cannot be undone was not confirmed; nothing was changed."""
EXIT_CANCELLED: Final = 20
"""An agent was cancelled (SIGTERM); the open turn changed nothing of its session."""
EXIT_BUDGET: Final = 21
"""An agent's budget does not allow the next step; the message has the ledger's reason."""
EXIT_TURNS: Final = 22
"""An agent's session has no turn left."""
EXIT_TIMEOUT: Final = 124
"""An agent's time was over."""
EXIT_INTERRUPTED: Final = 130
"""Stopped with Ctrl-C."""
EXIT_PIPE: Final = 141
"""Whoever read the output went away, as in `bursar replay ... | head`."""


class CommandError(Exception):
    """A command that cannot go on: a message for people, an exit code and facts for programs."""

    def __init__(self, code: int, message: str, **facts: Any) -> None:
        """Keep the exit code, the message, and what `--json` tells besides."""
        super().__init__(message)
        self.code = code
        self.facts = {name: value for name, value in facts.items() if value is not None}

    def document(self) -> dict[str, Any]:
        """Return the error as `--json` shows it."""
        shown: dict[str, Any] = {"error": name_of(self.code)}
        return shown | {"message": str(self), "exit_code": self.code} | self.facts


def name_of(code: int) -> str:
    """Return the name of an exit code without its prefix, such as `USAGE`."""
    names = (name for name, value in globals().items() if name.startswith("EXIT_"))
    return next((n.removeprefix("EXIT_") for n in names if globals()[n] == code), "FAILED")
