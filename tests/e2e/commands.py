"""Commands that end by themselves, many of them, without starting Python anew for each.

The rule that lives here: each command runs in a process of its own, a fork of one that has only
imported the command line. Its exit code and what it wrote are those of the real command; a test
of this folder compares the two.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ENDS_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it wrote; a negative code is the signal that ended it."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """Runs `bursar` commands one after another."""

    def __init__(self, directory: Path) -> None:
        self._out, self._err = directory / "out", directory / "err"
        self._parent = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._parent.communicate(timeout=ENDS_WITHIN_S)

    def run(self, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> Ended:
        """Run `bursar` with these arguments in a folder and wait for its end."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        asked = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment),
            "out": str(self._out),
            "err": str(self._err),
        }
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        code = int(self._parent.stdout.readline())
        return Ended(code, self._out.read_text("utf-8"), self._err.read_text("utf-8"))


Refused = Callable[..., Ended]
"""Runs `bursar serve` where it must not start."""


def said(ran: Ended, code: int) -> str:
    """Return the one line that a refused command wrote."""
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.code == code, ran
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith("bursar: ")
    return ran.stderr.removeprefix("bursar: ").strip()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def serve_commands() -> None:
    """Be the parent: fork for every line, and answer with the exit code."""
    from bursar.cli import serve as _imported_once  # noqa: F401 - the slow part of starting
    from bursar.cli.__main__ import main

    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(ENDS_WITHIN_S)
            os.chdir(asked["folder"])
            os.environ.clear()
            os.environ.update(asked["environment"])
            sys.argv = ["bursar", *asked["arguments"]]
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            main()  # leaves with SystemExit
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve_commands()
