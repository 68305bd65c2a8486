"""Sessions on disk: whole files, known revisions, names that are only names."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from agent import models
from bursar.agent import (
    PermissionDenial,
    QueryEngine,
    QueryEngineConfig,
    SessionConflictError,
    SessionDeleteError,
    SessionFormatError,
    SessionIdError,
    SessionNotFoundError,
    SessionSaveError,
    TurnMismatchError,
    UsageSummary,
    delete_session,
    list_sessions,
    load_session,
)
from bursar.agent.calls import FileCalls
from bursar.agent.ports import Message, Role, ToolCall, ToolResult
from bursar.agent.session_format import decode_session, encode_session
from bursar.agent.sessions import save_session
from bursar.agent.state import SessionState, TurnRecord
from bursar.money import Unpriced

FULL = SessionState(
    session_id="s-1",
    messages=("hello", "wörld\n\u2028"),
    transcript=("hello",),
    denials=(PermissionDenial("bash", "no"),),
    usage=UsageSummary(3, 4, exact=False),
    turns_committed=7,
    turns=(
        TurnRecord("t1", "out", 1, 2, 5),
        TurnRecord(
            "t2",
            "out",
            1,
            2,
            Unpriced("nobody told"),
            (
                Message(Role.USER, "hello"),
                Message(Role.ASSISTANT, "", (ToolCall("c1", "read", '{"a": 1}', "key"),)),
                Message(Role.TOOL, "", (), (ToolResult("c1", "read", "x", True, "denied"),)),
            ),
        ),
    ),
    spent_microcents=Unpriced("nobody told"),
    wall_ms=12,
    flushed=True,
)


def test_format_keeps_everything() -> None:
    """What is written is what is read, unknown costs and conversations included."""
    assert decode_session(encode_session(FULL, 3), "here") == (FULL, 3)


TURN = {"id": "t", "output": "", "input": 0, "tokens": 0, "spent": 0, "messages": []}
SAID = {"role": "assistant", "text": "", "calls": [["c", "n", 5, None]], "results": []}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 2}, "schema 2, and this version reads 1: use the version"),
        ({"schema": None}, "schema None"),
        ({"revision": "3"}, "revision must be a whole number from 0"),
        ({"session_id": 5}, "session_id must be text"),
        ({"turns_committed": True}, "turns_committed must be a whole number"),
        ({"turns_committed": -1}, "turns_committed must be a whole number"),
        ({"spent": 2**63}, "spent must be a whole number from 0 to 9223372036854775807"),
        ({"spent": []}, "spent must be a whole number"),
        ({"wall_ms": float("nan")}, "wall_ms must be a whole number"),
        ({"usage": None}, "usage must be an object"),
        ({"usage": {}}, "usage.input must be there, and is missing"),
        ({"usage": {"input": 1, "output": 1, "exact": 1}}, "usage.exact must be true or false"),
        ({"messages": "abc"}, "messages must be a list"),
        ({"messages": [1]}, r"messages\[0\] must be text"),
        ({"turns": [{}]}, r"turns\[0\].id must be there"),
        ({"turns": [TURN | {"messages": [{"role": "king"}]}]}, "role must be one of user, assist"),
        ({"turns": [TURN | {"messages": [SAID]}]}, r"calls\[0\]\[2\] must be text; restore it"),
        ({"denials": [["one"]]}, r"denials\[0\] must be a list of tool_name, reason"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    """The error says which file and which field."""
    document = json.loads(encode_session(FULL, 3)) | change
    (tmp_path / "s-1.json").write_text(json.dumps(document))
    with pytest.raises(SessionFormatError, match=named) as caught:
        load_session("s-1", tmp_path)
    assert "s-1.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', "[" * 100_000, "\x00"])
def test_what_is_no_session(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, the error is ours."""
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SessionFormatError, match=r"s\.json"):
        load_session("s", tmp_path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A directory in the place of the file, or a file in the place of its folder; both stay."""
    (tmp_path / "s.json").mkdir()
    with pytest.raises(
        SessionFormatError, match=r"s\.json cannot be read .*: Is a directory; name"
    ):
        load_session("s", tmp_path)
    with pytest.raises(SessionSaveError, match="one that can be written") as caught:
        QueryEngine(session_id="s", save_to=tmp_path).submit_message("hello")
    assert caught.value.filename == str(tmp_path / "s.json")
    assert list_sessions(tmp_path) == ["s"]
    (tmp_path / "file").touch()
    with pytest.raises(SessionFormatError, match=r"s\.json cannot be read .*: Not a directory"):
        load_session("s", tmp_path / "file")


def test_a_file_system_that_cannot_be_written(tmp_path: Path) -> None:
    """The turn is refused with our error, also for root; the engine stays as it was."""
    engine = QueryEngine(session_id="s", save_to="/proc/bursar")
    with pytest.raises(SessionSaveError, match="session 's' is not saved"):
        engine.submit_message("hello")
    assert engine.state.turns_committed == 0
    with pytest.raises(OSError, match=r"s\.calls cannot be used: .*; name a file in a folder"):
        FileCalls("/proc/bursar/s.calls")


@pytest.mark.parametrize("content", [b"", b"not JSON", b'{"schema": 2}'])
def test_a_file_that_is_no_session_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the place of a new session stays, and the turn is refused."""
    file = tmp_path / "s.json"
    file.write_bytes(content)
    engine = QueryEngine(session_id="s", save_to=tmp_path)
    with pytest.raises(SessionFormatError, match=r"s\.json"):
        engine.submit_message("hello")
    assert file.read_bytes() == content
    assert engine.state.turns_committed == 0
    assert os.listdir(tmp_path) == ["s.json"]


def test_half_a_surrogate_pair_is_saved(tmp_path: Path) -> None:
    """A name of a file may have one; the file stays UTF-8, and gives back what was written."""
    QueryEngine(session_id="s", save_to=tmp_path).submit_message("a\udcffb")
    (tmp_path / "s.json").read_bytes().decode()
    assert load_session("s", tmp_path).messages == ("a\udcffb",)


def test_a_renamed_file_is_not_another_session(tmp_path: Path) -> None:
    """A file holds the session that it is named after."""
    save_session(FULL, tmp_path, revision=0)
    os.rename(tmp_path / "s-1.json", tmp_path / "other.json")
    with pytest.raises(SessionFormatError, match="s-1"):
        load_session("other", tmp_path)


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        ".",
        "..",
        "../x",
        "../../x",
        "a/b",
        "a\\b",
        "a b",
        ".hidden",
        "-x",
        "é",
        "a\n",
        "a" * 129,
    ],
)
def test_ids_name_no_place(tmp_path: Path, session_id: str) -> None:
    """No id leads out of the directory, into a hidden file, or past a name's length."""
    for use in (load_session, delete_session):
        with pytest.raises(SessionIdError, match="session_id"):
            use(session_id, tmp_path)
    if session_id:
        with pytest.raises(SessionIdError):
            QueryEngine(session_id=session_id)


