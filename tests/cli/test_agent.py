"""`bursar agent run`, as a process of its own against a scripted provider over HTTP."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bursar.agent.calls import FileCalls
from bursar.agent.ports import TokenUsage
from bursar.agent.pricing import ListPriced
from bursar.cli.agent import run as run_help
from bursar.testing.providers import Reply, ScriptedProvider, ToolUse

MODELS = ["openai:gpt-4o-mini", "anthropic:claude-haiku-4-5"]
TOOLS = '''
def search(text: str) -> str:
    """Search."""
    return f"found {text}"


def shell(text: str) -> str:
    """Run."""
    raise SystemExit("it must not run")
'''
USES = [ToolUse("search", {"text": "ledgers"}), ToolUse("shell", {"text": "rm"})]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def start(provider: ScriptedProvider, *words: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CYCLES_")}
    return subprocess.Popen(
        [sys.executable, "-m", "bursar.cli", "agent", "run", *words],
        env=kept | provider.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(provider: ScriptedProvider, *words: str) -> tuple[int, str, str]:
    process = start(provider, *words)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def toolbox(tmp_path: Path) -> str:
    file = tmp_path / "my_tools.py"
    file.write_text(TOOLS, encoding="utf-8")
    return str(file)


def test_an_answer_is_shown_with_its_tokens_and_its_price(model: str) -> None:
    """The answer is standard output; a line per turn is beside it."""
    with ScriptedProvider([Reply("A book of debts.", input_tokens=1_000)]) as provider:
        code, out, err = run(provider, "What?", "--model", model, "--budget", "0.50USD")
    assert (code, out.strip()) == (0, "A book of debts."), err
    assert "[turn 1] completed: 1000 tokens in, 4 out, $0.00" in err


def test_tools_are_used_within_permissions(model: str, toolbox: str) -> None:
    """An allowed tool runs, a denied one does not, and both are told to the model."""
    script = [Reply(tools=USES), Reply("Done.")]
    with ScriptedProvider(script) as provider:
        code, out, err = run(
            provider,
            *("Look.", "--model", model, "--budget", "1USD", "--json"),
            *("--tools", toolbox, "--allow", "search"),
        )
        said = json.dumps(provider.requests[1])
    assert code == 0, err
    (turn,) = json.loads(out)["turns"]
    assert [name for name, _ in turn["denials"]] == ["shell"]
    assert "found ledgers" in said
    assert "not allowed" in said


AGENT = '''
from bursar.agent import SubAgent
from bursar.agent.models import model

helper = SubAgent("helper", model({model!r}), about="Helps.")


def orchestrate(prompt: str) -> str:
    """Ask the helper twice."""
    engine = helper.engine()
    return " ".join(engine.submit_message(text).output for text in (prompt, "More."))
'''


@pytest.mark.parametrize("name", ["helper", "orchestrate"])
def test_a_module_offers_an_agent(model: str, name: str, tmp_path: Path) -> None:
    """It is paid for as the agent above is, and what it used is the turn's."""
    file = tmp_path / "my_agents.py"
    file.write_text(AGENT.format(model=model), encoding="utf-8")
    ask = Reply(tools=[ToolUse(name, {"prompt": "Help."})], input_tokens=100)
    helps = [Reply("Yes.", input_tokens=1_000)] * (1 if name == "helper" else 2)
    with ScriptedProvider([ask, *helps, Reply("Done.", input_tokens=100)]) as provider:
        code, out, err = run(
            provider, "Go.", "--model", model, "--budget", "1USD", "--json", "--tools", str(file)
        )
        said = json.dumps(provider.requests[-1])
    document = json.loads(out)
    assert code == 0, err
    assert ("Yes. Yes." if name == "orchestrate" else "Yes.") in said
    (turn,) = document["turns"]
    assert turn["input_tokens"] == 200 + 1_000 * len(helps)
    listed = ListPriced(model.partition(":")[2])
    counts = [(100, 10), *[(1_000, 1)] * len(helps), (100, 1)]
    assert turn["spent_microcents"] == sum(listed.cost(TokenUsage(*one)) for one in counts)
    assert "Warning" not in err


