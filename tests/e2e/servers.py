"""Real `bursar serve` processes, to be started, killed, stopped and refused by a test.

The rule that lives here: whatever a test starts ends with it. `Servers` kills what is still
running when its `with` block is left, and every wait has a deadline.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.connections import Connection, Reply

START_WITHIN_S = 30
STOP_WITHIN_S = 10  # what the server promises for SIGTERM
REFUSE_WITHIN_S = 30
ADMIN_KEY = secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    url: str
    store: Path
    log: Path

    def connect(
        self, headers: Mapping[str, str] | None = None, *, checked: bool = True
    ) -> Connection:
        """Return a connection of its own that sends `headers` with every request."""
        return Connection(self.port, headers or {}, checked=checked)

    def operator(self) -> Connection:
        """Return a connection with the admin key."""
        return self.connect({"X-Admin-API-Key": ADMIN_KEY})

    def ready(self) -> Reply:
        """Ask for the readiness once."""
        with self.connect() as connection:
            return connection.get("/health/ready")

    def wait_until(self, status: int, within_s: float) -> Reply:
        """Ask for the readiness until it has this status."""
        deadline = time.monotonic() + within_s
        while (reply := self.ready()).status != status:
            assert time.monotonic() < deadline, f"still {reply.status}: {reply.body!r}"
            time.sleep(0.05)
        return reply

    def kill(self) -> None:
        """End the process at once, as a crash or the kernel would."""
        self.process.kill()
        self.process.wait(STOP_WITHIN_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the process to stop and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_WITHIN_S)

    def logged(self) -> str:
        """Return what the server wrote to standard error so far."""
        return self.log.read_text("utf-8")


class Servers:
    """Starts servers on the ledgers of one directory and leaves none behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(STOP_WITHIN_S)

    def start(
        self,
        *arguments: str,
        store: str = "ledger.db",
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Server:
        """Start a server and return once it takes requests; `prefix` is run before Python.

        The process writes to files, not pipes: nobody needs to drain them.
        """
        number = len(self._started)
        out, log = (self.directory / f"server-{number}.{kind}" for kind in ("out", "log"))
        with out.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(
                [*prefix, *command("--json", *arguments, store=store)],
                cwd=self.directory,
                env=surroundings(environment),
                stdout=stdout,
                stderr=stderr,
            )
        self._started.append(process)
        said = _first_line(process, out, log)
        port = int(said["url"].rpartition(":")[2])
        return Server(process, port, said["url"], Path(said["store"]), log)

    def refused(
        self,
        *arguments: str,
        store: str = "ledger.db",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `bursar serve` where it must not start and return how it ended."""
        return subprocess.run(
            command(*arguments, store=store),
            cwd=self.directory,
            env=surroundings(environment),
            capture_output=True,
            text=True,
            timeout=REFUSE_WITHIN_S,
            check=False,
        )


def command(*arguments: str, store: str) -> list[str]:
    """Return the command line of a server; it takes a free port unless told otherwise."""
    port = () if "--port" in arguments else ("--port", "0")
    serve = [sys.executable, "-m", "bursar.cli", "serve", "--store", f"sqlite:///{store}"]
    return [*serve, *port, *arguments]


def surroundings(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of a server; one without an admin key generates its own."""
    return os.environ | {"BURSAR_ADMIN_KEY": ADMIN_KEY} | dict(environment or {})


def _first_line(process: subprocess.Popen[bytes], out: Path, log: Path) -> dict[str, Any]:
    """Return what the server says about itself once it takes requests."""
    deadline = time.monotonic() + START_WITHIN_S
    while b"\n" not in (said := out.read_bytes()):
        # The log is part of the message: it is the only trace of why a server did not start.
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            raise AssertionError(f"server not started ({ended}):\n{log.read_text('utf-8')}")
        time.sleep(0.005)
    facts: dict[str, Any] = json.loads(said)
    return facts
