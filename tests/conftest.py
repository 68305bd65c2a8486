"""What every test shares: a clean environment, honest properties, and a real server on request."""

import contextlib
import http.client
import importlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

READY_WITHIN_S = 30
STOP_WITHIN_S = 10  # what the server promises for SIGTERM

# A slow machine is not a bug, so an example has no deadline; every failure prints how to repeat it.
settings.register_profile("bursar", deadline=None, print_blob=True)
settings.load_profile("bursar")

# The developer's own server and keys must not reach a test, nor a process that a test starts.
for variable in [name for name in os.environ if name.startswith(("BURSAR_", "CYCLES_"))]:
    del os.environ[variable]


# Packages that peers bring raise it for the whole process; a text that nests too deep would then
# end the process instead of being refused, in whatever test comes next.
RECURSION_LIMIT = sys.getrecursionlimit()


def pytest_collection_finish() -> None:
    """Put back what the imports of the collected files have changed."""
    sys.setrecursionlimit(RECURSION_LIMIT)


@pytest.fixture(autouse=True)
def same_recursion_limit() -> Iterator[None]:
    """Put back what a test's imports have changed."""
    yield
    if sys.getrecursionlimit() != RECURSION_LIMIT:
        sys.setrecursionlimit(RECURSION_LIMIT)


@dataclass(frozen=True, slots=True)
class Served:
    """A running `bursar serve`."""

    port: int
    admin_key: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
    """Wait for something that another process or thread does; fail if it never happens."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_until_ready(process: subprocess.Popen[bytes], served: Served) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not is_ready(served.port):
        # The log is part of the message: it is the only trace of why a server did not start.
        if process.poll() is not None:
            pytest.fail(f"server exited with {process.returncode}:\n{served.log.read_text()}")
        if time.monotonic() > deadline:
            pytest.fail(f"server not ready in {READY_WITHIN_S} s:\n{served.log.read_text()}")
        time.sleep(0.02)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """Run `bursar serve` on a new ledger in `directory`; fail if it does not stop cleanly."""
    served = Served(free_port(), secrets.token_urlsafe(32), directory / "server.log")
    command = [sys.executable, "-m", "bursar.cli", "serve", "--store", "sqlite:///ledger.db"]
    command += ["--host", "127.0.0.1", "--port", str(served.port)]
    with served.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | {"BURSAR_ADMIN_KEY": served.admin_key},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(process, served)
        yield served
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_WITHIN_S) == 0, served.log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Served]]:
    """Return a function that starts a server in a directory; all stop after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda directory: stack.enter_context(serving(directory))


@pytest.fixture(scope="session")
def schemas() -> ModuleType:
    """Return the checker of responses: `CheckedClient`, or `hook` and `hook_async` for others."""
    return importlib.import_module("schemas")
