from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.arrays import ArrayFile
from fl.errors import BusyError, JournalError
from fl.flower.folding import folding_for
from fl.rounds import events
from fl.rounds.checkpoint import model_path
from fl.rounds.engine import Engine
from fl.rounds.journal import EVENTS, Journal, Reader, load_config, load_state, read
from tests.fl.rounds.simulator import SiteSimulator, federation, run_config


def make(directory: Path, rounds: int = 2) -> Path:
    """A whole, completed journal."""
    sites, config = SiteSimulator(federation(3)), run_config(rounds, journal={"keep_models": 9})
    with Journal.create(directory, config.to_dict(), clock=sites.time.clock) as journal:
        Engine(journal, config, sites, folding_for(config.strategy)).run()
    return directory


def unfinished(directory: Path) -> Path:
    """A journal whose server was killed after it had asked for the second round."""
    make(directory)
    lines = (directory / EVENTS).read_bytes().splitlines(keepends=True)
    opened = [i for i, line in enumerate(lines) if b'"event":"round_opened"' in line]
    (directory / EVENTS).write_bytes(b"".join(lines[: opened[1] + 1]))
    return directory


def resume(directory: Path, rounds: int = 2) -> bytes:
    sites, config = SiteSimulator(federation(3)), run_config(rounds)
    with Journal(directory, clock=sites.time.clock) as journal:
        Engine(journal, config, sites, folding_for(config.strategy)).run()
    with ArrayFile(model_path(directory, rounds)) as file:
        return file.vector_P.tobytes()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    records = read(make(tmp_path / "run"))
    assert [record.seq for record in records] == list(range(len(records)))
    assert isinstance(records[0].event, events.RunCreated)
    assert isinstance(records[-1].event, events.RunEnded)