@pytest.mark.parametrize("session_id", ["a", "a.b", "A-1_2.json", "0" * 128])
def test_ids_that_are_fine(tmp_path: Path, session_id: str) -> None:
    """Letters, digits, dots, dashes and underscores."""
    QueryEngine(session_id=session_id).persist_session(tmp_path)
    assert load_session(session_id, directory=tmp_path).session_id == session_id
    assert list_sessions(tmp_path) == [session_id]


def test_missing_session_is_a_key_error(tmp_path: Path) -> None:
    """The message says where was looked."""
    with pytest.raises(SessionNotFoundError, match="nothing") as caught:
        load_session("nothing", directory=tmp_path)
    assert isinstance(caught.value, KeyError)
    assert str(tmp_path) in str(caught.value)


def test_listing(tmp_path: Path) -> None:
    """Ids, sorted; other files and a missing directory are nothing."""
    assert list_sessions(tmp_path / "missing") == []
    for name in ("b", "a"):
        QueryEngine(session_id=name).persist_session(tmp_path)
    (tmp_path / "note.txt").touch()
    (tmp_path / ".tmp-x.json").touch()
    assert list_sessions(tmp_path) == ["a", "b"]


def test_deleting(tmp_path: Path) -> None:
    """It says whether there was one; a second time there is none."""
    QueryEngine(session_id="a").persist_session(tmp_path)
    assert delete_session("a", tmp_path)
    assert not delete_session("a", tmp_path)
    assert not delete_session("a", tmp_path / "missing")


def test_what_cannot_be_deleted_is_an_error(tmp_path: Path) -> None:
    """A failure is never `there was none`."""
    (tmp_path / "a.json").mkdir()
    with pytest.raises(SessionDeleteError, match="stays"):
        delete_session("a", tmp_path)


