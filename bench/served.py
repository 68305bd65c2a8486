"""A real `bursar serve`: one tenant and one key, one budget for all and one for each client.

The rule that lives here: what is measured is the command that people run, with its
defaults. Nothing is switched off for the figures, durability least of all.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ADMIN_KEY = "only-for-this-loopback-server"
SERVE = [sys.executable, "-m", "bursar.cli", "serve", "--port", "0", "--json"]
# The two kinds of budget count in different units, so that no request touches both.
SHARED_UNIT, LEAF_UNIT = "TOKENS", "CREDITS"
PLENTY = 2**62


class Served(NamedTuple):
    """A running server; `start_up_ms` is from its process's start to its first request."""

    url: str
    process: int
    start_up_ms: float

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def memory_bytes(self) -> int:
        """Return the resident memory of the server's process."""
        asked = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process)], capture_output=True, check=True
        )
        return 1_024 * int(asked.stdout)


@contextlib.contextmanager
def serving(store: Path) -> Iterator[Served]:
    """Serve the ledger at `store`, a new one if there is none, until the block ends."""
    environment = os.environ | {"BURSAR_ADMIN_KEY": ADMIN_KEY, "BURSAR_LOG_LEVEL": "warning"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once
    began = time.perf_counter()
    process = subprocess.Popen(
        [*SERVE, "--store", f"sqlite:///{store}"], env=environment, stdout=subprocess.PIPE
    )
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise SystemExit(f"the server did not start: exit code {process.wait()}")
        url = json.loads(line)["url"]
        yield Served(url, process.pid, 1_000 * (time.perf_counter() - began))
    finally:
        process.terminate()
        if process.wait(60):
            raise SystemExit(f"the server ended with exit code {process.returncode}")


def provision(url: str, leaves: int) -> str:
    """Create the tenant, its budgets and its key on a new ledger; return the key."""

    def post(path: str, **body: object) -> Any:
        sent, headers = json.dumps(body).encode(), {"X-Admin-API-Key": ADMIN_KEY}
        request = urllib.request.Request(f"{url}/v1/admin/{path}", sent, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def budget(scope: str, unit: str) -> None:
        plenty = {"unit": unit, "amount": PLENTY}
        post("budgets", tenant_id="bench", scope=scope, unit=unit, allocated=plenty)

    post("tenants", tenant_id="bench", name="Bench")
    budget("tenant:bench", SHARED_UNIT)
    for number in range(leaves):
        budget(f"tenant:bench/workspace:leaf-{number}", LEAF_UNIT)
    secret: str = post("api-keys", tenant_id="bench", name="bench")["key_secret"]
    return secret
