"""`bursar doctor`: every check, a line each, and 0 or 1.

The rule that lives here: a warning leaves the exit code at 0; a failure makes it 1.
"""

from __future__ import annotations

import os
from pathlib import Path

from rich.text import Text

from bursar import __version__
from bursar.cli.doctor import local, server
from bursar.cli.doctor.line import Line, State, ok
from bursar.cli.exits import EXIT_FAILED, EXIT_OK
from bursar.cli.remote.options import HERE, Remote
from bursar.cli.remote.profile import Options, config_path
from bursar.cli.remote.show import printable

_STYLES = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red"}


def doctor(*, store: str | None = None, remote: Remote = HERE) -> int:
    """Check from the outside what commonly is wrong, and say how to fix it.

    A server is asked for its health, and compared with this machine's clock; keys are tried;
    with --store the ledger's file, disk and permissions are looked at. Nothing is changed. Exit
    code 1 if a check fails; warnings leave it at 0.

    Example: bursar doctor --store sqlite:///bursar.db

    Parameters
    ----------
    store
        A ledger on this machine, sqlite:///FILE or FILE.
    """
    found: list[Line] = [ok("version", f"bursar {__version__}")]
    with remote.connected() as caller:
        found += server.lines(caller)
    path, _ = config_path(Options(config=remote.config), os.environ)
    found += local.config(path)
    if store is not None:
        found += local.ledger(Path(store.removeprefix("sqlite:///")))
    found.append(local.installation())
    _tell(found, remote)
    return EXIT_FAILED if any(one.state is State.FAIL for one in found) else EXIT_OK


def _tell(found: list[Line], remote: Remote) -> None:
    show = remote.show
    if show.as_json:
        lines = [
            {"check": one.check, "state": one.state.value, "found": one.found, "fix": one.fix}
            for one in found
        ]
        show.document({"ok": all(one.state is not State.FAIL for one in found), "checks": lines})
        return
    for one in found:
        text = Text(f"{one.state.value:<5}", style=_STYLES[one.state])
        text.append(printable(f"{one.check}: {one.found}"), style="default")
        show.console.print(text)
        if one.fix:
            show.console.print(Text(f"      fix: {printable(one.fix)}", style="dim"))
