"""Which server a command speaks to, and with which keys.

The rule that lives here: an option beats the environment, and the environment beats the
configuration file; but a profile named with `--profile` beats the environment as a whole.
A key from the file travels only to the server that the file names beside it, and no key is
ever printed.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bursar.cli.exits import EXIT_USAGE, CommandError

BASE_URL_DEFAULT: Final = "http://127.0.0.1:7878"
BASE_URL_VARIABLE: Final = "CYCLES_BASE_URL"
API_KEY_VARIABLE: Final = "CYCLES_API_KEY"
ADMIN_KEY_VARIABLE: Final = "BURSAR_ADMIN_KEY"
CONFIG_VARIABLE: Final = "BURSAR_CONFIG"
PROFILE_VARIABLE: Final = "BURSAR_PROFILE"
PAYMENTS: Final = {
    name: f"BURSAR_{name.upper()}"
    for name in (
        *("payments_rpc", "payments_facilitators", "payments_finality"),
        "payments_facilitator_headers_file",
    )
}
"""What a profile may say about payments, and the variables that say the same."""
CONFIG_BYTES_MAX: Final = 65_536

_KEYS = ("api_key", "admin_key")
_FIELDS = {
    "base_url",
    *PAYMENTS,
    *_KEYS,
    *(f"{key}_{how}" for key in _KEYS for how in ("env", "file")),
}
Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Profile:
    """A server and the keys to use there; `from_option` names the keys given as options."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    name: str | None = None
    withheld: bool = False
    from_option: frozenset[str] = frozenset()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be printed."""
        return tuple(key for key in (self.api_key, self.admin_key) if key)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about server and keys; None is not said."""

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    profile: str | None = None
    config: Path | None = None


def resolve(options: Options, environment: Mapping[str, str], warn: Warn) -> Profile:
    """Return the server and the keys that options, environment and file say together.

    Raises:
        CommandError: the file, the profile, an address or a key cannot be used.
    """
    name, kept = _kept(options, environment, warn)
    seen = {} if options.profile else environment
    given = options.base_url or seen.get(BASE_URL_VARIABLE)
    base_url = _address(given or kept.get("base_url") or BASE_URL_DEFAULT)
    ours = "base_url" in kept and _address(kept["base_url"]) == base_url
    withheld = not ours and any(key in kept for key in _KEYS)
    keys: dict[str, str | None] = {}
    for key, variable in zip(_KEYS, (API_KEY_VARIABLE, ADMIN_KEY_VARIABLE), strict=True):
        found = getattr(options, key) or seen.get(variable) or (kept.get(key) if ours else None)
        keys[key] = None if not found else _usable(key, found)
    from_option = frozenset(key for key in _KEYS if getattr(options, key))
    return Profile(base_url, keys["api_key"], keys["admin_key"], name, withheld, from_option)


def payments(options: Options, environment: Mapping[str, str], warn: Warn) -> dict[str, str]:
    """Return what the environment or the file says about payments, as written; else nothing.

    Raises:
        CommandError: the file or the profile cannot be used.
    """
    _, kept = _kept(options, environment, warn)
    seen = {} if options.profile else environment
    said = {name: seen.get(variable) or kept.get(name) for name, variable in PAYMENTS.items()}
    return {name: value for name, value in said.items() if value}


