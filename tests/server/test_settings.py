"""Settings: defaults, where they come from, and errors that name the variable and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar.server.settings import SETTINGS, SettingError, load

KEY = "k" * 16


def test_defaults() -> None:
    """Without environment and command line every setting has the default of the table."""
    settings = load({}, {})
    assert {each.name: getattr(settings, each.name) for each in SETTINGS} == {
        each.name: each.default for each in SETTINGS
    }
    assert settings.store_path == Path("bursar.db")


def test_every_setting_has_its_own_variable() -> None:
    """Names and variables are unique, and the variable is the name in capitals."""
    assert len({each.name for each in SETTINGS}) == len(SETTINGS)
    assert [each.env for each in SETTINGS] == [f"BURSAR_{each.name.upper()}" for each in SETTINGS]
    assert all(each.sentence.endswith(".") for each in SETTINGS)


def test_the_command_line_beats_the_environment() -> None:
    """An override wins; None and an empty variable mean not given."""
    environment = {"BURSAR_PORT": "1000", "BURSAR_HOST": "", "BURSAR_ADMIN_KEY": KEY, "OTHER": "x"}
    assert load(environment, {}).port == 1_000
    assert load(environment, {"port": 2_000}).port == 2_000
    assert load(environment, {"port": None}).port == 1_000
    assert load(environment, {"port": 0}).port == 0
    assert load(environment, {}).host == "127.0.0.1"
    assert load(environment, {}).admin_key == KEY


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.type is int], ids=lambda s: s.name)
def test_numbers(setting: Any) -> None:
    """A number is whole and not below its minimum; the message names where it came from."""
    for wrong in ("ten", "1.5", "1e3", "0x10", "--1", "1 2"):
        with pytest.raises(SettingError) as caught:
            load({setting.env: wrong}, {})
        assert str(caught.value) == f"{setting.env}: must be a whole number, got {wrong!r}"
    below = setting.minimum - 1
    with pytest.raises(SettingError) as caught:
        load({setting.env: str(below)}, {})
    assert str(caught.value) == f"{setting.env}: must be at least {setting.minimum}, got {below}"
    with pytest.raises(SettingError, match=rf"^{setting.name}: must be at least"):
        load({}, {setting.name: below})
    assert getattr(load({setting.env: str(setting.minimum)}, {}), setting.name) == setting.minimum


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"store": "bursar.db"}, "store: must be sqlite:///FILE, got 'bursar.db'; for example"),
        ({"store": "postgres://x/y"}, "store: must be sqlite:///FILE"),
        ({"store": "sqlite:///"}, "store: must be sqlite:///FILE"),
        ({"store": "sqlite://x"}, "store: must be sqlite:///FILE"),
        (
            {"store": "sqlite:///:memory:"},
            "store: a ledger in memory would be gone with the server; name a file, for example",
        ),
        ({"port": 65_536}, "port: must be at most 65535, got 65536"),
        ({"sweep_interval_ms": 5_001}, "sweep_interval_ms: must be at most 5000, got 5001"),
        ({"log_level": "verbose"}, "log_level: must be one of debug, info, warning, error"),
        ({"log_level": "INFO"}, "log_level: must be one of debug, info, warning, error"),
        ({"admin_key": "k" * 15}, "admin_key: must have at least 16 characters, got 15"),
        ({"admin_key": KEY + "\n"}, "admin_key: must be printable ASCII"),
        ({"admin_key": " " + KEY}, "admin_key: must be printable ASCII"),
        ({"admin_key": KEY + "é"}, "admin_key: must be printable ASCII"),
        ({"admin_key": KEY + "\udcff"}, "admin_key: must be printable ASCII"),
        ({"admin_key": KEY + "\x00"}, "admin_key: must be printable ASCII"),
    ],
    ids=str,
)
def test_what_cannot_be_used(overrides: dict[str, Any], message: str) -> None:
    """The setting, its limit and the fix; never the key itself."""
    with pytest.raises(SettingError) as caught:
        load({}, overrides)
    assert str(caught.value).startswith(message)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("store", "path"),
    [
        ("sqlite:///a.db", "a.db"),
        ("sqlite:////var/lib/a.db", "/var/lib/a.db"),
        ("sqlite:///./x/../a b.db", "x/../a b.db"),
        ("sqlite:///sqlite:///a.db", "sqlite:/a.db"),
    ],
)
def test_where_the_store_is(store: str, path: str) -> None:
    """Three slashes and a relative path, or four and an absolute one."""
    assert load({}, {"store": store}).store_path == Path(path)


def test_fields_and_table_are_the_same() -> None:
    """A setting exists if and only if it is in the table."""
    from dataclasses import fields

    from bursar.server.settings import Settings

    assert [each.name for each in fields(Settings)] == [each.name for each in SETTINGS]
