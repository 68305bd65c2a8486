"""Commands on a terminal: a watch that is drawn in place, and a question that is answered."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import Served

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.drawn = ""
        self._master = master

    def wait_for(self, text: str, times: int = 1, seconds: float = 20) -> None:
        """Read until some text was drawn so many times."""
        end = time.monotonic() + seconds
        while self.drawn.count(text) < times:
            assert time.monotonic() < end, self.drawn
            self._read(0.1)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ended(self) -> int:
        """Read to the end; return the exit code."""
        end = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < end, self.drawn
            self._read(0.1)
        while self._read(0.1):
            pass
        return self.process.returncode

    @property
    def lines(self) -> list[str]:
        """What was drawn, without what only moves or colours, and the echo of Ctrl-C."""
        return re.split(r"[\r\n]+", ESCAPE.sub("", self.drawn).replace("^C", ""))

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            said = os.read(self._master, 65_536)
        except OSError:  # the other side is closed
            return False
        self.drawn += said.decode(errors="replace")
        return bool(said)


@contextlib.contextmanager
def terminal(served: Served, *words: str, columns: int) -> Iterator[Terminal]:
    """Run `bursar WORDS...` as the operator on a terminal so many columns wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {
        "CYCLES_BASE_URL": served.url,
        "BURSAR_ADMIN_KEY": served.admin_key,
        "TERM": "xterm-256color",
    }
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "bursar.cli", *words],
        env=kept | own,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(master)


@pytest.fixture
def tenant(operator: Any, request: pytest.FixtureRequest) -> str:
    """A tenant with 100 dollars."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name).strip("-")
    assert operator("tenant", "create", name).code == 0
    assert operator("budget", "create", f"tenant:{name}", "100USD").code == 0
    return name


@pytest.mark.parametrize("columns", [60, 100])
def test_watch_draws_in_place(
    served: Served, operator: Any, agent_with: Any, tenant: str, columns: int
) -> None:
    """A watch redraws a table that fits, shows what came, and ends with 0 on Ctrl-C."""
    made = operator("key", "create", "--tenant", tenant, "--name", "k", "--json").document
    agent = agent_with(made["key_secret"])
    first = agent.reserve(tenant, "k1", usd=2)
    words = ("reservations", "--tenant", tenant, "--watch", "--interval", "0.2")
    with terminal(served, *words, columns=columns) as screen:
        screen.wait_for(first, times=2)
        second = agent.reserve(tenant, "k2", usd=3)
        screen.wait_for(second)
        screen.type("\x03")
        assert screen.ended() == 0
    assert max(map(len, screen.lines)) <= columns
    assert "\x1b[1A" in screen.drawn  # drawn over the last picture, not below it
    assert "Traceback" not in screen.drawn
    text = "\n".join(screen.lines)
    assert "1 reservations  Ctrl-C ends" in text
    assert "2 reservations  Ctrl-C ends" in text
    assert "$2.00" in text
    assert "$3.00" in text


def test_watch_says_what_is_below_the_screen(
    served: Served, operator: Any, agent_with: Any, tenant: str
) -> None:
    """Where rows take several lines, those that do not fit whole are counted, not cut off."""
    made = operator("key", "create", "--tenant", tenant, "--name", "k", "--json").document
    agent = agent_with(made["key_secret"])
    for number in range(8):
        agent.reserve(tenant, f"k{number}")
    words = ("reservations", "--tenant", tenant, "--watch", "--interval", "0.2", "--rounds", "2")
    with terminal(served, *words, columns=60) as screen:
        assert screen.ended() == 0
    below = re.search(r"8 reservations; (\d+) more below", "\n".join(screen.lines))
    assert below is not None
    ids = {line for line in screen.lines if line.startswith("reservation ")}
    assert len(ids) == 8 - int(below[1])


@pytest.mark.parametrize(("typed", "after"), [("suspend 1", "SUSPENDED"), ("yes", "ACTIVE")])
def test_a_bulk_action_is_confirmed(
    served: Served, operator: Any, tenant: str, typed: str, after: str
) -> None:
    """Only the verb with the number is a yes."""
    words = ("tenant", "bulk", "suspend", "--search", tenant)
    with terminal(served, *words, columns=80) as screen:
        screen.wait_for("Type suspend 1 to go on")
        assert tenant in screen.drawn
        screen.type(f"{typed}\n")
        assert screen.ended() == (0 if after == "SUSPENDED" else 12)
    assert operator("tenant", "show", tenant, "--json").document["status"] == after
