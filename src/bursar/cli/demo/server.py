"""The server under demonstration: a real process, which may be killed and started again.

The rule that lives here: whatever becomes of the demo, the process is reaped. It leads a
session of its own, so a Ctrl-C reaches the demo alone, which then ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bursar.cli.exits import EXIT_FAILED, CommandError

READY_WITHIN_S = 30.0
STOP_WITHIN_S = 10.0
LOG_SHOWN_BYTES = 2_000
_LOOK_EVERY_S = 0.005


class Server:
    """One `bursar serve` on one file; started again, it keeps its file and its port."""

    def __init__(self, directory: Path) -> None:
        """Serve a ledger in `directory`; nothing is started yet."""
        self.directory = directory
        self.store = directory / "bursar.db"
        self.url = ""
        self.admin_key_file = Path()
        self._port = 0
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process; 0 if none runs."""
        return 0 if self._process is None else self._process.pid

    @property
    def admin_key(self) -> str:
        """The key that the server generated and keeps beside its file."""
        return self.admin_key_file.read_text("utf-8").strip()

    async def start(self) -> None:
        """Start the server and wait until it takes requests.

        Raises:
            CommandError: it ended or is not ready in time; the message shows its log.
        """
        self._starts += 1
        said = self.directory / f"serve-{self._starts}.json"
        self._process = self._spawn(said)
        facts = json.loads(await self._announced(self._process, said))
        self.url = facts["url"]
        self.admin_key_file = Path(facts["admin_key_file"])
        self._port = int(self.url.rpartition(":")[2])

    def _spawn(self, said: Path) -> subprocess.Popen[bytes]:
        """Start the process; what it announces goes to a file, which no exit of ours breaks."""
        command = [sys.executable, "-m", "bursar.cli", "serve", "--json"]
        command += ["--store", f"sqlite:///{self.store}", "--port", str(self._port)]
        with said.open("wb") as output, self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash or the kernel would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> int:
        """Send SIGTERM, wait until the server has finished its work, return its exit code.

        Raises:
            CommandError: it is still running after the time that it promises.
        """
        if self._process is None:
            return 0
        self._process.terminate()
        deadline = time.monotonic() + STOP_WITHIN_S
        while (code := self._process.poll()) is None:
            if time.monotonic() > deadline:
                raise self._failed(f"did not stop within {STOP_WITHIN_S:.0f} s of SIGTERM")
            await asyncio.sleep(_LOOK_EVERY_S)
        self._process = None
        return code

    def let_go(self) -> None:
        """Leave the process running; it is no longer this object's to end."""
        if self._process is not None:
            self._process.returncode = 0  # else Popen would warn of the process it outlived
            self._process = None

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    async def _announced(self, process: subprocess.Popen[bytes], said: Path) -> str:
        """Wait for the line that a server prints once it takes requests."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not (line := _text(said)).endswith("\n"):
            if process.poll() is not None:
                raise self._failed(f"ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready within {READY_WITHIN_S:.0f} s")
            await asyncio.sleep(_LOOK_EVERY_S)
        return line

    def _failed(self, how: str) -> CommandError:
        log = self._log.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace").strip()
        return CommandError(EXIT_FAILED, f"the server {how}; its log:\n{log or '(empty)'}")


def _text(file: Path) -> str:
    return file.read_text("utf-8")


def _environment() -> dict[str, str]:
    """Return the environment of the server: this program's own code, and no settings.

    The user's settings would change what is demonstrated, and their admin key must not end
    up on a server of ours.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BURSAR_")}
    kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return kept