def config_path(options: Options, environment: Mapping[str, str]) -> tuple[Path, bool]:
    """Return where the configuration is, and whether somebody said so."""
    named = options.config or environment.get(CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser(), True
    home = environment.get("XDG_CONFIG_HOME")
    folder = Path(home) if home else Path(environment.get("HOME") or "~").expanduser() / ".config"
    return folder / "bursar" / "config.toml", False


def _kept(
    options: Options, environment: Mapping[str, str], warn: Warn
) -> tuple[str | None, dict[str, str]]:
    """Return the profile that the configuration file keeps: its name and its values."""
    path, named = config_path(options, environment)
    wanted = options.profile or environment.get(PROFILE_VARIABLE)
    document = _read(path)
    if document is None:
        if named or wanted:
            about = f"--profile {wanted}: " if wanted else ""
            raise _bad(f"{about}there is no configuration file {path}; write one, or leave it out")
        return None, {}
    profiles = _profiles(path, document)
    name = wanted or document.get("default_profile") or "default"
    if name not in profiles:
        if wanted is None and "default_profile" not in document:
            return None, {}
        known = ", ".join(sorted(profiles)) or "none"
        raise _bad(f"{path} has no profile {name!r}; it has: {known}")
    if any(profiles[name].get(key) for key in ("payments_rpc", *_KEYS)):  # an address may hold one
        _warn_if_open(path, warn)
    return name, _values(path, name, profiles[name], environment, warn)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _bad(f"cannot read {path}: {error.strerror or error}") from None
    if len(text) > CONFIG_BYTES_MAX:
        raise _bad(f"{path} is above {CONFIG_BYTES_MAX} bytes; is it the configuration?")
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        # The message of the parser names line and column, and quotes no more than a character.
        raise _bad(f"{path} is not TOML: {error}") from None


def _profiles(path: Path, document: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the profiles of a document whose every field is known."""
    unknown = sorted(document.keys() - {"default_profile", "profiles"})
    if unknown:
        raise _bad(
            f"{path}: {unknown[0]!r} is not known here; a file holds default_profile and tables "
            "[profiles.NAME]"
        )
    if not isinstance(document.get("default_profile", ""), str):
        raise _bad(f"{path}: default_profile must be text")
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict):
        raise _bad(f"{path}: profiles must be tables, [profiles.NAME]")
    for name, values in profiles.items():
        _check(path, name, values)
    return profiles


def _check(path: Path, name: str, values: object) -> None:
    where = f"{path}: profiles.{name}"
    if not isinstance(values, dict):
        raise _bad(f"{where} must be a table, [profiles.{name}]")
    for key, value in values.items():
        if key not in _FIELDS:
            raise _bad(f"{where}.{key} is not known; known are {', '.join(sorted(_FIELDS))}")
        if not isinstance(value, str) or not value.strip():
            raise _bad(f"{where}.{key} must be text that is not empty")
    for key in _KEYS:
        ways = [way for way in (key, f"{key}_env", f"{key}_file") if way in values]
        if len(ways) > 1:
            raise _bad(f"{where}: {' and '.join(ways)} say the same thing; keep one of them")
    if not values.keys() <= PAYMENTS.keys() and "base_url" not in values:
        raise _bad(f"{where}.base_url is missing: a key is for one server, name it")


def _values(
    path: Path, name: str, kept: dict[str, str], environment: Mapping[str, str], warn: Warn
) -> dict[str, str]:
    """Return the profile with its keys fetched from where it says they are."""
    values = {key: kept[key] for key in ("base_url", *PAYMENTS, *_KEYS) if key in kept}
    if written := kept.get("payments_facilitator_headers_file"):
        values["payments_facilitator_headers_file"] = str(path.parent / Path(written).expanduser())
    for key in _KEYS:
        if variable := kept.get(f"{key}_env"):
            if not environment.get(variable):
                warn(f"profile {name}: {key}_env names {variable}, which is not set")
            else:
                values[key] = environment[variable]
        if written := kept.get(f"{key}_file"):
            file = path.parent / Path(written).expanduser()
            try:
                values[key] = file.read_text(encoding="utf-8")[:CONFIG_BYTES_MAX]
            except (OSError, UnicodeDecodeError):
                raise _bad(f"profile {name}: cannot read the {key}_file {file}") from None
            _warn_if_open(file, warn)
    return values


def _warn_if_open(path: Path, warn: Warn) -> None:
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        warn(f"{path} holds a key and others may read it; run: chmod 600 {path}")


def _address(written: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        CommandError: it is not an http address, or it holds a password.
    """
    try:
        parts = urlsplit(written.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        # Asking for a port that is no number raises.
        usable = usable and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:
        usable = False
    if "@" in written:
        raise _bad("the base URL must not hold a user or a password; give a key instead")
    if not usable:
        raise _bad(
            f"the base URL must be like {BASE_URL_DEFAULT} or https://bursar.example.org, not "
            f"{written[:200]!r}"
        )
    return written.strip().rstrip("/")


def _usable(key: str, secret: str) -> str:
    stripped = secret.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable():
        raise _bad(f"the {key.replace('_', ' ')} is not one: it must be printable ASCII text")
    return stripped


def _bad(message: str) -> CommandError:
    return CommandError(EXIT_USAGE, message)