def test_every_event_stands_in_the_journal_as_json_with_its_name(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (make(tmp_path / "run") / EVENTS).read_text().splitlines()]
    assert {line["event"] for line in lines} <= set(events.KINDS)
    assert all({"seq", "time", "clock_s", "check"} <= line.keys() for line in lines)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Copies of journals that were made once: ``whole`` or ``unfinished``."""
    home = tmp_path_factory.mktemp("made")
    make(home / "whole")
    unfinished(home / "unfinished")
    return lambda name: Path(shutil.copytree(home / name, tmp_path_factory.mktemp(name) / "run"))


@given(cut=st.integers(min_value=1, max_value=60))
def test_a_torn_tail_is_cut_off_and_said(copied: Callable[[str], Path], cut: int) -> None:
    directory = copied("unfinished")
    whole = (directory / EVENTS).read_bytes()
    before = len(read(directory))
    (directory / EVENTS).write_bytes(whole[:-cut])
    assert len(read(directory)) == before - 1
    with Journal(directory):
        dropped = read(directory)[-1].event
        assert isinstance(dropped, events.TailDropped)
        assert dropped.line == before
    assert resume(directory) == resume(copied("whole"))


def test_a_bit_flip_in_the_last_line_is_a_torn_tail(tmp_path: Path) -> None:
    directory = unfinished(tmp_path / "run")
    content = bytearray((directory / EVENTS).read_bytes())
    content[-40] ^= 1
    (directory / EVENTS).write_bytes(content)
    assert resume(directory) == resume(make(tmp_path / "other"))


@given(place=st.integers(min_value=0, max_value=2**32), bit=st.integers(min_value=0, max_value=7))
def test_a_bit_flip_anywhere_else_is_refused_with_its_line(copied: Callable[[str], Path], place: int, bit: int) -> None:
    directory = copied("whole")
    content = bytearray((directory / EVENTS).read_bytes())
    last_line = content[:-1].rfind(b"\n")
    position = place % last_line  # times stand in the lines, so their lengths differ from run to run
    line = content[:position].count(b"\n") + 1
    content[position] ^= 1 << bit
    (directory / EVENTS).write_bytes(content)
    # A flipped newline joins two lines; a flip in the number of the format is still a damaged line.
    with pytest.raises(JournalError, match=f"line {line} is damaged|of format"):
        Journal(directory)


def test_a_line_that_was_removed_is_noticed(tmp_path: Path) -> None:
    directory = make(tmp_path / "run")
    lines = (directory / EVENTS).read_bytes().splitlines(keepends=True)
    (directory / EVENTS).write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(JournalError, match="line 4 is damaged"):
        Journal(directory)


def test_a_journal_of_a_newer_format_is_refused_with_the_version_to_install(tmp_path: Path) -> None:
    directory = make(tmp_path / "run")
    lines = (directory / EVENTS).read_text().splitlines(keepends=True)
    first = json.loads(lines[0]) | {"format": 9, "fedfleet": "7.0"}
    (directory / EVENTS).write_text(json.dumps(first) + "\n" + "".join(lines[1:]))
    with pytest.raises(JournalError, match="format 9") as caught:
        read(directory)
    assert caught.value.hint == "install fedfleet 7.0 or newer"


def _hold(directory: Path, held: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with Journal(directory):
        held.set()
        done.wait(30)


def test_two_writers_on_one_journal_are_refused(tmp_path: Path) -> None:
    directory = unfinished(tmp_path / "run")
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    writer = context.Process(target=_hold, args=(directory, held, done))
    writer.start()
    try:
        assert held.wait(30)
        with pytest.raises(BusyError, match=f"held by process {writer.pid}"):
            Journal(directory)
        assert read(directory)  # readers are welcome
    finally:
        done.set()
        writer.join(30)
    Journal(directory).close()


def test_the_lock_file_of_a_dead_process_does_not_hold_anybody_up(tmp_path: Path) -> None:
    directory = unfinished(tmp_path / "run")
    (directory / "lock").write_text("999999\n")
    with Journal(directory) as journal:
        assert journal.state.committed_rounds == 1


def test_a_directory_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="is not a journal"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="is not a journal"):
        read(tmp_path)


def test_a_new_run_does_not_write_over_something(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(JournalError, match="is not empty"):
        Journal.create(tmp_path, run_config().to_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_configuration_that_was_changed_after_the_start_is_refused(tmp_path: Path) -> None:
    directory = make(tmp_path / "run")
    path = directory / "config.json"
    assert load_config(directory)["run"]["seed"] == 5
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    with pytest.raises(JournalError, match="was changed after the run began"):
        load_config(directory)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    directory = unfinished(tmp_path / "run")
    path = model_path(directory, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 16
    path.write_bytes(content)
    with pytest.raises(JournalError, match=f"the checkpoint {path} is damaged: its digest") as caught:
        resume(directory)
    assert str(model_path(directory, 0)) in str(caught.value.hint)


def test_a_missing_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    directory = unfinished(tmp_path / "run")
    model_path(directory, 1).unlink()
    with pytest.raises(JournalError, match=r"model\.safetensors is damaged: it is missing"):
        resume(directory)


def test_a_damaged_update_is_asked_for_again_and_the_model_is_the_same(tmp_path: Path) -> None:
    whole = resume(make(tmp_path / "whole"))
    directory = tmp_path / "run"
    sites, config = SiteSimulator(federation(3)), run_config(2, journal={"keep_updates": True})
    with Journal.create(directory, config.to_dict(), clock=sites.time.clock) as journal:
        Engine(journal, config, sites, folding_for(config.strategy)).run()
    lines = (directory / EVENTS).read_bytes().splitlines(keepends=True)
    closed = [i for i, line in enumerate(lines) if b'"event":"round_closed"' in line]
    (directory / EVENTS).write_bytes(b"".join(lines[: closed[1] + 1]))
    path = directory / "rounds/0002/update-site-2.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    sites = SiteSimulator(federation(3))
    with Journal(directory, clock=sites.time.clock) as journal:
        Engine(journal, config, sites, folding_for(config.strategy)).run()
    assert [name for name, site in sites.sites.items() if site.asked] == ["site-2"]
    with ArrayFile(model_path(directory, 2)) as file:
        assert file.vector_P.tobytes() == whole


def test_a_reader_sees_new_lines_as_they_come(tmp_path: Path) -> None:
    directory = unfinished(tmp_path / "run")
    reader = Reader(directory)
    seen = len(reader.more())
    assert reader.more() == []
    with Journal(directory) as journal:
        journal.append(events.RunStarted(pid=1, host="here"))
        (record,) = reader.more()
    assert record.seq == seen


def test_the_state_of_a_run_that_is_being_written_can_be_read(tmp_path: Path) -> None:
    state = load_state(unfinished(tmp_path / "run"))
    assert state.status == "running"
    assert state.committed_rounds == 1
    assert state.rounds[2].current
