"""The journal on a real disk: private, whole after a crash, shared by processes."""

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import runcycles.journal as official

from bursar.client import journal as journal_module
from bursar.client.journal import Identity, Journal, JournalError, Record, default_directory
from bursar.client.journal_format import file_name, legacy_file_name

URL = "http://h"
WHO = Identity.of(URL, "key", "acme")


def record(reservation_id: str = "rsv_1", key: str = "key-1", **values: Any) -> Record:
    given: dict[str, Any] = {
        "reservation_id": reservation_id,
        "base_url": URL,
        "mode": "commit",
        "commit_body": {"idempotency_key": key},
        "event_fallback_body": {"idempotency_key": key, "metadata": {}},
        "recorded_at_ms": 5,
        "not_before_ms": None,
    }
    return Record(**{**given, **values})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, WHO)


def names(journal: Journal) -> list[str]:
    return sorted(os.listdir(journal.directory))


def put(journal: Journal, name: str, content: Record | bytes) -> Path:
    """Write a file as an earlier client, or a fault, would have left it."""
    journal.directory.mkdir(exist_ok=True)
    path = journal.directory / name
    path.write_bytes(
        content
        if isinstance(content, bytes)
        else json.dumps(
            {"version": 1, **{k: getattr(content, k) for k in Record.__slots__}}
        ).encode()
    )
    return path


def test_what_is_written_is_loaded_and_discarded(journal: Journal) -> None:
    """Write, replace, load in a new process's journal, discard once."""
    first, second = record("rsv_1"), record("rsv_2", not_before_ms=9)
    journal.write(first)
    journal.write(second)
    switched = record("rsv_1", mode="event")
    journal.write(switched)
    loaded = Journal(journal.directory.parent, WHO).load()
    assert {r.reservation_id: r for r in loaded} == {"rsv_1": switched, "rsv_2": second}
    assert journal.discard("rsv_1", "key-1")
    assert not journal.discard("rsv_1", "key-1")
    assert journal.load() == [second]


def test_nothing_to_load_is_nothing(journal: Journal) -> None:
    """No folder yet: no records, nothing to discard or sweep, and none is created."""
    assert journal.load() == []
    assert not journal.discard("rsv_1", "key-1")
    journal.sweep(0)
    assert not journal.directory.exists()


def test_the_default_place_is_everyones() -> None:
    """All SDKs look in the same folder of the user."""
    assert default_directory() == official.default_journal_dir()
    assert Journal(None, WHO).directory == default_directory() / WHO.fingerprint


def test_both_clients_read_each_others_files(journal: Journal) -> None:
    """A program that changes its import finds what its predecessor left, and back."""
    theirs = official.CommitJournal(journal.directory)
    theirs.record(
        official.PendingCommitRecord("rsv_t", URL, "commit", {"idempotency_key": "t"}, None, 7)
    )
    journal.write(record("rsv_o"))
    assert {r.reservation_id for r in journal.load()} == {"rsv_o", "rsv_t"}
    assert {r.reservation_id for r in theirs.load_pending(URL)} == {"rsv_o", "rsv_t"}
    assert journal.discard("rsv_t", "t")
    theirs.discard("rsv_o")
    assert names(journal) == []


def test_another_servers_records_stay(journal: Journal) -> None:
    """A record of another address, or of none, is neither returned nor set aside."""
    put(journal, file_name("rsv_x"), record("rsv_x", base_url="http://other"))
    assert journal.load() == []
    assert names(journal) == [file_name("rsv_x")]