@pytest.mark.parametrize(
    ("replies", "words", "code", "reason"),
    [
        ([Reply("yes")] * 2, ["--continue-with", "go on", "--max-turns", "2"], 0, "completed"),
        ([Reply("no", status=401)], [], 1, "error"),
        ([Reply("yes")], ["--budget", "1"], 21, "max_budget_reached"),
        ([Reply("yes", silent=True)], ["--timeout", "0.5"], 124, "timeout"),
        ([Reply("yes", stalls_after=1)], ["--timeout", "0.5"], 124, "timeout"),
    ],
)
def test_how_a_run_ends_is_its_exit_code(
    model: str, replies: list[Reply], words: list[str], code: int, reason: str
) -> None:
    """A script can tell a time from a budget and from an error."""
    budget = [] if "--budget" in words else ["--budget", "1USD"]
    with ScriptedProvider(replies) as provider:
        found, out, err = run(provider, "What?", "--model", model, "--json", *budget, *words)
    document = json.loads(out)
    assert (found, document["stop_reason"]) == (code, reason), err
    assert document["exit_code"] == code


def test_a_session_goes_on(tmp_path: Path) -> None:
    """What was said before is told again, and the budget is the session's."""
    file = tmp_path / "talk.json"
    words = ["--model", MODELS[0], "--budget", "1USD", "--session", str(file), "--json"]
    with ScriptedProvider([Reply("One."), Reply("Two.")]) as provider:
        codes = [run(provider, text, *words, "--max-turns", "2")[0] for text in ("A?", "B?", "C?")]
        assert codes == [0, 0, 22]
        assert [one["content"] for one in provider.requests[1]["messages"]] == ["A?", "One.", "B?"]


def test_a_session_is_run_by_one_process(tmp_path: Path) -> None:
    """The second one is told, and the first one goes on."""
    file = tmp_path / "talk.json"
    words = ["A?", "--model", MODELS[0], "--budget", "1USD", "--session", str(file), "--json"]
    with ScriptedProvider([Reply("One.")]) as provider:
        with FileCalls(tmp_path / "talk.calls"):
            code, _, err = run(provider, *words)
            assert (code, provider.requests) == (2, [])
            assert "another process runs talk.json" in err
        assert run(provider, *words)[0] == 0


def test_the_example_of_the_help_works_as_printed() -> None:
    """What the help shows can be typed as it stands."""
    (example,) = {
        line.removeprefix("    Example: ")
        for line in (run_help.__doc__ or "").splitlines()
        if line.startswith("    Example: ")
    }
    with ScriptedProvider([Reply("A book.")]) as provider:
        code, out, err = run(provider, *shlex.split(example)[3:])
    assert (code, out.strip()) == (0, "A book."), err


def wait_for(provider: ScriptedProvider) -> None:
    give_up = time.monotonic() + 30
    while not provider.requests:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 20)])
def test_the_first_signal_cancels(number: int, code: int) -> None:
    """The turn ends as cancelled, and what it may have cost is accounted for."""
    with ScriptedProvider([Reply("one two", stalls_after=1)]) as provider:
        process = start(provider, "?", "--model", MODELS[0], "--budget", "1USD", "--json")
        wait_for(provider)
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 5.0
    document = json.loads(out)
    assert (process.returncode, document["stop_reason"]) == (code, "cancelled"), err
    assert document["spent_microcents"] > 0


def test_the_second_signal_abandons(tmp_path: Path) -> None:
    """A tool that does not listen does not hold the process."""
    file = tmp_path / "slow.py"
    file.write_text("import time\ndef wait() -> str:\n    time.sleep(60)\n    return ''\n")
    with ScriptedProvider([Reply(tools=[ToolUse("wait")])]) as provider:
        words = ["--model", MODELS[0], "--budget", "1USD", "--tools", str(file)]
        process = start(provider, "?", *words)
        wait_for(provider)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert time.monotonic() - began < 5.0
    assert process.returncode == 130


WEDGED = {
    "an async tool that ignores its cancellation": """
import asyncio
async def wedge() -> str:
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
""",
    "an async tool that blocks the event loop": """
import time
async def wedge() -> str:
    time.sleep(120)
    return ''
""",
    "a thread that nobody can stop": """
import asyncio, time
async def wedge() -> str:
    await asyncio.to_thread(time.sleep, 120)
    return ''
""",
}


