"""What a task needs of the site's part in secure aggregation, to a pod and back: the runner keeps it, pods borrow it.

A task finds keys, the owner's policy and the ledger in a directory (``fl.rounds.secure_site``). In a pod that is
memory: it gets the files with its message, and what it changed comes back with its answer, before that leaves the site.
So the ledger is durable when the centre hears of it, as it is without pods; a pod that is lost has taught nobody
anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from edge.runner import parcel
from fl.errors import StorageError
from fl.files import write_atomic

LEDGER = "ledger.json"
_RECEIPT = re.compile(r"receipts/[0-9]{1,20}-round-[0-9]{1,9}\.json")
RECEIPTS_KEPT = 100
MOST_BYTES = 16 * 1024 * 1024


def pack(directory: Path, path: Path) -> None:
    """Put the files of a directory into a parcel; receipts stay, a pod has no use for old ones.

    Raises:
        StorageError: If the disk refuses.
    """
    writer = parcel.Writer(path)
    for file in sorted(directory.iterdir()) if directory.is_dir() else ():
        if file.is_file() and not file.name.startswith("."):
            writer.add(file.name, file.read_bytes())
    writer.finish()


def unpack(path: Path, directory: Path) -> dict[str, bytes]:
    """Put a parcel's files into a directory, readable by the owner only, in place of what is there.

    Returns:
        Their digests, for ``changed``.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in directory.rglob("*"):
        if old.is_file():
            old.unlink()
    digests = {}
    for name, content in parcel.read(path):
        write_atomic(directory / Path(name).name, content, mode=0o600, sync=False)
        digests[Path(name).name] = hashlib.sha256(content).digest()
    return digests


def changed(directory: Path, before: Mapping[str, bytes], path: Path) -> bool:
    """Put into a parcel what a task has left in the directory that the runner has to keep: the ledger, receipts.

    Returns:
        Whether there is anything.
    """
    found = {}
    for file in sorted(directory.rglob("*")) if directory.is_dir() else ():
        name = file.relative_to(directory).as_posix()
        if file.is_file() and (name == LEDGER or _RECEIPT.fullmatch(name)):
            content = file.read_bytes()
            if before.get(name) != hashlib.sha256(content).digest():
                found[name] = content
    if not found:
        return False
    writer = parcel.Writer(path)
    for name, content in found.items():
        writer.add(name, content)
    writer.finish()
    return True


def keep(path: Path, directory: Path) -> None:
    """Store durably what a pod brought back; names other than the ledger's and receipts' are refused.

    Raises:
        StorageError: If the disk refuses, or the pod brought what it may not.
    """
    if path.stat().st_size > MOST_BYTES:
        raise StorageError(
            f"a pod brought {path.stat().st_size} bytes of secure aggregation's files, which is too much"
        )
    for name, content in parcel.read(path):
        if name != LEDGER and not _RECEIPT.fullmatch(name):
            raise StorageError(f"a pod brought a file {name[:80]!r} that is none of its own")
        (directory / name).parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(directory / name, content, mode=0o600)
    for old in sorted((directory / "receipts").glob("*.json"))[:-RECEIPTS_KEPT]:
        old.unlink()
