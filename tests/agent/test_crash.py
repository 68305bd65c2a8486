"""A process that is killed: what was told is there, and nothing is there twice."""

import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bursar.agent import list_sessions, load_session

TURNS, KILLS_MIN = 100, 4
PROGRAM = """
    import itertools, sys
    from bursar.agent import QueryEngine, QueryEngineConfig, SessionNotFoundError
    from bursar.testing.models import ScriptedModel
    from bursar.testing.providers.script import Reply
    turns, folder, asks = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "model"
    model = ScriptedModel(itertools.repeat(Reply("so be it"))) if asks else None
    config = QueryEngineConfig(max_turns=turns, max_budget_tokens=None)
    try:
        engine = QueryEngine.from_saved_session("s", folder, config=config, model=model)
    except SessionNotFoundError:
        engine = QueryEngine(config, model, session_id="s", save_to=folder)
    while (number := engine.state.turns_committed) < turns:
        # The turn before is submitted again, as after a crash: it must not commit twice.
        for turn in (number - 1, number) if number else (number,):
            result = engine.submit_message(f"prompt {turn}", turn_id=f"turn {turn}")
            print(turn, result.stop_reason, flush=True)
"""


@pytest.mark.parametrize("kind", ["none", "model"])
def test_a_session_survives_being_killed(tmp_path: Path, kind: str) -> None:
    """A hundred turns, killed at random: each was committed once, and no told one is lost."""
    drawn = random.Random(kind)
    told: set[int] = set()
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(TURNS), str(tmp_path), kind]
    kills = 0
    for _ in range(200):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(drawn.randrange(60)):
                if not (line := process.stdout.readline()):
                    break
                number, reason = line.split()
                assert reason == "completed"
                told.add(int(number))
            process.kill()
            process.stdout.read()
        kills += process.returncode == -signal.SIGKILL
        if list_sessions(tmp_path):
            state = load_session("s", tmp_path).state
            ids = [int(turn.turn_id.split()[1]) for turn in state.turns]
            assert ids == list(range(state.turns_committed))
            assert told <= set(ids)
            if state.turns_committed == TURNS:
                break
    assert load_session("s", tmp_path).state.turns_committed == TURNS
    assert kills >= KILLS_MIN
    assert {path.name for path in tmp_path.iterdir()} <= {"s.json", ".saving-s.json"}