def test_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory all of them look in the same place."""
    monkeypatch.chdir(tmp_path)
    engine = QueryEngine()
    path = engine.persist_session()
    assert Path(path).resolve().is_relative_to(tmp_path.resolve())
    assert list_sessions() == [engine.session_id]
    assert load_session(engine.session_id).messages == ()
    assert delete_session(engine.session_id)


def test_saving_again_goes_on(tmp_path: Path) -> None:
    """An engine knows what it saved."""
    engine = QueryEngine()
    for number in (1, 2, 3):
        engine.submit_message("hello")
        engine.persist_session(tmp_path)
        assert load_session(engine.session_id, directory=tmp_path).revision == number


def test_two_savers_conflict(tmp_path: Path) -> None:
    """The second of two engines that went on from one revision is refused, and told."""
    QueryEngine(session_id="s").persist_session(tmp_path)
    first = QueryEngine.from_saved_session("s", tmp_path)
    second = QueryEngine.from_saved_session("s", tmp_path)
    first.submit_message("mine")
    with pytest.raises(SessionConflictError, match="revision 2, not 1"):
        second.submit_message("yours")
    assert second.mutable_messages == []
    assert load_session("s", directory=tmp_path).messages == ("mine",)


def test_savers_at_the_same_time(tmp_path: Path) -> None:
    """Of many threads with one revision exactly one wins, and no temporary file is left."""
    wins: list[int] = []
    start = threading.Barrier(8)

    def save(number: int) -> None:
        engine = QueryEngine(session_id="s", save_to=tmp_path)
        start.wait()
        try:
            engine.submit_message(f"from {number}")
        except SessionConflictError:
            return
        wins.append(number)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert load_session("s", directory=tmp_path).messages == (f"from {wins[0]}",)
    assert os.listdir(tmp_path) == ["s.json"]


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    """The turn fails with our error, the session and its file are as they were."""
    (tmp_path / "file").touch()
    engine = QueryEngine(save_to=tmp_path / "file" / "below")
    with pytest.raises(SessionSaveError, match="is not saved"):
        engine.submit_message("hello")
    assert engine.state.turns_committed == 0
    with pytest.raises(SessionSaveError):
        engine.submit_message("the engine is not stuck")


def test_every_turn_is_saved_before_it_is_returned(tmp_path: Path) -> None:
    """With `save_to`, the file has what the caller was told."""
    engine = QueryEngine(QueryEngineConfig(max_turns=3), save_to=tmp_path)
    for number in range(1, 4):
        engine.submit_message(f"turn {number}")
        stored = load_session(engine.session_id, directory=tmp_path)
        assert stored.state == engine.state
        assert stored.revision == number
    engine.submit_message("refused")
    assert load_session(engine.session_id, directory=tmp_path).revision == 3


def test_going_on_with_a_session(tmp_path: Path) -> None:
    """Counters, denials, committed turns and limits go on where they were."""
    engine = QueryEngine(QueryEngineConfig(max_turns=2), save_to=tmp_path)
    engine.submit_message("one", denied_tools=(PermissionDenial("bash", "no"),), turn_id="t1")
    again = QueryEngine.from_saved_session(
        engine.session_id, tmp_path, config=QueryEngineConfig(max_turns=2)
    )
    assert again.state == engine.state
    assert again.transcript_store.flushed
    assert again.submit_message("two").stop_reason == "completed"
    assert again.submit_message("three").stop_reason == "max_turns_reached"
    assert again.state.turns[0].turn_id == "t1"


def test_directory_is_private(tmp_path: Path) -> None:
    """What an agent talked about is nobody else's."""
    engine = QueryEngine(save_to=tmp_path / "new")
    engine.submit_message("hello")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert (tmp_path / "new" / f"{engine.session_id}.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("asks", [False, True])
def test_a_named_turn_is_its_prompt(tmp_path: Path, asks: bool) -> None:
    """The id of a committed turn with another prompt is refused, also after a restart."""
    model = models.saying() if asks else None
    options: dict[str, Any] = {"session_id": "s", "save_to": tmp_path}
    QueryEngine(None, model, **options).submit_message("Sort the inbox.", turn_id="monday")
    again = QueryEngine.from_saved_session("s", tmp_path, model=model)
    with pytest.raises(TurnMismatchError, match="another turn_id"):
        again.submit_message("Delete everything.", turn_id="monday")
    assert "committed before" in again.submit_message("Sort the inbox.", turn_id="monday").detail
    assert again.submit_message("Delete everything.", turn_id="tuesday").stop_reason == "completed"