@pytest.mark.parametrize("source", WEDGED.values(), ids=WEDGED)
def test_a_tool_that_does_not_listen_is_left(source: str, tmp_path: Path) -> None:
    """The process ends as its deadline says, a while after it, and not when the tool does."""
    file = tmp_path / "wedged.py"
    file.write_text(source)
    with ScriptedProvider([Reply(tools=[ToolUse("wedge")])]) as provider:
        words = ["--model", MODELS[0], "--budget", "1USD", "--tools", str(file), "--timeout", "1"]
        code, _, err = run(provider, "?", *words)
    assert (code, "timeout" in err) == (124, True), err


def test_ctrl_c_reaches_a_blocked_loop(tmp_path: Path) -> None:
    """The first signal is answered, the second one ends the process."""
    file = tmp_path / "wedged.py"
    file.write_text(WEDGED["an async tool that blocks the event loop"])
    with ScriptedProvider([Reply(tools=[ToolUse("wedge")])]) as provider:
        words = ["--model", MODELS[0], "--budget", "1USD", "--tools", str(file)]
        process = start(provider, "?", *words)
        wait_for(provider)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "cancelling" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "abandoned" in err) == (130, True)


LONG = f"{'x' * 1_000} " * 400
"""More than a pipe holds."""


def test_a_reader_that_goes_away_ends_the_run() -> None:
    """As in `bursar agent run ... | head -c 3`."""
    with ScriptedProvider([Reply(LONG)]) as provider, start(provider, "?", *FINE) as process:
        assert process.stdout is not None
        process.stdout.read(3)
        process.stdout.close()
        assert process.wait(60) == 141


def test_a_reader_that_does_not_read_is_not_waited_for() -> None:
    """The pipe is full; the deadline holds all the same."""
    words = [*FINE, "--timeout", "1"]
    with ScriptedProvider([Reply(LONG)]) as provider, start(provider, "?", *words) as process:
        assert process.wait(60) == 124


def test_an_output_that_is_full_is_told(tmp_path: Path) -> None:
    """What cannot be written is said in one line."""
    with ScriptedProvider([Reply("yes")]) as provider, Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bursar.cli", "agent", "run", "?", *FINE, "--json"],
            env=os.environ | provider.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, "No space left" in ended.stderr) == (1, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_an_output_it_runs_all_the_same() -> None:
    """As in `bursar agent run ... >&-`: the turn is paid for, and nothing is a traceback."""
    with ScriptedProvider([Reply("yes")]) as provider:
        command = shlex.join([sys.executable, "-m", "bursar.cli", "agent", "run", "?", *FINE])
        ended = subprocess.run(
            ["sh", "-c", f"{command} >&-"],
            env=os.environ | provider.environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr


def test_what_a_tool_prints_is_not_the_answer(tmp_path: Path) -> None:
    """Standard output is one document, whatever runs besides."""
    file = tmp_path / "loud.py"
    file.write_text("print('loading')\ndef shout() -> str:\n    print('shout')\n    return ''\n")
    with ScriptedProvider([Reply(tools=[ToolUse("shout")]), Reply("quiet")]) as provider:
        code, out, err = run(provider, "?", *FINE, "--json", "--tools", str(file))
    assert (code, json.loads(out)["turns"][0]["output"]) == (0, "quiet"), err
    assert "loading" in err
    assert "shout" in err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def search(text): ...", "parameter text has no type"),
        ("def search(*texts: str): ...", "cannot be named by a model"),
        ("def search(text: Nothing): ...", "name 'Nothing' is not defined"),
        ("class Odd: ...\ndef search(text: Odd): ...", "Odd"),
        ("TOOLS = 5", "TOOLS must be a list of functions, not int"),
        ("TOOLS = [5]", "TOOLS has 5, which is no function"),
        ("import sys\nsys.exit(3)", "cannot be loaded: SystemExit: 3"),
    ],
)
def test_tools_that_cannot_be_used_are_named(source: str, said: str, tmp_path: Path) -> None:
    """Before anybody is asked, in one line."""
    file = tmp_path / "mine.py"
    file.write_text(f"from __future__ import annotations\n{source}\n")
    with ScriptedProvider([]) as provider:
        code, out, err = run(provider, "?", *FINE, "--tools", str(file))
        assert provider.requests == []
    assert (code, out) == (2, "")
    assert err.startswith("bursar: --tools: ")
    assert said in err
    assert "Traceback" not in err


