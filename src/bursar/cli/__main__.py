"""The `bursar` command: one sub-command per job, each with help that teaches.

The rule that lives here: errors leave as one line and an exit code, never as a traceback.
"""

from __future__ import annotations

import os
import sys

from cyclopts import App, CycloptsError

from bursar import __version__
from bursar.cli.exits import EXIT_INTERRUPTED, EXIT_PIPE, EXIT_USAGE, CommandError

app = App(
    name="bursar",
    help="Runtime authority for AI agents: ask before spending, account after, prove the rest.",
    version=__version__,
    result_action="return_value",
)
# By name, so that each command imports only what it needs, when it is called.
app.command("bursar.cli.serve:serve")
app.command("bursar.cli.demo.command:demo")
app.command("bursar.cli.replay.command:replay")


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = app(exit_on_error=False, print_error=False)
    except CommandError as error:
        print(f"bursar: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has gone; say nothing more to nobody
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_PIPE)
    except CycloptsError as error:
        print("bursar:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(EXIT_USAGE)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
