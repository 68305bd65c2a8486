"""The options that every command with a server has, and what a command gets from them.

The rule that lives here: these options mean the same everywhere, so they are written once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from bursar.cli.remote.profile import Options, resolve
from bursar.cli.remote.show import Show

if TYPE_CHECKING:
    from bursar.cli.remote.caller import Caller

SERVER = Group("Which server, as whom, and how to answer", sort_key=90)
Flag = Annotated[bool, Parameter(negative="")]
Many = Annotated[list[str] | None, Parameter(negative="")]
Reason = Annotated[str | None, Parameter(help="Why; it stays in the log.")]
Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative="")]


@Parameter(name="*", group=SERVER)
@dataclass(frozen=True, kw_only=True)
class Remote:
    """The server, the keys and the form of the answer."""

    base_url: str | None = None
    """Address of the server; else CYCLES_BASE_URL, the profile, or http://127.0.0.1:7878."""
    api_key: Annotated[str | None, Parameter(show_default=False)] = field(default=None, repr=False)
    """A tenant's key; else CYCLES_API_KEY or the profile. Others on this machine can see an
    option in the process list: prefer the variable or the file."""
    admin_key: Annotated[str | None, Parameter(show_default=False)] = field(
        default=None, repr=False
    )
    """The operator's key; else BURSAR_ADMIN_KEY or the profile."""
    profile: str | None = None
    """Profile of the configuration file; the environment is then not looked at."""
    config: Path | None = None
    """Configuration file; else BURSAR_CONFIG or ~/.config/bursar/config.toml."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Answer with JSON, amounts as exact integers; a failure is JSON on standard error."""

    @property
    def show(self) -> Show:
        """Where the command shows what it found."""
        return Show(as_json=self.as_json)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Caller]:
        """Give a caller of the server for as long as the command runs."""
        from bursar.cli.remote.caller import Caller

        options = Options(self.base_url, self.api_key, self.admin_key, self.profile, self.config)
        with contextlib.closing(Caller(resolve(options, os.environ, self.show.warn))) as caller:
            yield caller


HERE = Remote()
"""The default of every command: nothing said."""
