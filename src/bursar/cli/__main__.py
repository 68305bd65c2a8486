"""The `bursar` command: one sub-command per job, each with help that teaches.

The rule that lives here: errors leave as one line and an exit code, never as a traceback.
"""

from __future__ import annotations

import json
import os
import re
import sys

try:
    from cyclopts import App, CycloptsError, Group
except ModuleNotFoundError:
    sys.exit(
        "bursar: commands need the server extra; install it with: pip install 'bursar[server]'"
    )

from bursar import __version__
from bursar.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_USAGE, CommandError

app = App(
    name="bursar",
    help="Runtime authority for AI agents: ask before spending, account after, prove the rest.",
    version=__version__,
    result_action="return_value",
)
_RUN, _LEDGER = Group("Run and try", sort_key=1), Group("Operate a server", sort_key=2)

# By name, so that each command imports only what it needs, when it is called.
COMMANDS = (
    (_RUN, "serve", "serve:serve", "Serve the protocol from one SQLite file."),
    (_RUN, "demo", "demo.command:demo", "Watch a server keep its promises."),
    (_RUN, "agent", "agent:app", "Run an agent within a budget, a time and its turns."),
    (_RUN, "replay", "replay.command:replay", "Replay recorded traffic against a budget."),
    (_LEDGER, "tenant", "remote.tenant:app", "Who owns budgets, keys and policies."),
    (_LEDGER, "key", "remote.key:app", "What agents show to be let in."),
    (_LEDGER, "budget", "remote.budget:app", "How much may be spent at a scope; fund, freeze."),
    (_LEDGER, "policy", "remote.policy:app", "Caps, leases and rates, by scope."),
    (_LEDGER, "balances", "remote.balances:balances", "Where every budget stands."),
    (_LEDGER, "reservations", "remote.reservations:reservations", "What is held; watch it."),
    (_LEDGER, "release", "remote.release:release", "Give a reservation's hold back."),
    (_LEDGER, "explain", "explain.command:explain", "Why would this request be denied?"),
    (_LEDGER, "doctor", "doctor.command:doctor", "Check what commonly is wrong."),
    (_LEDGER, "audit", "audit.commands:app", "Prove that the log and the balances are whole."),
    (_LEDGER, "payments", "payments.commands:app", "What became of payments; refunds, losses."),
    (_LEDGER, "receipt", "receipt:app", "Check signed receipts of payments; make keys for them."),
    (_LEDGER, "backup", "copies.backup:backup", "Back up the ledger of a running server."),
    (_LEDGER, "restore", "copies.restore:restore", "Make a ledger file from a backup."),
)
for _group, _name, _where, _help in COMMANDS:
    # The line stands for the command's own help, which is longer, where it is not loaded.
    _line = None if sys.argv[1:2] == [_name] else _help
    app.command(f"bursar.cli.{_where}", name=_name, group=_group, help=_line)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = app(exit_on_error=False, print_error=False)
        if sys.stdout is not None:  # it may have been closed before the start
            sys.stdout.flush()
    except CommandError as error:
        _tell(error)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has gone; say nothing more to nobody
        _mute()
        sys.exit(EXIT_PIPE)
    except OSError as error:
        _mute()
        _tell(CommandError(EXIT_FAILED, f"{error.filename or 'output'}: {error.strerror or error}"))
        sys.exit(EXIT_FAILED)
    except CycloptsError as error:
        _tell(CommandError(EXIT_USAGE, _mistake(error)))
        sys.exit(EXIT_USAGE)
    sys.exit(code if isinstance(code, int) else 0)


def _mute() -> None:
    """Send what is left of the output nowhere, so that the interpreter's end does not fail."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mistake(error: CycloptsError) -> str:
    """Return what was typed wrongly, and where it says how to type it."""
    said = " ".join(str(error).split()).rstrip(".")
    if negative := re.match(r"Unknown option: (-[\d.$]\S*)\.", said):
        said = f"an amount cannot be negative, got {negative[1]}"
    words = " ".join(["bursar", *(error.command_chain or ())])
    return f"{said}. See: {words} --help"


def _tell(error: CommandError) -> None:
    """Say on standard error why a command failed, in the form that was asked for."""
    if "--json" in sys.argv[1:]:
        print(json.dumps(error.document()), file=sys.stderr)
    else:
        print(f"bursar: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