def test_files_are_private_and_folders_above_are_left_alone(tmp_path: Path) -> None:
    """0600 files in a 0700 folder; a folder that the user chose keeps its mode."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    journal = Journal(shared, WHO)
    journal.directory.mkdir()
    journal.directory.chmod(0o755)
    old = os.umask(0)
    try:
        journal.write(record())
    finally:
        os.umask(old)
    (name,) = names(journal)
    modes = [path.stat().st_mode & 0o777 for path in (shared, journal.directory)]
    assert modes == [0o755, 0o700]
    assert (journal.directory / name).stat().st_mode & 0o777 == 0o600


def test_the_key_is_nowhere_on_disk(tmp_path: Path) -> None:
    """Neither in a name nor in a file."""
    journal = Journal(tmp_path, Identity.of(URL, "cyc_secret"))
    journal.write(record())
    assert not any("cyc_secret" in str(path) for path in tmp_path.rglob("*"))
    assert not any(b"cyc_secret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_file_and_folder_are_synced_in_order(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content first, then the name, then the folder: a power cut leaves old or new, not less."""
    seen: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        seen.append("name")
        real_replace(source, target)

    journal.write(record("rsv_0"))
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    journal.write(record())
    assert seen == ["file", "name", "folder"]


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
def test_a_failed_write_leaves_what_was_there(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The caller is told with place and fix, the older record stays, nothing is left over."""
    journal.write(record())

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, step, fail)
        with pytest.raises(JournalError, match="No space left on device") as caught:
            journal.write(record(mode="event"))
    assert str(journal.directory) in str(caught.value)
    assert "journal_dir" in str(caught.value)
    assert names(journal) == [file_name("rsv_1")]
    assert journal.load() == [record()]


@pytest.mark.parametrize(
    "unfit",
    [
        record(commit_body={}),
        record(commit_body={"idempotency_key": "k", "metadata": object()}),
        record(commit_body={"idempotency_key": "k", "metadata": {"a": float("inf")}}),
        record("\ud800"),
    ],
)
def test_a_record_that_json_cannot_hold_is_refused(journal: Journal, unfit: Record) -> None:
    """One kind of error, which names the reservation."""
    with pytest.raises(JournalError, match="cannot be journaled"):
        journal.write(unfit)
    assert not journal.discard(unfit.reservation_id, "k")


def test_a_place_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    """Every operation says where and what to do."""
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file", WHO)
    for attempt in (lambda: journal.write(record()), journal.load):
        with pytest.raises(JournalError, match="set journal_dir"):
            attempt()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "it is not JSON"),
        (b'{"version": 2, "reservation_id": "rsv_1"}', "this client reads version 1"),
    ],
)
def test_damage_is_set_aside_and_the_rest_loads(
    journal: Journal, caplog: pytest.LogCaptureFixture, content: bytes, why: str
) -> None:
    """The file is kept for people, reported once, and never hides other records."""
    journal.write(record("rsv_ok"))
    for _ in range(2):  # the second must not replace the first
        put(journal, file_name("rsv_1"), content)
        with caplog.at_level(logging.WARNING, "bursar.journal"):
            assert [r.reservation_id for r in journal.load()] == ["rsv_ok"]
    said = [r.getMessage() for r in caplog.records if r.name == "bursar.journal"]
    assert len(said) == 2
    assert all(f"Skipping corrupt journal entry {file_name('rsv_1')}" in m for m in said)
    assert all(why in message for message in said)
    stem = file_name("rsv_1").removesuffix(".json")
    aside = [f"{stem}.corrupt", f"{stem}.1.corrupt"]
    assert names(journal) == sorted([*aside, file_name("rsv_ok")])
    assert all((journal.directory / name).read_bytes() == content for name in aside)


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported and stays, because its content may be fine."""
    (journal.directory / "v2-folder.json").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "bursar.journal"):
        assert journal.load() == []
    assert "Cannot read journal entry v2-folder.json" in caplog.text
    assert names(journal) == ["v2-folder.json"]


def test_old_names_are_migrated(journal: Journal) -> None:
    """A file of an earlier client is renamed, and then discarded like any other."""
    put(journal, legacy_file_name("a/b"), record("a/b"))
    assert [r.reservation_id for r in journal.load()] == ["a/b"]
    assert names(journal) == [file_name("a/b")]
    assert journal.discard("a/b", "key-1")


def test_an_outdated_old_file_goes(journal: Journal) -> None:
    """If the standard file holds the same reservation, that one counts."""
    put(journal, legacy_file_name("a/b"), record("a/b"))
    journal.write(record("a/b", mode="event"))
    assert [r.mode for r in journal.load()] == ["event"]
    assert names(journal) == [file_name("a/b")]


