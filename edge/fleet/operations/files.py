"""Files on a host: small ones through standard input, large ones resumed where they stopped."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.release import Blobs
from edge.fleet.facts.system import FileOf
from edge.fleet.operations.command import Commands, command, look
from edge.fleet.transfer import send


@operation()
def text(path: str, content: str, mode: str = "644") -> Commands:
    """A file with this content, replaced as a whole.

    Args:
        path: Where.
        content: What, with a newline at its end.
        mode: Permissions, in octal.
    """
    state = look(FileOf, path=path)
    if state and state.sha256 == hashlib.sha256(content.encode()).hexdigest() and state.mode == mode:
        host.noop(f"{path} is as wanted")
        return
    file, part = shlex.quote(path), shlex.quote(f"{path}.part")
    folder = shlex.quote(str(PurePosixPath(path).parent))
    written = f"umask 077 && mkdir -p -m 755 {folder} && cat > {part} && chmod {mode} {part} && sync {part}"
    yield command(f"{written} && mv {part} {file}", timeout_s=60, stdin=content)


@operation()
def absent(path: str) -> Commands:
    """No such file or directory."""
    if look(FileOf, path=path) is None:
        host.noop(f"{path} is not there")
        return
    yield command(f"rm -rf {shlex.quote(path)}", timeout_s=120)


@operation()
def blobs(sources: Mapping[str, tuple[str, int]]) -> Commands:
    """Files of the bundle on the host, each under its digest; what is there does not travel, a part of one goes on.

    Args:
        sources: The file here and its size, by its digest. The host checks the digest when all of it has arrived.
    """
    there = look(Blobs)
    missing = [sha256 for sha256, (_, size_bytes) in sources.items() if there.get(sha256) != size_bytes]
    if not missing:
        host.noop("all files of the bundle are there")
        return
    yield command(f"mkdir -p -m 755 {tools.BLOBS}", timeout_s=30)
    for sha256 in missing:
        source, size_bytes = sources[sha256]
        yield FunctionCommand(send, (source, sha256, size_bytes), {})


@operation()
def pruned(keep: tuple[str, ...]) -> Commands:
    """No blobs but these; those that came in part and are not wanted any more go, too."""
    gone = sorted(name for name in look(Blobs) if name.partition(".")[0] not in keep)
    if not gone:
        host.noop("no blob is left over")
        return
    yield command(f"cd {tools.BLOBS} && rm -f -- {' '.join(map(shlex.quote, gone))}", timeout_s=120)
