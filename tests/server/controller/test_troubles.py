"""The controller while its store is away or its disk is full: it says one line, waits, and goes on."""

import contextlib
import logging
import os
import subprocess
import threading
import time

import pytest
from sqlalchemy import func, select

from fl.errors import StorageError
from fl.rounds import events
from fl.rounds.journal import load_state
from server import audit
from server.store.places import VARIABLE
from server.store.runs import Reply, Round, Run
from tests.server.controller.test_controller import Play
from tests.server.postgres import PostgresServer, programs

WAIT_S = 30.0


@contextlib.contextmanager
def running(play):
    """The controller as the control room runs it, in a thread, with the real clock."""
    play.new_controller()
    play.controller.now = play.controller.moves.now = time.time
    ended = threading.Event()
    thread = threading.Thread(target=play.controller.run, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wait(until, what):
    deadline = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def said(caplog):
    """What the controller warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def is_complete_and_whole(play, name):
    """A run went to its end as the journal says, and the audit holds."""
    wait(lambda: play.run(name).state == "completed", "the run did not complete")
    with play.store.read() as session:
        rounds = session.scalars(select(Round).order_by(Round.number)).all()
        assert [(row.number, row.state) for row in rounds] == [(1, "committed"), (2, "committed")]
        assert [row.action for row in audit.rows(session)] == ["run.start", "run.start", "run.complete"]
        audit.verify(audit.rows(session))
    assert play.superlink.alive() == []
    assert play.run(name).lives == 1


@pytest.mark.slow
def test_a_run_goes_on_while_postgresql_is_gone_and_its_rounds_are_there_when_it_is_back(tmp_path, monkeypatch, caplog):
    if programs() is None:
        pytest.skip("no PostgreSQL is installed")
    server = PostgresServer()
    try:
        monkeypatch.setenv(VARIABLE, server.database())
        play = Play(tmp_path)
        name = play.submit()
        with running(play):
            wait(lambda: play.run(name).state == "starting", "it was not started")
            app = play.app(name)
            app.round(1)
            wait(lambda: play.run(name).rounds_done == 1, "round 1 was not seen")
            server.stop()
            app.round(2)
            wait(lambda: said(caplog), "nothing was said")
            with pytest.raises(StorageError, match="cannot use PostgreSQL"):
                play.submit()
            time.sleep(2.0)  # several looks
            app.end()
            play.superlink.finish(1, "completed")
            server.start()
            is_complete_and_whole(play, name)
        assert len(list(play.centre.home.runs.iterdir())) == 1  # nothing of the one that could not be submitted
        lines = said(caplog)
        # It was cut off in the middle, could not be reached, and may have been seen while it started: each said once.
        assert len(lines) == len(set(lines)) <= 3, lines
        assert all(line.startswith("cannot use PostgreSQL fedfleet") for line in lines)
        play.centre.close()
    finally:
        server.end()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(argv, capture_output=True).returncode:
        pytest.skip("only root mounts a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Fill a file system to its last block."""
    with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass


def test_a_full_disk_is_said_once_and_a_run_goes_on_and_is_caught_up_with_when_there_is_room(
    small_disk, tmp_path, caplog
):
    play = Play(small_disk)
    (tmp_path / "runs").mkdir()
    (play.centre.home.path / "runs").symlink_to(tmp_path / "runs")  # the journals' disk has room
    name = play.submit()
    with running(play):
        wait(lambda: play.run(name).state == "starting", "it was not started")
        app = play.app(name)
        app.round(1)
        wait(lambda: play.run(name).rounds_done == 1, "round 1 was not seen")
        wait(lambda: play.run(name).state == "running", "it did not begin")  # a write of its own, after the rounds'
        fill(small_disk)
        sites = 0
        while not said(caplog):
            for _ in range(50):  # SQLite has some room in its log; sooner or later it needs more
                sites += 1
                app.journal.append(
                    events.ReplyFailed(
                        round=2, attempt=1, phase="train", site=f"site-{sites}", code="E", reason="", waited_s=0.1
                    )
                )
            time.sleep(0.1)
        time.sleep(1.0)  # several looks
        app.round(2)
        app.end()
        play.superlink.finish(1, "completed")
        assert play.run(name).state == "running"
        (small_disk / "ballast").unlink()
        is_complete_and_whole(play, name)
    (line,) = said(caplog)
    assert line.startswith(f"cannot use {small_disk}/home/store.db: ")
    assert line.endswith(("database or disk is full", "disk I/O error"))
    with play.store.read() as session:
        counted = session.scalar(select(func.count()).select_from(Reply).where(Reply.outcome == "failed"))
        assert counted == sites  # none twice, none left out
    play.centre.close()


@pytest.mark.parametrize("is_store_alone", [False, True])
def test_what_is_asked_for_on_a_full_disk_leaves_neither_a_journal_nor_a_row(small_disk, tmp_path, is_store_alone):
    play = Play(small_disk)
    if is_store_alone:
        (tmp_path / "runs").mkdir()
        (play.centre.home.path / "runs").symlink_to(tmp_path / "runs")
    kept = [play.submit()]
    fill(small_disk)
    with pytest.raises(StorageError):
        kept.extend(play.submit() for _ in range(200))
    (small_disk / "ballast").unlink()
    assert sorted(path.name for path in play.centre.home.runs.iterdir()) == sorted(kept)
    for name in kept:
        assert load_state(play.centre.home.runs / name).status == "created"
    with play.store.read() as session:
        assert sorted(session.scalars(select(Run.name))) == sorted(kept)
        audit.verify(audit.rows(session))
    kept.append(play.submit())
    play.tick()
    assert play.run(kept[0]).state == "starting"
    play.centre.close()
