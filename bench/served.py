"""A real `bursar serve` on a new ledger: one tenant, one key, one budget for everybody.

The rule that lives here: what is measured is the command that people run, with its
defaults. Nothing is switched off for the figures, durability least of all.
"""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ADMIN_KEY = "only-for-this-loopback-server"
SERVE = [sys.executable, "-m", "bursar.cli", "serve", "--port", "0", "--json"]


@contextlib.contextmanager
def serving(store: Path) -> Iterator[tuple[int, str]]:
    """Serve a new ledger at `store` until the block ends; yield its port and an API key."""
    environment = os.environ | {"BURSAR_ADMIN_KEY": ADMIN_KEY, "BURSAR_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [*SERVE, "--store", f"sqlite:///{store}"], env=environment, stdout=subprocess.PIPE
    )
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise SystemExit(f"the server did not start: exit code {process.wait()}")
        url = json.loads(line)["url"]
        yield urlsplit(url).port or 0, _provision(url)
    finally:
        process.terminate()
        if process.wait(15):
            raise SystemExit(f"the server ended with exit code {process.returncode}")


def _provision(url: str) -> str:
    def post(path: str, **body: object) -> Any:
        sent, headers = json.dumps(body).encode(), {"X-Admin-API-Key": ADMIN_KEY}
        request = urllib.request.Request(f"{url}/v1/admin/{path}", sent, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    post("tenants", tenant_id="bench", name="Bench")
    plenty = {"unit": "TOKENS", "amount": 2**62}
    post("budgets", tenant_id="bench", scope="tenant:bench", unit="TOKENS", allocated=plenty)
    secret: str = post("api-keys", tenant_id="bench", name="bench")["key_secret"]
    return secret
