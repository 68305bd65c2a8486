"""A file of calls has one user, and nobody who is gone keeps it."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bursar.agent.alone import FileInUseError
from bursar.agent.calls import CallsFormatError, FileCalls

HOLDS = """
import sys, time
from bursar.agent.calls import FileCalls
calls = FileCalls(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""

FORKS = """
import os, sys
from bursar.agent.alone import FileInUseError
from bursar.agent.calls import FileCalls

def free():
    try:
        FileCalls(sys.argv[1]).close()
    except FileInUseError:
        return False
    return True

calls = FileCalls(sys.argv[1])
reading, writing = os.pipe()
waiting, go_on = os.pipe()
child = os.fork()
if child == 0:
    try:
        calls.begin("s/t/0")
    except FileInUseError as error:
        os.write(writing, str(error).encode())
    os.close(writing)
    os.read(waiting, 1)
    os._exit(0)
os.close(writing)
print(os.read(reading, 10_000).decode())
calls.begin("s/t/0")
print("free" if free() else "held")
calls.close()
print("free while the child lives" if free() else "held while the child lives")
calls = FileCalls(sys.argv[1])
os.write(go_on, b".")
os.waitpid(child, 0)
print("free after the child" if free() else "held after the child")
"""


def free(file: Path) -> bool:
    """Say whether somebody could use the file now."""
    try:
        FileCalls(file).close()
    except FileInUseError:
        return False
    return True


def test_two_processes(tmp_path: Path) -> None:
    """The second one is told which file, and what to do; a kill frees it."""
    file = tmp_path / "new" / "s.calls"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        before = file.read_bytes()
        with pytest.raises(FileInUseError) as caught:
            FileCalls(file)
        assert f"{file} is in use" in str(caught.value)
        assert "a file of its own" in str(caught.value)
        assert file.read_bytes() == before
        process.send_signal(signal.SIGKILL)
    assert free(file)


def test_two_users_in_one_process(tmp_path: Path) -> None:
    """It is free when the first one is closed, or collected."""
    file = tmp_path / "s.calls"
    first = FileCalls(file)
    assert not free(file)
    first.close()
    first.close()
    assert free(file)
    with pytest.raises(FileInUseError, match="was closed"):
        first.begin("s/t/0")
    second = FileCalls(file)
    assert not free(file)
    del second
    gc.collect()
    assert free(file)


def test_a_forked_child_has_it_not(tmp_path: Path) -> None:
    """The child is refused; its life does not prolong its parent's hold, nor its end end it."""
    ended = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path / "s.calls")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    child, *parent = ended.stdout.splitlines()
    assert "opened before this process was forked; open it again" in child
    assert parent == ["held", "free while the child lives", "held after the child"]


def test_a_started_program_has_it_not(tmp_path: Path) -> None:
    """What a tool starts may live longer than the agent."""
    file = tmp_path / "s.calls"
    calls = FileCalls(file)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        calls.close()
        assert free(file)
        process.kill()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"schema": 1, "session_id": "s"}', "line 1: not a line of an agent's calls"),
        (b"\xff\x00nothing", "line 1: not a line"),
        (b'{"calls": "x", "schema": 1}\nwhat\n{"begin": "s/t/0", "attempt": 1}\n', "line 2: not"),
        (b'{"calls": "x", "schema": 2}\n{"since": 2}\n', "has schema 2, and this version reads 1"),
        (b"[]\n", "line 1: not a line"),
        (b"[" * 100_000, "line 1: not a line"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes, said: str) -> None:
    """It is named, and is as it was; nobody holds it."""
    file = tmp_path / "s.calls"
    file.write_bytes(content)
    for _ in range(2):
        with pytest.raises(CallsFormatError, match=said) as caught:
            FileCalls(file)
        assert str(file) in str(caught.value)
    assert file.read_bytes() == content


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """Somebody made room for it; only its owner may read what is then in it."""
    file = tmp_path / "s.calls"
    file.touch()
    with FileCalls(file) as calls:
        assert calls.begin("s/t/0") == 1
    assert file.stat().st_mode & 0o077 == 0
