"""The pytest plugin is found by its entry point, costs nothing unused, and gives a ledger."""

import os
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "howto" / "test_your_agent.md"
PLUGIN = "bursar.testing.plugin"
ENDS_WITHIN_S = 60


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which the entry points of pyproject.toml are those that are installed."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    points = declared["project"]["entry-points"]["pytest11"]
    metadata = tmp_path / "site" / "bursar_entry-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bursar-entry\nVersion: 1\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    search = [str(ROOT / "src")]
    if not any(one.name == "bursar" for one in entry_points(group="pytest11")):
        search.append(str(metadata.parent))
    return os.environ | {"PYTHONPATH": os.pathsep.join(search)}


def run(directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(directory)]
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )


def write(directory: Path, source: str) -> Path:
    made = directory / "suite"
    made.mkdir()
    (made / "pytest.ini").write_text("[pytest]\n")
    (made / "test_it.py").write_text(textwrap.dedent(source))
    return made


def test_unused_plugin_loads_itself_alone(tmp_path: Path, installed: dict[str, str]) -> None:
    """A run of pytest that asks for no ledger imports no more of Bursar than the plugin."""
    suite = write(
        tmp_path,
        """
        import sys

        def test_loaded():
            ours = {name for name in sys.modules if name.split(".")[0] == "bursar"}
            assert ours == {"bursar", "bursar.lazy", "bursar.testing", "bursar.testing.plugin"}
        """,
    )
    told = run(suite, installed)
    assert told.returncode == 0, told.stdout + told.stderr


def test_fixture_needs_no_import(tmp_path: Path, installed: dict[str, str]) -> None:
    """An installed Bursar is enough: each test has a ledger of its own."""
    suite = write(
        tmp_path,
        """
        import pytest

        @pytest.mark.parametrize("run", range(2))
        def test_spends(bursar_ledger, run):
            bursar_ledger.budget("1USD")
            with bursar_ledger.client.reserve(estimate=100_000_000) as guard:
                guard.commit(100_000_000)
            assert bursar_ledger.spent() == 100_000_000
        """,
    )
    told = run(suite, installed)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.fixture
def alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Pytest in this process, with the plugin and no others that happen to be installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\n")
    return pytester


def test_config_of_the_clients_is_overridden(alone: pytest.Pytester) -> None:
    """A suite says once for whom its agents spend."""
    alone.makepyfile(
        """
        import pytest

        @pytest.fixture
        def bursar_config():
            return {"agent": "bot", "tenant": "acme"}

        def test_subject(bursar_ledger):
            bursar_ledger.budget("10 tokens", "tenant:acme/agent:bot")
            bursar_ledger.client.reserve(estimate=1, unit="TOKENS").commit(1)
            assert bursar_ledger.spent("tenant:acme/agent:bot") == 1
        """
    )
    alone.runpytest_inprocess("-p", PLUGIN).assert_outcomes(passed=1)


def test_failed_claim_hides_our_frames(alone: pytest.Pytester) -> None:
    """The traceback ends at the test's own line, with what was found."""
    alone.makepyfile(
        """
        from bursar.testing import assert_settled_once

        def test_nothing(bursar_ledger):
            assert_settled_once(bursar_ledger)
        """
    )
    result = alone.runpytest_inprocess("-p", PLUGIN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert_settled_once(bursar_ledger)",
            "E*the ledger was charged 0 times, not once",
            "E*nothing was ever reserved or charged",
        ]
    )
    assert "__tracebackhide__" not in result.stdout.str()


def test_what_the_guide_shows_passes(alone: pytest.Pytester) -> None:
    """Every test of the how-to is run as pytest runs it."""
    shown = GUIDE.read_text(encoding="utf-8").split("```python\n")[1:]
    source = "\n".join(block.split("```")[0] for block in shown)
    alone.makepyfile(test_guide=source)
    result = alone.runpytest_inprocess("-p", PLUGIN)
    result.assert_outcomes(passed=source.count("\ndef test_"))
    assert source.count("\ndef test_") >= 6
