"""A bad line, packet by packet: a network namespace for the site, and a TUN device on each side of it.

This process carries the packets across, and loses, delays and throttles them as it is told. So the kernel's TCP at
both ends sees a real line, without netem. Needs root, ``ip`` and ``/dev/net/tun``.
"""

import contextlib
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time

import pytest

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
QUEUE_S = 2.0  # what a router keeps when more comes than the line takes; the rest is lost


def why_not():
    """Why it cannot work here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not shutil.which("ip"):
        return "needs ip (iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    return ""


needs_namespaces = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")


class Wire:
    """The line between this machine and a site's namespace.

    Args:
        loss: Part of the packets that is lost, each way.
        delay_s: Of each packet, each way.
        bits_per_s: Of the line, each way; ``None`` has no bound.
        seed: Of what is lost.

    Attributes:
        here: The address of this machine's end: where the gateway listens.
        namespace: The site's; prefix its commands with ``prefix``.
        up_bytes: Bytes of packets that the site sent into the line.
    """

    def __init__(self, *, loss=0.0, delay_s=0.0, bits_per_s=None, seed=1):
        self.loss, self.delay_s, self.bits_per_s = loss, delay_s, bits_per_s
        self.is_cut = False
        self.up_bytes = self.lost = 0
        number = os.getpid() % 250 + 1
        self.namespace = f"fl{os.getpid()}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self._random = random.Random(seed)

    @property
    def prefix(self):
        return ("ip", "netns", "exec", self.namespace)

    def __enter__(self):
        with contextlib.ExitStack() as ends:
            _ip("netns", "add", self.namespace)
            ends.callback(_ip, "netns", "del", self.namespace)
            names = f"fl{os.getpid() % 100_000}a", f"fl{os.getpid() % 100_000}b"
            self._fds = [_tun(name) for name in names]
            for fd in self._fds:
                ends.callback(os.close, fd)
            _ip("link", "set", names[1], "netns", self.namespace)
            _ip("addr", "add", f"{self.here}/30", "dev", names[0])
            _ip("link", "set", names[0], "up")
            inside = ("-n", self.namespace)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "addr", "add", f"{self.there}/30", "dev", names[1])
            _ip(*inside, "link", "set", names[1], "up")
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._carry, daemon=True)
            self._thread.start()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._ends.close()

    def cut(self):
        """Lose everything from now on."""
        self.is_cut = True

    def mend(self):
        """Lose no more than before."""
        self.is_cut = False

    def _carry(self):
        waiting, number = [], 0
        free_at = [0.0, 0.0]  # when the line takes the next packet, each way
        while not self._stop.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, fd, packet = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    os.write(fd, packet)
            pause_s = min(0.1, max(0.0, waiting[0][0] - now)) if waiting else 0.1
            ready, _, _ = select.select(self._fds, [], [], pause_s)
            now = time.monotonic()
            for fd in ready:
                packet = os.read(fd, 65536)
                way = self._fds.index(fd)
                if way == 1:
                    self.up_bytes += len(packet)
                if self.is_cut or self._random.random() < self.loss:
                    self.lost += 1
                    continue
                leaves_at = max(now, free_at[way])
                if self.bits_per_s:
                    if leaves_at - now > QUEUE_S:
                        self.lost += 1
                        continue
                    leaves_at += len(packet) * 8 / self.bits_per_s
                free_at[way] = leaves_at
                number += 1
                heapq.heappush(waiting, (leaves_at + self.delay_s, number, self._fds[1 - way], packet))


def _tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