def test_ids_that_once_shared_a_name_stay_distinct(journal: Journal) -> None:
    """Settling one never deletes the file of the other."""
    shared = legacy_file_name("a/b")
    assert shared == legacy_file_name("a?b")
    put(journal, shared, record("a?b"))
    journal.write(record("a/b"))
    assert journal.discard("a/b", "key-1")
    assert names(journal) == [shared]
    assert [r.reservation_id for r in journal.load()] == ["a?b"]
    assert names(journal) == [file_name("a?b")]


def test_an_old_file_can_be_discarded_before_it_is_migrated(journal: Journal) -> None:
    """A settlement that is done is done, whatever its file is called."""
    put(journal, legacy_file_name("a/b"), record("a/b"))
    assert journal.discard("a/b", "key-1")
    assert names(journal) == []


def test_only_the_settlement_that_is_done_is_deleted(journal: Journal) -> None:
    """A file that another process wrote anew, with another key, stays; so does damage."""
    journal.write(record(key="newer"))
    assert not journal.discard("rsv_1", "older")
    assert [r.key for r in journal.load()] == ["newer"]
    put(journal, file_name("rsv_2"), b"{")
    assert not journal.discard("rsv_2", "key-1")
    assert file_name("rsv_2") in names(journal)


def test_leftovers_are_swept_after_an_hour(journal: Journal) -> None:
    """A write in progress is not disturbed; records are never swept."""
    journal.write(record())
    now_s = 1_700_000_000
    for name, age_s in (("old.tmp", 3601), ("fresh.tmp", 3599), (file_name("rsv_1"), 9999)):
        path = journal.directory / name
        path.touch()
        os.utime(path, (now_s - age_s, now_s - age_s))
    journal.sweep(now_s * 1000)
    assert names(journal) == sorted(["fresh.tmp", file_name("rsv_1")])


def test_a_record_that_goes_while_it_is_read_is_no_error(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may settle it between the listing and the reading."""
    journal.write(record("rsv_1"))
    real = os.listdir

    def listing(path: Path) -> list[str]:
        return [*real(path), file_name("rsv_gone")]

    monkeypatch.setattr(journal_module.os, "listdir", listing)
    assert [r.reservation_id for r in journal.load()] == ["rsv_1"]


WORKER = """
import sys
from bursar.client.journal import Identity, Journal, Record
directory, worker = sys.argv[1], sys.argv[2]
journal = Journal(directory, Identity.of("http://h", "key", "acme"))
for n in range(60):
    for name in (f"shared_{n}", f"{worker}_{n}"):
        body = {"idempotency_key": "key-1"}
        journal.write(Record(name, "http://h", "commit", body, None, 5))
    journal.load()
    journal.discard(f"shared_{n}", "key-1")
    journal.discard(f"{worker}_{n}", "other")
"""


def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    """Nothing is lost, torn or reported as damaged while both write, load and discard."""
    journal = Journal(tmp_path, WHO)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), name],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert said == ["", ""]
    left = {r.reservation_id for r in journal.load()}
    assert {f"{name}_{n}" for name in ("one", "two") for n in range(60)} == left
    assert len(names(journal)) == 120


def test_threads_share_a_journal(journal: Journal) -> None:
    """Eight threads that rewrite one record leave one whole file."""
    failed: list[BaseException] = []

    def rewrite(worker: int) -> None:
        try:
            for n in range(20):
                journal.write(record(not_before_ms=worker * 100 + n))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=rewrite, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert names(journal) == [file_name("rsv_1")]
    assert len(journal.load()) == 1


def test_a_rejected_record_is_kept_for_the_operator(journal: Journal) -> None:
    """It is no record any more, for us or the official client, and none replaces another."""
    for _ in range(2):
        journal.write(record("rsv_1"))
        assert not journal.set_aside("rsv_1", "another key")
        assert journal.set_aside("rsv_1", "key-1")
    assert not journal.set_aside("rsv_1", "key-1")
    stem = file_name("rsv_1").removesuffix(".json")
    assert names(journal) == [f"{stem}.1.rejected", f"{stem}.rejected"]
    assert journal.load() == []
    assert official.CommitJournal(journal.directory).load_pending(URL) == []
    stored = json.loads((journal.directory / f"{stem}.rejected").read_bytes())
    assert stored["commit_body"] == {"idempotency_key": "key-1"}