def test_a_tool_that_is_allowed_or_denied_must_be_there(toolbox: str) -> None:
    """`--deny serach` would let search run."""
    with ScriptedProvider([]) as provider:
        for words, said in (
            (["--deny", "serach", "--tools", toolbox], "there are: search, shell"),
            (["--allow", "serach", "--tools", toolbox], "--allow: there is no tool 'serach'"),
            (["--deny", "search"], "--tools names a module"),
        ):
            code, _, err = run(provider, "?", *FINE, *words)
            assert (code, said in err) == (2, True), err


@pytest.mark.parametrize(
    ("server", "code"), [({"CYCLES_BASE_URL": "http://127.0.0.1:1", "CYCLES_API_KEY": "k"}, 6)]
)
def test_a_ledger_that_does_not_answer_has_its_exit_code(server: dict[str, str], code: int) -> None:
    """A script tells a ledger that is down from a model that failed."""
    with ScriptedProvider([]) as provider:
        ended = subprocess.run(
            [sys.executable, "-m", "bursar.cli", "agent", "run", "?", "--model", MODELS[0]],
            env=os.environ | provider.environment | server | {"CYCLES_TENANT": "acme"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert provider.requests == []
    assert ended.returncode == code, ended.stderr


def test_a_missing_key_costs_nothing(model: str, tmp_path: Path) -> None:
    """It is told before anything is reserved, as a mistake of whoever typed."""
    words = ["--model", model, "--budget", "1USD", "--session", str(tmp_path / "s.json")]
    with ScriptedProvider([]) as provider:
        addresses = {k: v for k, v in provider.environment.items() if k.endswith("_URL")}
        kept = {k: v for k, v in os.environ.items() if not k.endswith(("_API_KEY", "_AUTH_TOKEN"))}
        ended = subprocess.run(
            [sys.executable, "-m", "bursar.cli", "agent", "run", "?", *words],
            env=kept | addresses,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"{model.partition(':')[0].upper()}_API_KEY" in ended.stderr
    assert list(tmp_path.iterdir()) == []


FINE = ["--model", MODELS[0], "--budget", "1USD"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "gpt-4o", "--budget", "1USD"], "anthropic:NAME or openai:NAME"),
        (["--model", "openai:no-such", "--budget", "1USD"], "no-such"),
        (["--model", MODELS[0]], "--budget is needed"),
        (["--model", MODELS[0], "--budget", "much"], "--budget"),
        (["--model", MODELS[0], "--budget", "1USD", "--tools", "none.py"], "no file none.py"),
        (["--model", MODELS[0], "--budget", "1USD", "--tools", "no_such_module"], "cannot be"),
        (["--model", MODELS[0], "--budget", "1USD", "--session", "x.txt"], ".json"),
        (["--model", MODELS[0], "--budget", "1USD", "--max-turns", "0"], "--max-turns"),
        (["--model", MODELS[0], "--budget", "1000 tokens"], "is not money"),
        (["--model", MODELS[0], "--budget", "0.50"], "an amount of money ends in USD"),
        ([*FINE, "--max-tokens", "9" * 20], "--max-tokens must be from 1 to 100000000"),
        ([*FINE, "--session", "/proc/x.json"], "--session: /proc/x.calls cannot be used: "),
        ([*FINE, "--session", "/dev/null/x.json"], "name a file in a folder that can be written"),
        ([*FINE, "--continue-with", " "], "--continue-with is empty; say what to ask"),
        ([*FINE, "--system", "a\udcffb"], "--system is not UTF-8 at character 1; convert it"),
        (["--model", MODELS[0], "--budget", "1USD", "--session", "a b.json"], "session_id 'a b'"),
    ],
)
def test_what_is_typed_wrongly_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    """One line, exit code 2, nobody was asked, and no file is left behind."""
    monkeypatch.chdir(tmp_path)
    with ScriptedProvider([]) as provider:
        code, out, err = run(provider, "?", *words)
        asked: list[Any] = provider.requests
        assert asked == []
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "PROMPT is empty; say what to ask"),
        (" \n\t", "PROMPT is empty; say what to ask"),
        ("a\udcffb", "PROMPT is not UTF-8 at character 1; convert it first"),
    ],
)
def test_a_prompt_that_says_nothing(prompt: str, said: str) -> None:
    """It is told before anybody is asked."""
    with ScriptedProvider([]) as provider:
        code, out, err = run(provider, prompt, *FINE)
    assert (code, out) == (2, "")
    assert err.startswith(f"bursar: {said}")


