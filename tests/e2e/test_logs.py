"""What a server writes down when something unexpected happens: enough to find it, no secrets."""

import json
import os
import pty
import subprocess
import sys

import pytest

SECRET = "cyc_live_hunter2hunter2"
FAILS = """
import os
import structlog
from bursar.server import logs

def endpoint(headers):
    known = dict(headers)
    raise RuntimeError("unforeseen")

logs.configure("info")
try:
    endpoint({"x-cycles-api-key": os.environ["GIVEN"]})
except RuntimeError as error:
    structlog.get_logger().error("request failed", exc_info=error)
"""
ENDS_WITHIN_S = 60


def written(*, watched: bool) -> str:
    """Return what goes to standard error, seen by a person (`watched`) or by a program."""
    outer, inner = pty.openpty() if watched else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", FAILS], stderr=inner, env=os.environ | {"GIVEN": SECRET}
    )
    os.close(inner)
    parts = []
    try:
        while part := os.read(outer, 65_536):
            parts.append(part)
    except OSError:
        pass  # how a terminal ends
    os.close(outer)
    assert process.wait(ENDS_WITHIN_S) == 0
    return b"".join(parts).decode()


@pytest.mark.parametrize("watched", [True, False], ids=["terminal", "file"])
def test_a_traceback_shows_no_values(watched: bool) -> None:
    """The place of an unexpected error is named; what its variables held is not."""
    text = written(watched=watched)
    assert "unforeseen" in text
    assert "endpoint" in text
    assert "hunter2" not in text
    if not watched:
        assert json.loads(text)["exception"][0]["exc_type"] == "RuntimeError"
