"""`bursar` as people run it: in a process of its own, against a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.servers import ADMIN_KEY, Server

ENDS_WITHIN_S = 60
UNSET = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "BURSAR_PROFILE", "BURSAR_CONFIG")


def line(*words: str | Path) -> list[str]:
    """Return the command line of a command."""
    return [sys.executable, "-m", "bursar.cli", *map(str, words)]


def environment(server: Server | None = None, **more: str) -> dict[str, str]:
    """Return what a command sees: a server and the operator's key, and nothing of this user."""
    own = {name: value for name, value in os.environ.items() if name not in UNSET}
    own |= {"BURSAR_ADMIN_KEY": ADMIN_KEY, "XDG_CONFIG_HOME": "/nonexistent"}
    if server is not None:
        own["CYCLES_BASE_URL"] = server.url
    return own | more


def bursar(
    *words: str | Path,
    server: Server | None = None,
    folder: Path | None = None,
    extra: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    ran = subprocess.run(
        line(*words),
        env=environment(server, **(extra or {})),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


def document(ran: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON object that a command printed."""
    assert ran.stdout, ran
    return json.loads(ran.stdout)


def refused(ran: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the one line that a refused command wrote."""
    assert ran.returncode == code, ran
    assert ran.stdout == "", ran
    assert ran.stderr.startswith("bursar: "), ran
    assert ran.stderr.count("\n") == 1, ran
    return ran.stderr
