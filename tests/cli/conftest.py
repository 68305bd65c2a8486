"""The command line as people use it: words in, output, error and exit code out."""

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.cli.__main__ import main
from conftest import Served, serving

USD = 100_000_000


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of `bursar` left behind."""

    code: Any
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The one JSON document on standard error."""
        return json.loads(self.err)


Run = Callable[..., Ran]


class Agent:
    """An agent with a key, over HTTP."""

    def __init__(self, url: str, secret: str) -> None:
        self._client = httpx2.Client(
            base_url=url, headers={"X-Cycles-API-Key": secret}, trust_env=False
        )

    def close(self) -> None:
        self._client.close()

    def reserve(self, tenant: str, key: str, usd: int = 1, agent: str = "reader") -> str:
        body = {
            "idempotency_key": key,
            "subject": {"tenant": tenant, "agent": agent},
            "action": {"kind": "llm.completion", "name": "gpt-4o"},
            "estimate": {"unit": "USD_MICROCENTS", "amount": usd * USD},
        }
        said: dict[str, Any] = self._client.post("/v1/reservations", json=body).json()
        return str(said["reservation_id"])

    def commit(self, reservation_id: str, key: str, usd: int = 1) -> None:
        body = {"idempotency_key": key, "actual": {"unit": "USD_MICROCENTS", "amount": usd * USD}}
        path = f"/v1/reservations/{reservation_id}/commit"
        assert self._client.post(path, json=body).status_code == 200


@contextlib.contextmanager
def typed(*words: str, answers: str, env: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["bursar", *words])
        patch.setattr(sys, "stdin", io.StringIO(answers))
        for name, value in env.items():
            patch.setenv(name, value)
        # cyclopts warns of an app that reads `sys.argv` in a test; here that is the test.
        warnings.filterwarnings("ignore", "Cyclopts application invoked", UserWarning)
        yield


@pytest.fixture
def bursar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Return a function that runs `bursar WORDS...` in this process, in an empty home."""

    def run(*words: str, answers: str = "", **env: str) -> Ran:
        own = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")} | env
        with typed(*words, answers=answers, env=own), pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run one server for the tests of a module."""
    with serving(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def operator(bursar: Run, served: Served) -> Run:
    """Return `bursar` with the module's server and its admin key in the environment."""

    def run(*words: str, answers: str = "", **env: str) -> Ran:
        own = {"CYCLES_BASE_URL": served.url, "BURSAR_ADMIN_KEY": served.admin_key} | env
        return bursar(*words, answers=answers, **own)

    return run


@pytest.fixture
def agent_with(served: Served) -> Iterator[Callable[[str], Agent]]:
    """Return a function that makes an agent with a key's secret."""
    with contextlib.ExitStack() as stack:

        def make(secret: str) -> Agent:
            agent = Agent(served.url, secret)
            stack.callback(agent.close)
            return agent

        yield make
