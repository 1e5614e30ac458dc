"""Sends a large file to a host: over OpenSSH where the host is reached by it, resumed where it stopped.

pyinfra's own upload has no timeout, starts anew each time, and takes four times as long as ``scp``.
"""

from __future__ import annotations

import base64
import functools
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


SMALL_BYTES = 48 << 10
"""What goes into a command line: a manifest is not worth a connection of its own."""

AES_COUNT = "grep -cwm1 aes /proc/cpuinfo 2>/dev/null || true"
"""1 where the processor computes AES."""


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
    if size_bytes <= SMALL_BYTES:
        text = base64.b64encode(Path(source).read_bytes()).decode()
        _shell(host, f"echo {text} | base64 -d > {part}")
        return _keep(host, part, target, sha256)
    has_aes, size = _shell(host, f"{AES_COUNT}; stat -c %s {part} 2>/dev/null || echo 0")[-2:]
    there = int(size)
    if there > size_bytes:
        _shell(host, f"rm -f {part}")
        there = 0
    digest = ""
    if there < size_bytes:
        if type(host.connector).__name__ == "SSHConnector":
            digest = _over_ssh(host, Path(source), part, there, has_aes=int(has_aes) > 0)
        elif not host.put_file(source, part, **_privileges(host)):
            raise TransferError(f"could not put {source}")
    return _keep(host, part, target, sha256, digest)


def _keep(host: Host, part: str, target: str, sha256: str, digest: str = "") -> None:
    """Give what arrived its name, if it is what it shall be."""
    fits = f"[ {digest} = {sha256} ]" if digest else f'[ "$({{ {HASH}; }} < {part} | cut -c1-64)" = {sha256} ]'
    # What does not fit its digest is of no use for a resumed transfer either.
    check = f"{fits} && sync {part} && mv {part} {target}"
    output = _shell(host, f"{{ {check}; }} || {{ rm -f {part}; echo mismatch; }}", timeout_s=CHECK_TIMEOUT_S)
    if output and output[-1] == "mismatch":
        raise TransferError(f"{Path(target).name} arrived damaged, with another digest than {sha256[:12]}")


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


@functools.cache
def _faster_cipher(*words: str) -> tuple[str, ...]:
    """Options that put AES-GCM before the ciphers that OpenSSH would take, among those that its configuration allows.

    OpenSSH prefers ChaCha20, which costs several times as much where both processors compute AES.
    """
    if subprocess.run(["sh", "-c", AES_COUNT], capture_output=True, check=False).stdout.strip() != b"1":
        return ()
    found = subprocess.run([words[0], "-G", *words[1:]], capture_output=True, text=True, check=False).stdout
    allowed = next((line.split()[1] for line in found.splitlines() if line.startswith("ciphers ")), "")
    ciphers = sorted(filter(None, allowed.split(",")), key=lambda name: "-gcm@" not in name)
    return ("-o", f"Ciphers={','.join(ciphers)}") if ciphers else ()


def _over_ssh(host: Host, source: Path, part: str, offset: int, *, has_aes: bool) -> str:
    """The rest of a file, appended at the host; the digest of all of it, if it all came this time."""
    program, *words = ssh_words(host)
    if has_aes:
        words = [*_faster_cipher(program, *words), *words]
    become = "sudo -n " if host.data.get("_sudo") else ""
    # A whole file is hashed while it arrives; of a resumed one, only the host has the beginning.
    line = f"cat >> {part}" if offset else f"tee {part} | {{ {HASH}; }}"
    with source.open("rb") as file:
        file.seek(offset)
        process = subprocess.Popen(
            [program, *words, f"{become}sh -c {shlex.quote(line)}"],
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
        gevent.sleep(0.02)


def _shell(host: Host, line: str, *, timeout_s: int = 60) -> list[str]:
    ok, output = host.run_shell_command(line, _timeout=timeout_s, **_privileges(host))
    if not ok:
        raise TransferError(output.output.strip().splitlines()[-1] if output.output.strip() else f"{line} failed")
    lines: list[str] = output.stdout_lines
    return lines or [""]


def _privileges(host: Host) -> dict[str, Any]:
    return {"_sudo": True} if host.data.get("_sudo") else {}
