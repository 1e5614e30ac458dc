"""Files that other processes rely on: replaced as a whole or not at all, held by one process at a time."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from fl.errors import BusyError, ConfigError, StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644, sync: bool = True) -> None:
    """Write a file so that every reader, and every crash, finds the old content or the new one.

    The bytes go to a temporary file beside it (``.<name>.<random>.part``), are synced, renamed over ``path``,
    and the directory is synced too, so the content survives a power failure once this returns.

    Args:
        path: The file; its directory must exist.
        data: The content; text is written as UTF-8.
        mode: Permissions of a file that is created or replaced, before the umask.
        sync: Without it the content survives a crash of the process, and not one of the machine.

    Raises:
        StorageError: If the disk is full or refuses; ``path`` is then as it was.
    """
    content = data.encode() if isinstance(data, str) else data
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
        if sync:
            sync_directory(path.parent)
    except OSError as err:
        with contextlib.suppress(OSError):
            part.unlink()
        raise storage_error(path, err) from err


def read_secret(path: Path) -> str:
    """A secret in a file that only its owner can read.

    Raises:
        ConfigError: If it cannot be read, others can read it, or it is empty.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read the secret in {path}: {getattr(err, 'strerror', None) or err}") from err
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    if not text:
        raise ConfigError(f"{path} is empty", hint="write the secret into it")
    return text


def storage_error(path: Path, err: OSError) -> StorageError:
    """The error for a disk that refused to write ``path``, with the room that is left on it."""
    try:
        status = os.statvfs(path.parent)
        left = f", {status.f_bavail * status.f_frsize >> 20} MiB left on that disk"
    except OSError:
        left = ""
    return StorageError(
        f"cannot write {path}: {err.strerror or err}{left}",
        hint="make room there; a run goes on with fl run resume" if err.errno in _FULL else None,
    )


def dated(parent: Path, name: str) -> Path:
    """A directory that does not exist yet, named after this second (UTC) and what is in it."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    directory, number = parent / f"{stamp}-{name}", 1
    while directory.exists():  # two in one second
        number += 1
        directory = parent / f"{stamp}-{name}-{number}"
    return directory


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: after this, files created, renamed or removed in it stay so."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def socket_name(path: Path) -> Iterator[str]:
    """A name for a unix socket to bind or connect to, however long its path is (the kernel takes 107 bytes)."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


class Lock:
    """A file that one process at a time holds, and whose content is that process's number.

    The kernel drops the lock when its holder ends, however it ends, so a file left behind by a crash is taken
    over. Two objects on one path exclude each other even within one process.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Lock(Path(folder) / "lock"):
        ...     pass

    Args:
        path: The lock file; its directory must exist.
        hint: What to do when somebody else holds it, for the error.
    """

    def __init__(self, path: Path, *, hint: str | None = None) -> None:
        self.path = path
        self._hint = hint
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, or fail at once.

        Raises:
            BusyError: If somebody holds it, naming the process.
            StorageError: If the file cannot be created.
        """
        assert self._fd is None, "already held by this object"
        while self._fd is None:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as err:
                raise StorageError(f"cannot lock {self.path}: {err.strerror}") from err
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(fd)
                raise BusyError(f"{self.path} is held by process {holder}", hint=self._hint) from err
            if _is_at(fd, self.path):
                self._fd = fd
            else:  # its last holder removed the file between our open and our flock
                os.close(fd)
        with contextlib.suppress(OSError):  # the number is for people; a full disk must not keep the lock from us
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back and remove its file; nothing happens if it is not held."""
        if self._fd is None:
            return
        # Removed while still held: whoever opened it before finds, once it is locked, that it is gone.
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = None

    def fileno(self) -> int:
        """The open file, for a child that is to hold the lock with us; it must be held."""
        assert self._fd is not None, "not held"
        return self._fd

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one that the path names now."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
