"""The machine under a site: system, disk, memory, clock, network."""

from __future__ import annotations

import dataclasses
import re
import shlex

from pyinfra.api.facts import FactBase


@dataclasses.dataclass(frozen=True, slots=True)
class Os:
    """The operating system."""

    id: str
    version: str
    name: str
    arch: str
    kernel: str


class OsRelease(FactBase[Os | None]):
    """Distribution, architecture and kernel."""

    def command(self) -> str:
        """The file of every modern distribution, then ``uname``."""
        return "cat /etc/os-release 2>/dev/null; uname -m -r"

    def process(self, output: list[str]) -> Os | None:
        """``None`` without the file."""
        keys = dict(line.split("=", 1) for line in output if re.match(r"[A-Z_]+=", line))
        known = {key: " ".join(shlex.split(value)) for key, value in keys.items()}
        kernel, _, arch = output[-1].partition(" ")
        if "ID" not in known:
            return None
        name = known.get("PRETTY_NAME", known["ID"])
        return Os(known["ID"], known.get("VERSION_ID", ""), name, arch, kernel)


class CgroupVersion(FactBase[int | None]):
    """1 or 2; Kubernetes 1.35 and later need 2."""

    def command(self) -> str:
        """The type of the file system."""
        return "stat -fc %T /sys/fs/cgroup 2>/dev/null || true"

    def process(self, output: list[str]) -> int | None:
        """``None`` when nothing is mounted there."""
        return {"cgroup2fs": 2, "tmpfs": 1, "cgroupfs": 1}.get(output[0].strip())


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """The file system of a path."""

    size_mib: int
    free_mib: int
    mount: str


class DiskOf(FactBase[Disk | None]):
    """Size and free room of the file system that a path lies on, or will."""

    def command(self, path: str) -> str:
        """``df`` of the nearest directory that exists."""
        return f'p={shlex.quote(path)}; while [ ! -e "$p" ]; do p=$(dirname "$p"); done; df -Pk "$p"'

    def process(self, output: list[str]) -> Disk | None:
        """From the second line, whose columns POSIX fixes."""
        columns = output[-1].split()
        if len(output) < 2 or len(columns) < 6 or not columns[1].isdigit():
            return None
        return Disk(int(columns[1]) >> 10, int(columns[3]) >> 10, columns[5])


class DiskSpeed(FactBase[float | None]):
    """MiB per second of writes with a sync each, as K3s' database makes them; 16 MiB are written and removed."""

    def command(self, path: str) -> str:
        """``dd`` with ``oflag=dsync``."""
        file = shlex.quote(f"{path}/.fedfleet-speed")
        made = f"mkdir -p {shlex.quote(path)}"
        return f"{made}; LC_ALL=C dd if=/dev/zero of={file} bs=256k count=64 oflag=dsync 2>&1; rm -f {file}"

    def process(self, output: list[str]) -> float | None:
        """From ``16777216 bytes (17 MB, 16 MiB) copied, 0.21 s, 80 MB/s``."""
        for line in output:
            if found := re.match(r"(\d+) bytes.* copied, ([\d.e-]+) s", line):
                return round(int(found[1]) / 2**20 / max(float(found[2]), 1e-6), 1)
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Main memory."""

    total_mib: int
    available_mib: int


class MainMemory(FactBase[Memory | None]):
    """How much memory there is, and how much could be had now."""

    def command(self) -> str:
        """The kernel's own account."""
        return "cat /proc/meminfo"

    def process(self, output: list[str]) -> Memory | None:
        """In KiB there."""
        found = dict(re.findall(r"^(\w+):\s+(\d+)", "\n".join(output), re.MULTILINE))
        if "MemTotal" not in found:
            return None
        return Memory(int(found["MemTotal"]) >> 10, int(found.get("MemAvailable", 0)) >> 10)


@dataclasses.dataclass(frozen=True, slots=True)
class Time:
    """A host's clock."""

    epoch_s: float
    is_synchronised: bool | None


class Clock(FactBase[Time | None]):
    """What time the host has, and whether something keeps it right."""

    def command(self) -> str:
        """``timedatectl`` answers where systemd keeps the time; chrony sets the same flag in the kernel."""
        return "date +%s.%N; timedatectl show -p NTPSynchronized --value 2>/dev/null || echo unknown"

    def process(self, output: list[str]) -> Time | None:
        """``None`` for a ``date`` that cannot say."""
        try:
            epoch_s = float(output[0].replace(".%N", ".0").removesuffix(".N"))
        except ValueError:
            return None
        said = output[1].strip() if len(output) > 1 else "unknown"
        return Time(epoch_s, {"yes": True, "no": False}.get(said))


class Mtu(FactBase[int | None]):
    """Largest packet of the interface that the default route takes."""

    def command(self) -> str:
        """Routes, then links."""
        return "ip -o route show default 2>/dev/null; ip -o link show 2>/dev/null || true"

    def process(self, output: list[str]) -> int | None:
        """``None`` without a default route."""
        device = next((found[1] for line in output if (found := re.match(r"default .*\bdev (\S+)", line))), None)
        for line in output:
            found = re.match(r"\d+: ([^:@]+)(?:@\S+)?: .*\bmtu (\d+)", line)
            if found and found[1] == device:
                return int(found[2])
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class FileState:
    """A file on the host."""

    sha256: str
    mode: str
    owner: str


class FileOf(FactBase[FileState | None]):
    """Digest, mode and owner of a file; ``None`` if there is none."""

    def command(self, path: str) -> str:
        """The digest of a directory is empty."""
        file = shlex.quote(path)
        return f"if [ -e {file} ]; then sha256sum {file} 2>/dev/null || echo -; stat -c '%a %U' {file}; fi"

    def process(self, output: list[str]) -> FileState | None:
        """Two lines."""
        if len(output) < 2:
            return None
        digest = output[0].lstrip("\\").split()[0]
        mode, owner = output[1].split()
        return FileState("" if digest == "-" else digest, mode, owner)


class Units(FactBase[dict[str, str]]):
    """States of systemd units: ``active``, ``inactive``, ``failed``, ``activating``, ``unknown`` and so on."""

    def command(self, names: str) -> str:
        """One word a unit, in the order of ``names`` (separated by blanks); no systemd, no words."""
        units = " ".join(shlex.quote(name) for name in names.split())
        return f"echo {shlex.quote(names)}; systemctl is-active {units} 2>/dev/null || true"

    @staticmethod
    def default() -> dict[str, str]:
        """Nothing known."""
        return {}

    def process(self, output: list[str]) -> dict[str, str]:
        """By name."""
        names = output[0].split()
        states = [line.strip() for line in output[1:]] + ["unknown"] * len(names)
        return dict(zip(names, states, strict=False))


class TextOf(FactBase[str]):
    """Content of a small file; empty if there is none."""

    def command(self, path: str) -> str:
        """Its first 64 KiB."""
        return f"head -c 65536 {shlex.quote(path)} 2>/dev/null || true"

    @staticmethod
    def default() -> str:
        """Nothing."""
        return ""

    def process(self, output: list[str]) -> str:
        """With a newline at its end."""
        return "\n".join(output) + "\n"
