import os
import resource
import signal
import stat
import subprocess
import sys

import pytest

from fl.errors import BusyError, StorageError
from fl.files import Lock, write_atomic

HOLDER = """
import sys, pathlib, time
from fl.files import Lock
Lock(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "lock"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_holder_of_a_lock_is_named(tmp_path, holder):
    with pytest.raises(BusyError, match=f"lock is held by process {holder.pid}"):
        Lock(tmp_path / "lock").acquire()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()
    with Lock(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_two_locks_in_one_process_exclude_each_other(tmp_path):
    with Lock(tmp_path / "lock"), pytest.raises(BusyError) as caught:
        Lock(tmp_path / "lock", hint="wait").acquire()
    assert caught.value.hint == "wait"
    assert not (tmp_path / "lock").exists()


def test_a_released_lock_can_be_taken_again(tmp_path):
    lock = Lock(tmp_path / "lock")
    for _ in range(2):
        lock.acquire()
        lock.release()
    lock.release()


def test_a_lock_in_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot lock"):
        Lock(tmp_path / "missing" / "lock").acquire()


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "key"
    write_atomic(path, b"a longer first content")
    write_atomic(path, "zweiter ü", mode=0o600)
    assert path.read_text(encoding="utf-8") == "zweiter ü"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "state"
    write_atomic(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))  # as a disk that is full after 1 KiB
    try:
        with pytest.raises(StorageError, match=r"cannot write .*state"):
            write_atomic(path, bytes(4096))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]
