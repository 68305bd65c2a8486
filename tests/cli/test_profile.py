"""Which server a command speaks to, and with which keys: who beats whom."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.cli.exits import EXIT_USAGE, CommandError
from bursar.cli.remote.profile import BASE_URL_DEFAULT, Options, Profile, resolve

HERE, THERE = "http://127.0.0.1:9001", "https://there.example.org"
FILE = f"""
default_profile = "here"
[profiles.here]
base_url = "{HERE}/"
api_key = "file-api"
admin_key = "file-admin"
[profiles.there]
base_url = "{THERE}"
admin_key_env = "THERE_ADMIN"
"""
ENVIRONMENT = {
    "CYCLES_BASE_URL": THERE,
    "CYCLES_API_KEY": "env-api",
    "BURSAR_ADMIN_KEY": "env-admin",
    "THERE_ADMIN": "there-admin",
}
Resolve = Callable[..., Profile]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "bursar.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def resolved(kept: Path, warned: list[str]) -> Resolve:
    """Return a function that resolves options with the file and some of the environment."""

    def run(*variables: str, **options: str) -> Profile:
        environment = {name: ENVIRONMENT[name] for name in variables}
        return resolve(Options(config=kept, **options), environment, warned.append)

    return run


def seen(profile: Profile) -> tuple[str, str | None, str | None]:
    return profile.base_url, profile.api_key, profile.admin_key


def test_file_is_the_last_resort(resolved: Resolve) -> None:
    """Where nothing else is said, the file's default profile holds, without the slash."""
    assert seen(resolved()) == (HERE, "file-api", "file-admin")


def test_environment_beats_the_file(resolved: Resolve) -> None:
    """A key of the environment replaces the file's; the other one stays."""
    assert seen(resolved("BURSAR_ADMIN_KEY")) == (HERE, "file-api", "env-admin")


def test_option_beats_the_environment(resolved: Resolve) -> None:
    """An option is above everything."""
    profile = resolved("CYCLES_BASE_URL", "CYCLES_API_KEY", base_url=HERE, api_key="option")
    assert seen(profile) == (HERE, "option", "file-admin")
    assert profile.from_option == {"api_key"}


def test_named_profile_beats_the_environment_as_a_whole(resolved: Resolve) -> None:
    """`--profile` never mixes its server with keys that the environment has for another."""
    everything = [name for name in ENVIRONMENT if name != "THERE_ADMIN"]
    assert seen(resolved(*everything, profile="here")) == (HERE, "file-api", "file-admin")


def test_profile_may_name_a_variable(resolved: Resolve, warned: list[str]) -> None:
    """A key may stay in a variable of its own; an unset one is a warning."""
    assert seen(resolved("THERE_ADMIN", profile="there")) == (THERE, None, "there-admin")
    assert seen(resolved(profile="there")) == (THERE, None, None)
    assert warned == ["profile there: admin_key_env names THERE_ADMIN, which is not set"]


def test_key_of_the_file_stays_with_its_server(resolved: Resolve) -> None:
    """A key from the file is not sent to a server that the file does not name beside it."""
    profile = resolved("CYCLES_BASE_URL")
    assert seen(profile) == (THERE, None, None)
    assert profile.withheld
    assert seen(resolved(base_url=THERE, profile="here")) == (THERE, None, None)


def test_nothing_said(tmp_path: Path) -> None:
    """Without a file and a variable the server is the one that `bursar serve` starts."""
    environment = {"HOME": str(tmp_path)}
    assert seen(resolve(Options(), environment, print)) == (BASE_URL_DEFAULT, None, None)


@pytest.mark.parametrize("home", ["XDG_CONFIG_HOME", "HOME"])
def test_file_is_found(home: str, tmp_path: Path) -> None:
    """The file is looked for where the desktop keeps configuration."""
    folder = tmp_path if home == "XDG_CONFIG_HOME" else tmp_path / ".config"
    (folder / "bursar").mkdir(parents=True)
    (folder / "bursar" / "config.toml").write_text(f'[profiles.default]\nbase_url = "{HERE}"\n')
    environment = {"HOME": str(tmp_path / "other")} | {home: str(tmp_path)}
    assert resolve(Options(), environment, print).base_url == HERE


def test_readable_file_warns(resolved: Resolve, kept: Path, warned: list[str]) -> None:
    """A file with a key that others may read is said to be so, with the command that helps."""
    kept.chmod(0o644)
    resolved()
    assert len(warned) == 1
    assert f"chmod 600 {kept}" in warned[0]
    assert "file-admin" not in warned[0]


def test_key_from_a_file(tmp_path: Path) -> None:
    """A key may be the content of a file beside the configuration."""
    (tmp_path / "admin").write_text("  of-the-file\n")
    (tmp_path / "admin").chmod(0o600)
    config = tmp_path / "c.toml"
    config.write_text(f'[profiles.default]\nbase_url = "{HERE}"\nadmin_key_file = "admin"\n')
    assert resolve(Options(config=config), {}, print).admin_key == "of-the-file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles = [", "is not TOML"),
        ("wrong = 1", "'wrong' is not known"),
        ("default_profile = 1", "default_profile must be text"),
        ("default_profile = 'x'", "has no profile 'x'; it has: none"),
        ("profiles = 1", "profiles must be tables"),
        ("profiles.a = 1", r"profiles\.a must be a table"),
        ("[profiles.a]\nbase_url = 1", r"profiles\.a\.base_url must be text"),
        ("[profiles.a]\nurl = 'x'", r"profiles\.a\.url is not known"),
        ("[profiles.a]\napi_key = 'hidden'", r"base_url is missing"),
        (
            "[profiles.a]\nbase_url = 'x'\napi_key = 'hidden'\napi_key_env = 'Y'",
            "say the same thing",
        ),
        ("[profiles.default]\nbase_url = 'x'\nadmin_key_file = 'gone'", "cannot read"),
        ("[profiles.default]\nbase_url = 'x'", "base URL must be like"),
    ],
)
def test_bad_file(text: str, message: str, tmp_path: Path) -> None:
    """What is wrong with a file is said by name, without a key that it holds."""
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(CommandError, match=message) as raised:
        resolve(Options(config=config), {}, print)
    assert raised.value.code == EXIT_USAGE
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": Path("gone.toml")}, "there is no configuration file gone.toml"),
        ({"profile": "prod"}, "--profile prod: there is no configuration file"),
        ({"base_url": "ftp://x"}, "must be like"),
        ({"base_url": "http://x:port"}, "must be like"),
        ({"base_url": "http://"}, "must be like"),
        ({"base_url": "http://x?a=1"}, "must be like"),
        ({"base_url": "http://me:hidden@x"}, "must not hold a user or a password"),
        ({"api_key": "hid\nden"}, "the api key is not one"),
        ({"admin_key": "hïdden"}, "the admin key is not one"),
    ],
)
def test_bad_option(options: dict[str, object], message: str, tmp_path: Path) -> None:
    """What cannot be used is said before anything is sent; a key is never repeated."""
    with pytest.raises(CommandError, match=message) as raised:
        resolve(Options(**options), {"HOME": str(tmp_path)}, print)  # type: ignore[arg-type]  # a table of options
    assert raised.value.code == EXIT_USAGE
    assert "hid" not in str(raised.value).replace("hidden file", "")


def test_keys_are_not_shown(resolved: Resolve) -> None:
    """The representation of what was resolved holds no key."""
    assert "file-admin" not in repr(resolved())
    assert "option" not in repr(Options(api_key="option"))
