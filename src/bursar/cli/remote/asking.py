"""Asking before something that cannot be undone.

The rule that lives here: a yes is typed as the name of what will be lost, or given as
`--yes`; silence, an end of input and a script without a terminal are a no.
"""

from __future__ import annotations

import sys

from bursar.cli.exits import EXIT_DECLINED, CommandError
from bursar.cli.remote.show import printable


def confirm(name: str, warning: str, *, yes: bool) -> None:
    """Return if whoever runs the command wants it to happen.

    Raises:
        CommandError: they do not, or nobody is there to say so.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            EXIT_DECLINED, f"{warning} There is no terminal to confirm it on: add --yes to do it"
        )
    print(printable(warning), file=sys.stderr)
    print(f"Type {printable(name)} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != name:
        raise CommandError(EXIT_DECLINED, "not confirmed; nothing was changed")
