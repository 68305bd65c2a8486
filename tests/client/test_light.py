"""Importing a name of the SDK costs no more than that name needs."""

import subprocess
import sys

import pytest

HEAVY = ("pydantic", "pydantic_core", "httpx2", "httpx", "asyncio", "ssl", "email")
LIGHT = (
    "config",
    "enums",
    "exceptions",
    "heartbeat_failure",
    "helpers",
    "journal",
    "journal_format",
    "response",
    "validation",
)


@pytest.mark.parametrize("module", LIGHT)
def test_the_ground_loads_neither_models_nor_http(module: str) -> None:
    """No module of the ground loads pydantic, an HTTP client or an event loop."""
    script = f"import sys, bursar.client.{module}\nprint([h for h in {HEAVY} if h in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"


def test_models_load_no_http() -> None:
    """Whoever only builds requests does not pay for sending them."""
    script = "import sys, bursar.client.mappers\nprint('httpx2' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "False"