def test_a_prompt_for_which_there_is_no_money() -> None:
    """A large one is refused by its budget, and costs nothing."""
    with ScriptedProvider([]) as provider:
        words = ["--model", MODELS[0], "--budget", "0.01USD", "--json"]
        code, out, err = run(provider, "x" * 120_000, *words)
    document = json.loads(out)
    assert (code, document["spent_microcents"]) == (21, 0), err
    assert "MAX_MONEY" in document["detail"]
    assert "raise it, or ask less" in document["detail"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("talk.json", b"", "talk.json is not a session: it is empty; restore it"),
        ("talk.json", b"{", "talk.json is not a session: it is not JSON"),
        ("talk.json", b'{"schema": 2}', "talk.json has schema 2, and this version reads 1"),
        ("talk.json", None, "talk.json cannot be read as a session: Is a directory; name"),
        ("talk.calls", b"what", "talk.calls, line 1: not a line of an agent's calls"),
        ("talk.calls", None, "talk.calls is a directory; name a file"),
        ("talk.ledger", b"what" * 200, "talk.ledger is not a SQLite database"),
    ],
)
def test_a_file_of_a_session_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    """It is named, nobody was asked, and it is as it was."""
    file = tmp_path / name
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with ScriptedProvider([]) as provider:
        code, out, err = run(provider, "?", *FINE, "--session", str(tmp_path / "talk.json"))
        assert provider.requests == []
    assert (code, out) == (2, "")
    assert f"bursar: --session: {tmp_path}/{said}" in err
    assert "Traceback" not in err
    assert file.is_dir() if content is None else file.read_bytes() == content


def test_an_answer_that_cannot_be_shown_costs_no_turn(tmp_path: Path) -> None:
    """A terminal without the letters gets signs in their place; the session has the answer."""
    file = tmp_path / "talk.json"
    with ScriptedProvider([Reply("naïve 日本")]) as provider:
        ascii_only = provider.environment | {"PYTHONIOENCODING": "ascii"}
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "bursar.cli", "agent", "run", "?", *FINE),
                *("--session", str(file)),
            ],
            env=os.environ | ascii_only,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stdout) == (0, "na?ve ??\n"), ended.stderr
    assert "naïve 日本" in file.read_text("utf-8")


def test_a_turn_that_fails_says_what_it_cost() -> None:
    """An answer that broke off was paid for: its line and its JSON say so."""
    words = ["What?", "--model", MODELS[0], "--budget", "1USD"]
    with ScriptedProvider([Reply("one two", breaks_after=1)] * 2) as provider:
        code, _, err = run(provider, *words)
        assert code == 1
        assert "[turn 1] error: 0 tokens in, 0 out, at most $0.000" in err
        code, out, _ = run(provider, *words, "--json")
    document = json.loads(out)
    (turn,) = document["turns"]
    assert (turn["stop_reason"], turn["bound"]) == ("error", True)
    assert turn["spent_microcents"] == document["spent_microcents"] > 60_000


def test_a_session_goes_on_with_another_budget(tmp_path: Path) -> None:
    """A larger one is effective, a smaller one says what is spent."""
    session = ["--model", MODELS[0], "--max-tokens", "50", "--session", str(tmp_path / "s.json")]
    with ScriptedProvider([Reply("yes", input_tokens=1_000)] * 9) as provider:

        def spend(budget: str) -> tuple[int, dict[str, Any]]:
            code, out, err = run(provider, "Hi", *session, "--budget", budget, "--json")
            assert out, err
            return code, json.loads(out)

        assert spend("0.0002USD")[0] == 0
        code, document = spend("0.0002USD")
        assert code == 21, document
        asked = len(provider.requests)
        code, document = spend("0.0001USD")
        assert (code, len(provider.requests)) == (21, asked)
        assert "against a limit of 10000 microcents" in document["detail"]
        code, document = spend("0.0006USD")  # the answer that did not fit is there, and fits now
        assert (code, len(provider.requests)) == (0, asked), document
        assert spend("0.0006USD")[0] == 0
    assert len(provider.requests) == asked + 1
