"""Sends a large file to a host: over OpenSSH where the host is reached by it, resumed where it stopped.

pyinfra's own upload has no timeout, starts anew each time, and takes four times as long as ``scp``.
"""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import IO, Any

import gevent
from gevent import subprocess
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from edge.fleet import tools

STALL_S = 60
"""A transfer that moves nothing for so long is given up."""

FAILURE = "fedfleet_failure"
"""Under this key a host remembers why its transfer failed: pyinfra keeps no words of a function."""

CHECK_TIMEOUT_S = 900

HASH = "if command -v openssl >/dev/null; then openssl sha256 -r; else sha256sum; fi"
"""Digest of standard input; OpenSSL's is four times as fast where the processor helps."""


class TransferError(PyinfraError):
    """A file did not arrive whole."""


def send(state: State, host: Host, source: str, sha256: str, size_bytes: int) -> bool:
    """Send a file into the host's blobs.

    Args:
        state: pyinfra's.
        host: To which.
        source: The file here.
        sha256: Its digest, which is its name there.
        size_bytes: Its size.

    Returns:
        True once it is there whole, checked by its digest.

    Raises:
        TransferError: If the connection stalls or breaks, or what arrived is something else.
    """
    try:
        _send(host, source, sha256, size_bytes)
    except TransferError as error:
        host.connector_data[FAILURE] = str(error)
        raise
    return True


def _send(host: Host, source: str, sha256: str, size_bytes: int) -> None:
    target = f"{tools.BLOBS}/{sha256}"
    part = f"{target}.part"
    asked = f"stat -c %s {part} 2>/dev/null || echo 0"
    there = int(_shell(host, asked)[-1])
    if there > size_bytes:
        _shell(host, f"rm -f {part}")
        there = 0
    digest = ""
    if there < size_bytes:
        if type(host.connector).__name__ == "SSHConnector":
            digest = _over_ssh(host, Path(source), part, there)
        elif not host.put_file(source, part, **_privileges(host)):
            raise TransferError(f"could not put {source}")
    fits = f"[ {digest} = {sha256} ]" if digest else f'[ "$({{ {HASH}; }} < {part} | cut -c1-64)" = {sha256} ]'
    # What does not fit its digest is of no use for a resumed transfer either.
    check = f"{fits} && sync {part} && mv {part} {target}"
    output = _shell(host, f"{{ {check}; }} || {{ rm -f {part}; echo mismatch; }}", timeout_s=CHECK_TIMEOUT_S)
    if output and output[-1] == "mismatch":
        raise TransferError(f"{Path(source).name} arrived damaged, with another digest than {sha256[:12]}")


def ssh_words(host: Host) -> list[str]:
    """The ``ssh`` command of a host, from the data that pyinfra connects with."""
    data = host.data
    words = ["ssh", "-T", "-o", "BatchMode=yes"]
    if config := data.get("ssh_config_file"):
        words += ["-F", config]
    for option, value in (
        ("UserKnownHostsFile", data.get("ssh_known_hosts_file")),
        ("StrictHostKeyChecking", data.get("ssh_strict_host_key_checking")),
    ):
        if value:
            words += ["-o", f"{option}={value}"]
    for flag, value in (("-p", data.get("ssh_port")), ("-l", data.get("ssh_user")), ("-i", data.get("ssh_key"))):
        if value:
            words += [flag, str(value)]
    return [*words, "--", data.get("ssh_hostname") or host.name]


def _over_ssh(host: Host, source: Path, part: str, offset: int) -> str:
    """The rest of a file, appended at the host; the digest of all of it, if it all came this time."""
    become = "sudo -n " if host.data.get("_sudo") else ""
    # A whole file is hashed while it arrives; of a resumed one, only the host has the beginning.
    line = f"cat >> {part}" if offset else f"tee {part} | {{ {HASH}; }}"
    with source.open("rb") as file:
        file.seek(offset)
        process = subprocess.Popen(
            [*ssh_words(host), f"{become}sh -c {shlex.quote(line)}"],
            stdin=file,  # no byte goes through Python
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            _watch(process, file, source.name)
            out, err = process.communicate()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        said = err.decode(errors="replace").strip().splitlines()
        raise TransferError(f"{source.name} broke off: {said[-1] if said else f'ssh ended with {process.returncode}'}")
    return "" if offset else out.decode()[:64]


def _watch(process: Any, file: IO[bytes], name: str) -> None:
    """Wait for the end, as long as something moves: the process reads from the very file that we have open."""
    position, moved_s = -1, time.monotonic()
    while process.poll() is None:
        now = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        if now != position:
            position, moved_s = now, time.monotonic()
        elif time.monotonic() - moved_s > STALL_S:
            raise TransferError(f"{name}: nothing moved for {STALL_S} s")
        gevent.sleep(0.05)


def _shell(host: Host, line: str, *, timeout_s: int = 60) -> list[str]:
    ok, output = host.run_shell_command(line, _timeout=timeout_s, **_privileges(host))
    if not ok:
        raise TransferError(output.output.strip().splitlines()[-1] if output.output.strip() else f"{line} failed")
    lines: list[str] = output.stdout_lines
    return lines or [""]


def _privileges(host: Host) -> dict[str, Any]:
    return {"_sudo": True} if host.data.get("_sudo") else {}
