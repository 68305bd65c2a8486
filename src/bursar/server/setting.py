"""What a setting is.

The rule that lives here: a setting is described once, in words that the command line, the
environment and the documentation share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: field name, environment variable, type, default, sentence."""

    name: str
    env: str
    type: type
    default: Any
    sentence: str
    minimum: int | None = None
    maximum: int | None = None


class SettingError(ValueError):
    """A setting that cannot be used; the message names it, its limit and the fix."""
