"""A base install has the command, and the command says what it lacks."""

import subprocess
import sys


def test_command_names_the_extra_to_install() -> None:
    """One line and no traceback, for whoever installed the SDK alone."""
    script = "import sys; sys.modules['cyclopts'] = None; import bursar.cli.__main__"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    said = "bursar: commands need the server extra; install it with: pip install 'bursar[server]'\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", said)
